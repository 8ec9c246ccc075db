"""YAML is read by the core schema of YAML 1.2, and what is written is read back as the same value."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_pl.config import compose, read_config
from flash_pl.config.shipped import read_dotlist, read_yaml
from flash_pl.errors import ConfigError
from flash_pl.yaml12 import dump, load

# Section 10.3.2 of YAML 1.2.2, written out by hand.
PLAIN = {
    "010": 10, "-08": -8, "+1": 1, "0o10": 8, "0x1F": 31, "0": 0,
    ".5": 0.5, "5.": 5.0, "1e3": 1000.0, "1e-3": 0.001, "-1.5E+2": -150.0, "0.10": 0.1, "09.5": 9.5,
    ".inf": math.inf, "-.INF": -math.inf, "+.Inf": math.inf,
    "null": None, "~": None, "Null": None, "": None, "true": True, "FALSE": False,
    "1:30": "1:30", "190:20:30.15": "190:20:30.15", "1_000": "1_000", "1_0.5": "1_0.5", "0b11": "0b11", "0x": "0x",
    "no": "no", "yes": "yes", "on": "on", "Off": "Off", "y": "y", "tRUE": "tRUE", "nUll": "nUll", "0o8": "0o8",
    "2026-01-01": "2026-01-01", "2026-01-01 10:00:00": "2026-01-01 10:00:00", "inf": "inf", "nan": "nan",
    "1e": "1e", ".": ".", "=": "=", "'010'": "010", '"no"': "no", "!!str 8": "8",
}  # fmt: skip

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.from_regex(r"[-+]?(0[xob])?[0-9_.:]{1,6}(e[-+]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        [*PLAIN, "#", "a #b", "a: b", " a", "a ", "- a", "<<", "&a", "*a", "!a", "%a", "@a", "`a", "?", "|"]
    ),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def same(one: object, other: object) -> bool:
    """Equal in value and type, to any depth."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("text, value", PLAIN.items(), ids=repr)
def test_plain_scalars_follow_the_core_schema(text: str, value: object, tmp_path: Path) -> None:
    assert same(load(text), value)
    assert same(load(f"[{text}]" if text else "[~]"), [value])
    (tmp_path / "config.yaml").write_text(f"key: {text}\n")
    assert same(read_yaml(tmp_path / "config.yaml"), {"key": value})
    assert same(read_dotlist([f"key={text}"]), {"key": value})


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    assert same(load(dump(value)), value)
    assert same(load(dump(value, flow=True)), value)


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_readers_of_yaml_1_1_read_the_same(value: object) -> None:
    assert same(yaml.safe_load(dump(value)), value)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("{a: 1, a: 2}", "key a twice"),
        ("{a: {b: 1, 'b': 2}}", "key b twice"),
        ("&a [*a]", "nested"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]", "10000 values"),
        ("9" * 5000, "digits"),
        ("[" * 3000 + "]" * 3000, "nested|nesting"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_kind_of_error(text: str, problem: str) -> None:
    with pytest.raises(yaml.YAMLError, match=problem):
        load(text)


def test_merge_keys_and_aliases_are_read() -> None:
    assert load("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize("text, seed", [("007", 7), ("008", 8), ("010", 10), ("077", 77), ("0x10", 16)])
def test_seeds_are_decimal(text: str, seed: int) -> None:
    assert compose(read_config("jmwst"), [f"seed={text}"])["seed"] == seed


@pytest.mark.parametrize(
    "argument",
    ["seed=1:30", "seed=1_000", "seed='8'", "rounds=1e3", "seed=true", "lr='0.1'", "trainer.progress=no",
     "trainer.progress='true'", "trainer.progress=1", "trainer.monitor=5", "density=yes", "trainer.threads='1'"],
)  # fmt: skip
def test_text_is_not_converted_to_numbers_or_booleans(argument: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(read_config("jmwst"), [argument])
    assert error.value.key == argument.partition("=")[0]


def test_words_stay_words() -> None:
    assert compose(read_config("jmwst"), ["model.init=no"])["model"]["init_args"]["init"] == "no"


@pytest.mark.parametrize("text", ["9" * 301, "0x" + "f" * 301, "!!bool 3", "!!timestamp x", "!!int x", "!!float ''"])
def test_values_that_python_does_not_read_are_errors_of_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(f"key: {text}")
