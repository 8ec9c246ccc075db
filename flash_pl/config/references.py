"""What the references in a config of somebody else stand for: only other keys, nothing of this machine.

OmegaConf resolves more than that: ``${oc.env:HOME}`` is an environment variable, and a few references to references
can stand for more text than the memory holds.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flash_pl.errors import ConfigError, as_yaml

DEEPEST = 50  # levels of values inside of values, and of references to references
LARGEST = 10_000  # values of a config, all references written out
LONGEST = 1_000_000  # characters of all texts of a config, all references written out
HUGE = 10**300  # larger integers cannot be part of a text

Path = tuple[str | int, ...]

# An even number of backslashes in front of a reference are half as many backslashes, after an odd one it is text.
_BRACE = re.compile(r"(?P<escapes>\\*)\$\{|\}")
_RESOLVER = re.compile(r"\s*([A-Za-z_][\w.]*)\s*:")


def times(factor: Any, value: Any) -> float:
    """The resolver for a share of another key: ``${times:0.5,${density}}``."""
    return float(factor) * float(value)


def resolve_plain(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A complete config that was read from the file at ``path``, with its references to keys and ``times`` resolved.

    All other resolvers stay as text, so that nothing of this machine gets into the config. The section ``given`` is
    left out.

    Raises:
        ConfigError: a reference to a missing key or to itself, a factor that is not a number, or a config that is
            nested deeper than 50 levels or longer than 10,000 values or a million characters.

    >>> config = {"density": 0.1, "tiers": ["${density}", "${times:0.5,${density}}"], "root": "${oc.env:HOME}/data"}
    >>> resolve_plain(config, "config.yaml")
    {'density': 0.1, 'tiers': [0.1, 0.05], 'root': '${oc.env:HOME}/data'}
    """
    values = {str(key): value for key, value in config.items() if key != "given"}
    resolved: dict[str, Any] = _Resolution(values, as_yaml(path)).value(values, ())
    return resolved


class _Resolution:
    """One pass over a config.

    Args:
        config: with references.
        file: its name in errors.
    """

    def __init__(self, config: Mapping[str, Any], file: str) -> None:
        self.config, self.file = config, file
        self.depth = self.values = self.characters = 0

    def value(self, node: Any, path: Path) -> Any:
        """What the ``node`` at ``path`` stands for."""
        self.depth += 1
        self.values += 1
        if self.depth > DEEPEST:
            raise self._error(path, f"refers to itself, or is nested deeper than {DEEPEST} levels")
        if self.values > LARGEST:
            raise self._error(path, f"is one of more than {LARGEST} values, every reference written out")
        result = node
        if isinstance(node, Mapping):
            if any(isinstance(key, int) and abs(key) >= HUGE for key in node):  # Python does not write such a number
                raise self._error(path, "has a key that is a number of too many digits")
            result = {key: self.value(item, (*path, key)) for key, item in node.items()}
        elif isinstance(node, list | tuple):
            result = [self.value(item, (*path, index)) for index, item in enumerate(node)]
        elif isinstance(node, str):
            result = self._text(node, path)
        self.depth -= 1
        return result

    def _text(self, text: str, path: Path) -> Any:
        """What a text stands for: any value if it is one reference and nothing else."""
        parts = [self._reference(part, path) if is_reference else part for part, is_reference in _parts(text)]
        result = parts[0] if len(parts) == 1 else "".join(self._written(part, path) for part in parts)
        if isinstance(result, str):
            self.characters += len(result)
            if self.characters > LONGEST:
                raise self._error(
                    path, f"makes the texts longer than {LONGEST} characters, every reference written out"
                )
        return result

    def _reference(self, body: str, path: Path) -> Any:
        """What ``${body}`` in the value at ``path`` stands for."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._error(path, f"has references inside of references, deeper than {DEEPEST} levels")
        resolver = _RESOLVER.match(body)
        if resolver is None:
            result = self._key(body, path)
        elif resolver[1] == "times":
            result = self._times(body, resolver.end(), path)
        else:
            result = f"${{{body}}}"
        self.depth -= 1
        return result

    def _key(self, body: str, path: Path) -> Any:
        """The value of the key ``body``, such as ``data.shape[0]``, or ``.rounds`` for a neighbor of ``path``."""
        name = self._text(body, path)
        if not isinstance(name, str) or "${" in name:  # part of the name is the result of another resolver
            return f"${{{body}}}"
        above = len(name) - len(name.lstrip("."))
        place: list[str | int] = [*path[:-above]] if above else []
        node: Any = self.config
        for step in [*place, *re.findall(r"[^.\[\]]+", name)]:
            if isinstance(node, str):
                node = self.value(node, tuple(place))
            key = _key_of(node, str(step).strip())
            if key is None:
                raise self._error(path, f"refers to {as_yaml(name[:80])}, which is not in the config")
            node, place = node[key], [*place, key]
        return self.value(node, tuple(place))

    def _times(self, body: str, start: int, path: Path) -> Any:
        factors = [self._text(factor.strip(), path) for factor in _arguments(body[start:])]
        if any(isinstance(factor, str) and "${" in factor for factor in factors):  # of another resolver
            return f"${{{body}}}"
        try:
            return times(*factors)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(path, f"{as_yaml(f'${{{body}}}'[:80])} is not a product of two numbers") from error

    def _written(self, part: Any, path: Path) -> str:
        """A value as a part of a text."""
        if isinstance(part, Mapping | list) or (isinstance(part, int) and abs(part) >= HUGE):
            raise self._error(path, "puts a mapping, a list or a number of too many digits into a text")
        return str(part)

    def _error(self, path: Path, problem: str) -> ConfigError:
        key = ".".join(map(str, path))[:80]
        return ConfigError("config", f"{key} in {self.file} {problem}")


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether each is a reference, of which it yields what is between the braces.

    A text with a brace that is not closed has no references.

    >>> list(_parts("a/${b}/${times:2,${c}}")), list(_parts("${a"))
    ([('a/', False), ('b', True), ('/', False), ('times:2,${c}', True)], [('${a', False)])
    """
    if "${" not in text:
        yield text, False
        return
    parts, open_braces, end, start = list[tuple[str, bool]](), 0, 0, 0
    for match in _BRACE.finditer(text):
        escapes = match["escapes"]
        if escapes is None:
            if open_braces == 1:
                parts.append((text[start : match.start()], True))
                end = match.end()
            open_braces = max(0, open_braces - 1)
        elif open_braces:
            open_braces += len(escapes) % 2 == 0
        else:
            is_text = len(escapes) % 2
            before = text[end : match.start()] + "\\" * (len(escapes) // 2) + "${" * is_text
            parts += [(before, False)] * bool(before)
            start = end = match.end()
            open_braces = 1 - is_text
    parts += [(text[end:], False)] * (end < len(text))
    yield from [(text, False)] if open_braces else parts


def _arguments(text: str) -> list[str]:
    """The parts of a text between its commas; commas inside of references do not separate parts.

    >>> _arguments("0.5,${times:2,${a}}")
    ['0.5', '${times:2,${a}}']
    """
    arguments, depth = [""], 0
    for piece in re.findall(r"\$\{|\}|,|[^$},]+|\$", text):
        depth += {"${": 1, "}": -1}.get(piece, 0)
        if piece == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += piece
    return arguments


def _key_of(node: Any, step: str) -> str | int | None:
    """The key or index that a step of a reference means; None if ``node`` has none."""
    if isinstance(node, Mapping) and step in node:
        return step
    if not (step.isascii() and step.isdecimal() and len(step) < 10):
        return None
    index = int(step)
    has = index in node if isinstance(node, Mapping) else isinstance(node, list | tuple) and index < len(node)
    return index if has else None
