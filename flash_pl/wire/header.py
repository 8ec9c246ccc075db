"""What a ``.flash`` file says of itself before its payload."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from flash_pl.errors import PayloadError
from flash_pl.sparsity import Layout
from flash_pl.wire.extra import DIMENSIONS

Shapes = Sequence[tuple[str, Sequence[int]]]  # names and shapes of row-major tensors


@dataclass(frozen=True)
class Header:
    """JSON with the tensors that can be masked (``layers``), the other float32 tensors (``rest``), the length of the
    ``payload`` and ``facts`` about the model."""

    layers: Shapes
    rest: Shapes
    payload: int
    facts: dict[str, str]

    def encode(self) -> bytes:
        """The header as it stands in the file."""
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, text: bytes, limit: int) -> "Header":
        """What ``encode`` wrote, of a model of at most ``limit`` elements.

        Raises:
            PayloadError: it did not write this, or the model is larger.
        """
        try:
            found = json.loads(text)
            json.dumps(found, ensure_ascii=False).encode()  # JSON can hold half characters, which nobody can print
        except (ValueError, RecursionError) as error:
            raise PayloadError("the header is no JSON") from error
        if not isinstance(found, dict) or found.keys() != cls.__dataclass_fields__.keys():
            raise PayloadError(f"the header has other keys than {', '.join(cls.__dataclass_fields__)}")
        layers, rest = _shapes(found["layers"]), _shapes(found["rest"])
        elements = sum(prod(max(1, size) for size in shape) for _, shape in [*layers, *rest])
        if elements > limit:
            raise PayloadError(f"a model of {elements} elements; at most {limit} are allowed")
        if type(found["payload"]) is not int:
            raise PayloadError("the length of the payload is no integer")
        facts = found["facts"]
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise PayloadError("the facts are not names and texts")
        return cls(layers, rest, found["payload"], facts)

    def layout(self) -> Layout:
        """The tensors one behind the other.

        Raises:
            PayloadError: no layers, or a name that comes twice.
        """
        plan = [[name, "maskable", shape, _row_major(shape)] for name, shape in self.layers]
        plan += [[name, "parameter", shape, _row_major(shape)] for name, shape in self.rest]
        try:
            return Layout.from_plan(plan)
        except ValueError as error:
            raise PayloadError(str(error)) from error


def _shapes(entries: Any) -> Shapes:
    if not isinstance(entries, list):
        raise PayloadError("the tensors are no list")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or not _is_shape(entry[1]):
            raise PayloadError(f"a tensor is described by a name and a shape, not by {str(entry)[:80]}")
    return [(name, shape) for name, shape in entries]


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > DIMENSIONS:
        return False
    return all(type(size) is int and 0 <= size < 2**63 for size in value)


def _row_major(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor."""
    return [prod(max(1, size) for size in shape[place + 1 :]) for place in range(len(shape))]
