"""The grammar ``KEY=a,b,c``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.errors import ConfigError
from flash_pl.sweep import Choice
from flash_pl.sweep.jobs import split

PLAIN = st.text("ab01 .:=-_$", max_size=6)


def _inside(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Values in brackets, with commas between them."""
    lists = st.lists(values, max_size=3).map(",".join)
    return st.one_of(
        lists.map(lambda text: f"[{text}]"), lists.map(lambda text: f"({text})"), lists.map(lambda text: f"{{{text}}}")
    )


QUOTED = st.one_of(
    st.text("a,[)'{ ", max_size=5).map(lambda text: f'"{text}"'),
    st.text('a,](" }', max_size=5).map(lambda text: f"'{text}'"),
)
VALUE = st.recursive(PLAIN | QUOTED, _inside, max_leaves=6)


@given(st.lists(VALUE, min_size=1, max_size=5))
def test_values_come_out_as_they_went_in(values):
    assert split("key", ",".join(values)) == values


@given(st.text("ab,[](){}'\" ", max_size=12))
def test_parts_make_the_text_again_or_it_is_refused(text):
    try:
        parts = split("key", text)
    except ConfigError as error:
        assert error.key == "key" and error.value == text
    else:
        assert ",".join(parts) == text and all(split("key", part) == [part] for part in parts)


@given(PLAIN.filter(lambda key: key and "=" not in key), st.lists(VALUE, min_size=2, max_size=4))
def test_choices_are_the_values_or_a_refusal(key, values):
    stripped = tuple(value.strip() for value in values)
    text = f"{key}={','.join(values)}"
    if all(stripped) and len(set(stripped)) == len(stripped):
        assert Choice.read(text) == Choice(key, stripped) and Choice.read(text).varies
    else:
        with pytest.raises(ConfigError):
            Choice.read(text)


def test_a_single_value_is_an_override_even_an_empty_one():
    assert Choice.read("data.shape=[1, 8, 8]") == Choice("data.shape", ("[1, 8, 8]",))
    assert Choice.read("compat=").values == ("",) and not Choice.read("compat=").varies
