"""The init args that are read from source are those of the imported classes."""

import pytest

from flash_pl.config import shipped
from flash_pl.config.docstrings import parameter_help
from flash_pl.config.init_args import REFERRING, find, init_args
from flash_pl.config.ranges import ranges_of
from flash_pl.config.signature import describe, locate, signature

FRAGMENTS = [shipped.fragment(folder, name, folder) for folder in shipped.folders() for name in shipped.names(folder)]
CLASSES = sorted({one["class_path"] for one in FRAGMENTS if one.get("class_path", "").startswith("flash_pl.")})


@pytest.mark.parametrize("class_path", CLASSES)
def test_source_and_signature_agree(class_path):
    read, target = init_args(class_path), locate("key", class_path)
    taken, texts = signature(target).parameters, parameter_help(target)
    assert read.keys() == taken.keys()
    for name, argument in read.items():
        assert (argument.default is None) == taken[name].required
        text = texts.get(name, "")
        assert argument.help == text or text.startswith(REFERRING) and argument.help and "as in" not in argument.help
        if taken[name].hint in (int, float, bool, str, int | None, float | None):
            assert argument.kind == describe(taken[name].hint)


def test_values_that_a_class_accepts_are_read_from_its_checks():
    ranges = {
        name: argument.range.words for name, argument in init_args("flash_pl.data.Digits").items() if argument.range
    }
    assert ranges["validation"] == "in [0, 1)" and ranges["clients"].endswith("or null")
    assert not ranges_of(find("flash_pl.schedulers.Dense").node)


def test_a_class_of_another_package_or_of_nowhere_is_not_read():
    assert init_args("lightning.pytorch.loggers.CSVLogger") == {} == init_args("flash_pl.nowhere.Nothing")
