"""Reading the ``Args:`` section of docstrings."""

import pytest

from flash_pl.config.docstrings import first_sentence, read_args

DOCSTRINGS = {
    "nothing": (None, {}),
    "no section": ("Do it.\n\n    Raises:\n        ValueError: a: b.\n", {}),
    "one line": ("Do it.\n\n    Args:\n        a: text.\n    ", {"a": "text."}),
    "several names": ("Args\n\n    Args:\n        a, b_2: text.\n", {"a": "text.", "b_2": "text."}),
    "types and stars": ("D.\n\n    Args:\n        a (int): x.\n        **kwargs: y.\n", {"a": "x.", "kwargs": "y."}),
    "wrapped": (
        "D.\n\n    Args:\n        a: one\n            two: three\n              four.\n",
        {"a": "one two: three four."},
    ),
    "a line like an entry": (
        "D.\n\n    Args:\n        a: one\n            b: two.\n",
        {"a": "one b: two."},
    ),
    "text on the next line": ("D.\n\n    Args:\n        a:\n            text.\n", {"a": "text."}),
    "blank lines": (
        "D.\n\n    Args:\n        a: one\n\n            two.\n\n        b: x.\n",
        {"a": "one two.", "b": "x."},
    ),
    "colons and commas": ("D.\n\n    Args:\n        a: first, second: third.\n", {"a": "first, second: third."}),
    "the next section": ("D.\n\n    Args:\n        a: x.\n\n    Raises:\n        b: y.\n", {"a": "x."}),
    "a badly indented line": ("D.\n\n    Args:\n        a: one\n        and two.\n", {"a": "one and two."}),
}


@pytest.mark.parametrize("case", DOCSTRINGS)
def test_entries_of_a_docstring(case):
    docstring, entries = DOCSTRINGS[case]
    assert read_args(docstring) == entries


def test_the_first_sentence_ends_with_a_full_stop_before_a_space():
    assert first_sentence("at most 0.5 of them. The rest.") == "at most 0.5 of them"
    assert first_sentence("no full stop") == "no full stop"
