"""The keys that a resumed run may change, and those that make the experiment."""

import pytest

from flash_pl import ConfigError
from flash_pl.config import arguments_to_go_on, compose, experiment, read_config, refuse_other, to_repeat
from flash_pl.config.keys import KEYS
from flash_pl.config.resume import FREE
from flash_pl.config.shipped import names

FIXED = {"precision", "channels_last", "backend", "compile", "gradient_clip_val", "gradient_clip_algorithm", "lr_delay"}


def test_an_option_is_part_of_the_experiment_unless_it_is_free():
    assert FREE <= KEYS.keys() | {"given"}
    keys = dict(experiment(compose(read_config("jmwst"))))
    assert {key.partition(".")[2] for key in keys if key.startswith("trainer.")} == FIXED
    assert dict(experiment({"data": {}, "trainer": {"new": 1, "eval_every": 2}})) == {"trainer.new": 1}


def test_the_given_values_and_names_of_fragments_do_not_matter():
    saved = to_repeat(read_config("jmwst"), ["lr=0.2"])
    resolved = compose(saved)
    by_class = {key: value for key, value in resolved["scheduler"].items() if key != "name"}
    assert dict(experiment(resolved | {"given": saved["given"]})) == dict(experiment(resolved))
    assert dict(experiment(resolved | {"scheduler": by_class})) == dict(experiment(resolved))


@pytest.mark.parametrize(
    ("data", "is_free"), [("digits", True), ("users_file.Own", False)], ids=["a shipped class", "a user's class"]
)
def test_the_folder_of_shipped_data_is_free(data, is_free):
    config = compose(read_config("jmwst"))
    class_path = config["data"]["class_path"] if is_free else data
    here, there = (
        config | {"data": {"class_path": class_path, "init_args": {"root": root}}} for root in ("/here", "/there")
    )
    if is_free:
        refuse_other(here, there)
    else:
        with pytest.raises(ConfigError) as error:
            refuse_other(here, there)
        assert error.value.key == "data.init_args.root" and "'/here'" in str(error.value)


def test_a_rate_that_falls_over_the_run_belongs_to_its_number_of_rounds():
    there, longer = (compose(read_config("rigl"), [f"rounds={rounds}"]) for rounds in (40, 60))
    with pytest.raises(ConfigError) as error:
        refuse_other(longer, there)
    assert error.value.key.endswith("decay.init_args.rounds")
    refuse_other(compose(read_config("rigl"), ["rounds=60", "scheduler.decay.rounds=30"]), there)


@pytest.mark.parametrize("name", names())
def test_every_shipped_config_goes_on_for_more_rounds(name):
    written = to_repeat(read_config(name), ["data=digits", "rounds=7"])
    longer = compose(written, arguments_to_go_on(written, 14))
    refuse_other(longer, compose(written))
    assert longer["rounds"] == 14


def test_a_given_value_that_follows_rounds_stays():
    written = to_repeat(read_config("jmwst"), ["data=digits", "rounds=8", "lr_horizon=${rounds}"])
    assert arguments_to_go_on(written, 16) == ["rounds=16", "lr_horizon=8"]
