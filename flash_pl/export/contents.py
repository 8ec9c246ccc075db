"""What a file with a model holds, tensor by tensor and byte by byte."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One tensor.

    ``densities`` are its shares of active weights, one for each of the columns, or None where it has no mask. ``mask``
    and ``values`` are its bytes in the file, None where they cannot be told apart from others'; ``dense`` are those of
    the tensor written out.
    """

    name: str
    shape: tuple[int, ...]
    densities: tuple[float | None, ...]
    mask: int | None
    values: int | None
    dense: int


@dataclass(frozen=True)
class Contents:
    """A file.

    Attributes:
        facts: about the whole.
        columns: names of the densities.
        rows: the tensors.
        size: bytes of the file.
        shared_mask: bytes of a mask section that cannot be told apart by layers.
    """

    facts: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    size: int
    shared_mask: int = 0

    @property
    def masks(self) -> int:
        """Bytes that say which weights are active."""
        return self.shared_mask + sum(row.mask or 0 for row in self.rows)

    @property
    def values(self) -> int:
        """Bytes of values."""
        return sum(row.values or 0 for row in self.rows)

    @property
    def dense(self) -> int:
        """Bytes of all tensors written out."""
        return sum(row.dense for row in self.rows)
