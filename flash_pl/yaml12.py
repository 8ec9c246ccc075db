"""YAML 1.2 in both directions: text of users to plain values, and plain values to the text of ``config.yaml``.

PyYAML reads YAML 1.1, in which ``010`` is 8, ``1:30`` is 90, ``1_000`` is 1000 and ``no`` is false. Here a plain scalar
is what the core schema of YAML 1.2.2 (section 10.3.2) says, everything else is a string.
"""

import re
from typing import Any

import yaml  # type: ignore[import-untyped]

LARGEST = 10_000  # values in a document, every alias written out
DEEPEST = 100  # lists and mappings inside of each other
TOO_DEEP = f"it is nested more than {DEEPEST} deep"
LONGEST_INTEGER = 300  # characters

# Tag, pattern, and the characters with which a match can begin. The first pattern that matches counts.
CORE_SCHEMA = [
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),  # of YAML 1.1, for fragments of a file that repeat
]


def load(text: str) -> Any:
    """Return the plain value that a YAML document stands for.

    >>> load("[010, 0x10, 1e3, .5, yes, 1:30, 1_000, 2026-01-01, ~]")
    [10, 16, 1000.0, 0.5, 'yes', '1:30', '1_000', '2026-01-01', None]

    Raises:
        yaml.YAMLError: no YAML, a key twice in a mapping, more than 10,000 values, more than 100 of them inside of each
            other, an integer of more than 300 digits, or a value that is not what its tag says, such as ``!!bool 3``.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:  # PyYAML without libyaml, which has a limit of its own
        raise yaml.YAMLError(TOO_DEEP) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of PyYAML's constructors
        raise yaml.YAMLError(f"a value is not what its tag says ({error})") from error


def dump(value: Any, flow: bool = False) -> str:
    """Return a plain value as YAML that ``load`` reads as the same value, and readers of YAML 1.1 too.

    Args:
        value: of dicts, lists, tuples, strings, numbers, booleans and None.
        flow: write it in one line.

    >>> print(dump({"seed": 8, "init": "no", "tag": "0o10"}), end="")
    seed: 8
    init: 'no'
    tag: '0o10'
    >>> dump([1.0, None, "a"], flow=True)
    '[1.0, null, a]'
    """
    width = float("inf") if flow else None
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=flow, width=width, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("...\n").strip() if flow else text  # the dots are YAML's end of a document


def as_yaml_line(value: object) -> str:
    """Return a value as one line of YAML.

    >>> as_yaml_line(0.05), as_yaml_line("iid"), as_yaml_line([{"share": 1.0}, None])
    ('0.05', 'iid', '[{share: 1.0}, null]')
    """
    if isinstance(value, str):
        return value
    return dump(value, flow=True)


def as_short_line(value: object) -> str:
    """Return a value as one line of YAML, with six digits of a number, as ``%g`` writes it.

    >>> as_short_line(0.30000000000000004), as_short_line([{"density": 0.037500000000000006}])
    ('0.3', '[{density: 0.0375}]')
    """
    return f"{value:g}" if isinstance(value, float) else as_yaml_line(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:g}") if isinstance(value, float) else value


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_document(self, node: yaml.Node) -> Any:
        """Check the nodes before any is built: a few aliases of aliases can stand for more than the memory holds."""
        nodes, count = [(node, 0)], 0
        while nodes:
            (node_to_check, depth), count = nodes.pop(), count + 1
            if count > LARGEST or depth > DEEPEST:
                problem = TOO_DEEP if depth > DEEPEST else f"more than {LARGEST} values, every alias written out"
                raise yaml.constructor.ConstructorError(None, None, problem, node_to_check.start_mark)
            if isinstance(node_to_check, yaml.MappingNode):
                _check_keys(node_to_check)
                nodes += [(part, depth + 1) for pair in node_to_check.value for part in pair]
            elif isinstance(node_to_check, yaml.SequenceNode):
                nodes += [(part, depth + 1) for part in node_to_check.value]
        return super().construct_document(node)


def _check_keys(mapping: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} twice", key.start_mark)
            seen.add((key.tag, key.value))


def _construct_int(loader: yaml.Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > LONGEST_INTEGER:  # beyond, Python does not write it, and no float is as large
        problem = f"an integer of more than {LONGEST_INTEGER} digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _construct_float(loader: yaml.Loader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", loader.construct_scalar(node).lower()))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 (the resolvers of the base class) or YAML 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value in full wherever it occurs."""
        return True


def _represent_string(dumper: yaml.Dumper, text: str) -> yaml.ScalarNode:
    """Line breaks of any kind are escaped: between single quotes PyYAML folds lines at characters such as U+0085."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


for _tag, _pattern, _first in CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Dumper.add_representer(str, _represent_string)
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
