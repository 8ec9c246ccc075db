"""What a key of the config means, which values fit and what its default is: read from source code and shipped files.

Below a component a key is an argument of its class, and the shipped fragments of the component have several classes:
``scheduler.prune_rate`` is an argument of some schedulers, with a default in each of them.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.components import MASK_KEYS
from flash_pl.config.docstrings import first_sentence
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.config.init_args import find, init_args
from flash_pl.config.keys import KEYS, SECTIONS, described_by, in_yaml
from flash_pl.config.names import RENAMED_KEYS, unknown_key
from flash_pl.config.ranges import Range, ranges_of
from flash_pl.config.signature import describe
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.yaml12 import dump

MASK_HELP = {
    "include": "names or globs of further layers or parameters to mask",
    "exclude": "names or globs of layers or parameters that are never masked",
    "exclude_first_last": "never mask the first and the last maskable layer",
}
MISSING = object()
DEPTH = 4  # of a key below components, such as scheduler.sensitivity.move.growth


@dataclass(frozen=True)
class Meaning:
    """What a key means in one or several classes.

    Attributes:
        help: the meaning, in words.
        kind: the type, in words.
        range: the accepted values, in words; empty if nobody says it.
        classes: the classes with this argument, by name; empty for other keys.
        defaults: each default as YAML, with the names of the shipped fragments that have it.
    """

    help: str
    kind: str
    range: str
    classes: tuple[str, ...]
    defaults: dict[str, list[str]]


@dataclass(frozen=True)
class Explanation:
    """A key with its meanings, the shipped values that it can name, and the keys below it.

    Attributes:
        below: by the name of a key below it, each of its meanings with the shipped values that have the key; none where
            all have it.
        namesakes: the keys of components with this name.
    """

    key: str
    meanings: list[Meaning]
    folder: str
    below: dict[str, dict[str, list[str]]]
    namesakes: list[str]


def explain(key: str) -> Explanation:
    """Explain a key, such as ``density``, ``trainer.eval_every``, ``scheduler.prune_rate`` or ``data.partition``.

    >>> (meaning,) = explain("density").meanings
    >>> meaning.kind, meaning.range, meaning.defaults
    ('a number', 'in (0, 1]', {'0.05': []})
    >>> [meaning.defaults["0.25"] for meaning in explain("scheduler.prune_rate").meanings if "JMWST" in meaning.classes]
    [['jmwst', 'nst']]

    Raises:
        ConfigError: there is no such key; the hint is a similar one.
    """
    section, *below = [part for part in key.split(".") if part != "init_args"]
    if section not in COMPONENTS or not below:
        return _plain(".".join([section, *below]))
    folder = section
    for part in below[:-1]:
        if part not in arguments(folder):
            raise _unknown(key)
        folder = part
    if below[-1] not in arguments(folder):
        raise _unknown(key)
    own = below[-1] if below[-1] in shipped.folders() else ""
    return Explanation(key, arguments(folder)[below[-1]], own, keys_below(own), [])


def _plain(key: str) -> Explanation:
    """Explain a key of the top level or of a section."""
    if key not in KEYS:
        raise _unknown(key)
    section, _, name = key.rpartition(".")
    if key in SECTIONS:
        names = [name for name in KEYS if name.startswith(f"{key}.")]
        below = {name.partition(".")[2]: {first_sentence(KEYS[name].help): list[str]()} for name in names}
        return Explanation(key, [Meaning(KEYS[key].help, "a section", "", (), {})], "", below, [])
    of_component = key in shipped.folders()
    kind = "a name, or the path of a class" if of_component else describe(KEYS[key].hint)
    default = as_text(KEYS[key].default)
    defaults = {default: list[str]()} | _brought_by_data(key)
    meaning = Meaning(KEYS[key].help, kind, _in_words(_ranges(section).get(name)), (), defaults)
    below = keys_below(key) if key in COMPONENTS else {}
    namesakes = [] if of_component else [f"{section}.{key}" for section in COMPONENTS if key in arguments(section)]
    return Explanation(key, [meaning], key if of_component else "", below, namesakes)


def _brought_by_data(key: str) -> dict[str, list[str]]:
    """The defaults of a key that shipped data sets bring, as YAML, each with the data sets.

    >>> _brought_by_data("clients")
    {'20': ['data=digits', 'data=synthetic'], 'null': ['data=femnist', 'data=king_james', 'data=text']}
    """
    found: dict[str, list[str]] = {}
    for name in shipped.names("data"):
        value: Any = shipped.content(name, "data").get("defaults", {})
        for part in key.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
        if value is not MISSING:
            found.setdefault(as_text(value), []).append(f"data={name}")
    return found


@cache
def _ranges(section: str) -> dict[str, Range]:
    """The accepted values of the typed keys of a section."""
    if not section:
        tree = ast.parse((Path(__file__).parent / "schema.py").read_text(encoding="utf-8"))
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "typed")
        return ranges_of(next(functions))
    found: dict[str, Range] = {}
    for class_path in SECTIONS[section]:
        definition = find(class_path)
        found |= ranges_of(definition.node) if definition else {}
    return found


def _in_words(range: Range | None) -> str:
    return range.words if range else ""


@cache
def arguments(folder: str) -> dict[str, list[Meaning]]:
    """The arguments of the classes of all fragments in a folder by name, each with its meanings."""
    entries: dict[str, dict[tuple[str, str, str], list[tuple[str, str, str]]]] = {}
    for name in shipped.names(folder) if folder in shipped.folders() else ():
        content = shipped.content(name, folder)
        given, class_path = content.get("init_args") or {}, str(content.get("class_path", ""))
        for argument, known in init_args(class_path).items():
            default = as_text(given[argument]) if argument in given else known.default
            meaning = (in_yaml(known.help), known.kind, _in_words(known.range))
            holder = (
                name,
                class_path.rpartition(".")[2],
                "none, a value must be given" if default is None else default,
            )
            entries.setdefault(argument, {}).setdefault(meaning, []).append(holder)
    found = {argument: [_meaning(*key, one[key]) for key in one] for argument, one in entries.items()}
    if folder == "model":
        for name, hint in MASK_KEYS.items():
            default = "false" if hint is bool else "[]"
            found[name] = [Meaning(MASK_HELP[name], describe(hint), "", (), {default: []})]
    return found


def _meaning(text: str, kind: str, range: str, holders: list[tuple[str, str, str]]) -> Meaning:
    defaults: dict[str, list[str]] = {}
    for name, _, default in holders:
        defaults.setdefault(default, []).append(name)
    return Meaning(text, kind, range, tuple(dict.fromkeys(one for _, one, _ in holders)), defaults)


def keys_below(folder: str) -> dict[str, dict[str, list[str]]]:
    """The arguments of a folder's classes, each with its meanings, in short and without defaults.

    A meaning has the names of the fragments with that argument; none if all fragments have it.

    >>> keys_below("server_optimizer")["tau"], keys_below("decay")["rounds"].popitem()[1]
    ({'the degree of adaptivity, above 0': ['adam']}, [])
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, meanings in sorted(arguments(folder).items()):
        for meaning in meanings:
            text = re.split(r"[,;] by default", first_sentence(meaning.help))[0]
            holders = found.setdefault(name, {}).setdefault(text, [])
            holders += [one for names in meaning.defaults.values() for one in names]
    everyone = set(shipped.names(folder)) if folder else set()
    return {
        name: {text: [] if everyone == set(holders) else sorted(holders) for text, holders in meanings.items()}
        for name, meanings in found.items()
    }


def as_text(value: Any) -> str:
    """A value as a user writes it; a reference to another key in words.

    >>> as_text("uniform"), as_text(None), as_text([128, 64]), as_text("${alpha}")
    ('uniform', 'null', '[128, 64]', 'the value of alpha')
    """
    if isinstance(value, str):
        reference = re.fullmatch(r"\$\{(\w+)\}", value)
        return f"the value of {reference[1]}" if reference else value
    return dump(value, flow=True).strip()


def all_keys() -> Iterator[str]:
    """All keys, also the arguments of the shipped components to any depth."""
    yield from KEYS
    for section in COMPONENTS:
        yield from _below(section, section)


def _below(key: str, folder: str) -> Iterator[str]:
    for name in arguments(folder):
        yield f"{key}.{name}"
        if name in shipped.folders() and key.count(".") < DEPTH - 1:
            yield from _below(f"{key}.{name}", name)


def _unknown(key: str) -> ConfigError:
    """The error about a key that does not exist, with the nearest ones: by its last part, or by its spelling."""
    if key in RENAMED_KEYS:
        return unknown_key(key, KEYS)
    if not key.strip(".- "):
        return ConfigError("help", f"{as_yaml(key)} is not a key", "name one, such as flash-pl help density")
    folder, _, name = key.rpartition(".")
    if any(name in shipped.names(one) for one in ([folder] if folder else ["", *shipped.folders()])):
        shown = f"{folder}/{name}" if folder else name
        return ConfigError(key, "this is no key but a shipped name", f"flash-pl configs {shown} shows it")
    known = list(all_keys())
    key, given = key.lower(), key
    last = key.rpartition(".")[2]
    same = sorted((name for name in known if name.rpartition(".")[2] == last), key=lambda name: name.count("."))
    nearest = list(dict.fromkeys([*described_by(key)[:2], *same]))[:3] if "." not in key else same[:3]
    nearest = nearest or get_close_matches(key, known, n=1)
    if not nearest:
        parts = get_close_matches(last, [name.rpartition(".")[2] for name in known], n=1)
        nearest = [name for name in known if parts and name.rpartition(".")[2] == parts[0]][:1]
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see flash-pl fit --help"
    return ConfigError(given, "there is no such key", hint)
