"""The typed keys: where they come from, and the conversion of values."""

import inspect

import pytest

from flash_pl import ConfigError, FederatedTrainer
from flash_pl.config import compose, read_config
from flash_pl.config.schema import KEYS, SECTIONS, SET_OTHERWISE, Keys, keys_of, options_of
from flash_pl.loops import EvaluationSchedule


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


def test_a_new_parameter_is_a_key_with_type_default_and_help():
    class Trainer(EvaluationSchedule):
        """A class with an option more.

        Args:
            momentum: of the clients'
                optimizer, in [0, 1).
        """

        def __init__(self, momentum: float = 0.5, **options) -> None:
            pass

    options = options_of(Trainer)
    assert (options["momentum"].hint, options["momentum"].default) == (float, 0.5)
    assert options["momentum"].help == "of the clients' optimizer, in [0, 1)."
    assert options["eval_every"] == KEYS["trainer.eval_every"]


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
