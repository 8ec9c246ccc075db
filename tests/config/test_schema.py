"""The typed keys: where they come from, and the conversion of values."""

import inspect

import pytest

from flash_pl import ConfigError, FederatedTrainer
from flash_pl.config import compose, read_config
from flash_pl.config.declared import declared
from flash_pl.config.docstrings import parameter_help
from flash_pl.config.keys import KEYS, SECTIONS, SET_OTHERWISE, Keys, check_key, keys_of, options_of
from flash_pl.config.signature import locate, signature

PATCHED = {"enable_model_summary": True}  # tests change this default


def composed(*arguments, config="jmwst"):
    return compose(read_config(config), arguments)


def test_keys_are_converted_to_their_types():
    assert composed("lr=1")["lr"] == 1.0 and isinstance(composed("lr=1")["lr"], float)
    assert composed("rounds=${cohort}")["rounds"] == 5
    with pytest.raises(ConfigError) as error:
        composed("rounds=ten")
    assert error.value.key == "rounds" and "'ten'" in str(error.value) and "an integer" in str(error.value)


def test_every_key_has_a_help_text():
    assert not [name for name, key in KEYS.items() if not key.help]


def test_every_parameter_of_the_trainer_is_a_key_or_set_otherwise():
    """A new option of the trainer needs a parameter and a line in its docstring, nothing else."""
    parameters = list(inspect.signature(FederatedTrainer).parameters)
    reachable = {*keys_of("trainer"), *keys_of(""), *SET_OTHERWISE}
    assert set(parameters) <= reachable and set(SET_OTHERWISE) <= set(parameters)
    assert not set(SET_OTHERWISE) & {*keys_of("trainer"), *keys_of("")}


def test_what_the_source_declares_is_what_python_sees():
    """The keys are read without an import: their names, hints, defaults and help texts are those of the classes."""
    for class_path in ("flash_pl.config.keys.Keys", *(path for paths in SECTIONS.values() for path in paths)):
        target = locate("key", class_path)
        assert class_path == f"{target.__module__}.{target.__qualname__}"
        takes, texts = signature(target).parameters, parameter_help(target)
        assert takes.keys() - options_of(class_path).keys() <= {*SET_OTHERWISE, *keys_of("")}
        for name, key in options_of(class_path).items():
            default = PATCHED.get(name, takes[name].default)
            assert (key.hint, key.default) == (takes[name].hint, default), name
            assert len(key.help.split()) == len(texts[name].split())


TRAINER = '''
import not_installed


class Trainer:
    """A class.

    Args:
        momentum: of the clients'
            optimizer, in [0, 1).
    """

    def __init__(self, needed: not_installed.Thing, *, momentum: float | None = 0.5) -> None:
        pass
'''


def test_a_new_parameter_is_a_key_with_type_default_and_help(tmp_path):
    (tmp_path / "mine.py").write_text(TRAINER)
    parameters = declared("mine.Trainer", tmp_path)
    assert list(parameters) == ["needed", "momentum"] and parameters["needed"].default() is None
    momentum = parameters["momentum"]
    assert (momentum.hint(), momentum.default()) == (float | None, 0.5)
    assert momentum.help == "of the clients' optimizer, in [0, 1)."


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("denisty", "denisty"),
        ("trainer.eval_evry", "trainer.eval_evry"),
        ("wire.value.x", "wire.value"),
        ("shceduler.prune_rate", "shceduler"),
    ],
)
def test_a_dotted_name_that_is_no_key_is_refused(name, wrong):
    with pytest.raises(ConfigError) as error:
        check_key(name)
    assert error.value.key == wrong
    for fine in ("density", "trainer", "trainer.eval_every", "scheduler.init_args.prune_rate"):
        check_key(fine)


def test_no_key_is_declared_twice():
    for section, classes in SECTIONS.items():
        names = [name for target in classes for name in options_of(target)]
        assert len(names) == len(set(names)) and names == keys_of(section)


def test_every_default_composes_to_itself():
    config = compose({"scheduler": "pdst", "data": "mnist"})
    for name in keys_of("trainer"):
        assert config["trainer"][name] == KEYS[f"trainer.{name}"].default
    assert set(config) == set(keys_of("")) == set(inspect.signature(Keys).parameters)


def test_a_value_of_the_environment_is_converted(monkeypatch):
    monkeypatch.setenv("TASK", "7")
    assert composed("seed=${oc.env:TASK}", "lr=${oc.env:TASK}")["seed"] == 7
    monkeypatch.setenv("TASK", "many")
    with pytest.raises(ConfigError) as error:
        composed("seed=${oc.env:TASK}")
    assert error.value.key == "seed"
