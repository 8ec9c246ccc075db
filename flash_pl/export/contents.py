"""What a file with a model contains: facts, densities and bytes of each tensor, and the table that shows them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from flash_pl.errors import printable
from flash_pl.units import percent, size

# A table is for people; with more rows it would take minutes to print.
MAX_TEXT, MAX_FACTS, MAX_ROWS = 200, 200, 5000  # characters of a text, rows of the two tables

UNLIMITED = 10_000  # columns of a terminal


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        shape: of the tensor.
        densities: share of active (or nonzero) weights, one for each of ``Contents.columns``; None without a mask.
        mask: bytes of its mask in the file; None if they cannot be separated from other bytes.
        values: bytes of its values in the file; None if they cannot be separated from other bytes.
        dense: bytes of the dense tensor.
    """

    name: str
    shape: tuple[int, ...]
    densities: tuple[float | None, ...]
    mask: int | None
    values: int | None
    dense: int


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
        facts: metadata of the file.
        columns: names of the columns with densities.
        rows: the tensors.
        size: length of the file in bytes.
        shared_mask: bytes of a mask section that does not separate layers.
    """

    facts: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[TensorRow, ...]
    size: int
    shared_mask: int = 0

    @property
    def masks(self) -> int:
        """Bytes of all masks."""
        return self.shared_mask + sum(row.mask or 0 for row in self.rows)

    @property
    def values(self) -> int:
        """Bytes of all values."""
        return sum(row.values or 0 for row in self.rows)

    @property
    def dense(self) -> int:
        """Bytes of all tensors, dense."""
        return sum(row.dense for row in self.rows)


def contents_table(contents: Contents, path: Path) -> Group:
    """Return what ``flash-pl inspect`` prints: the facts, a row for each tensor, and a summary of the bytes."""
    facts = Table(box=box.SIMPLE, show_header=False)
    for name, value in islice(contents.facts.items(), MAX_FACTS):
        facts.add_row(plain_text(name), plain_text(value))
    return Group(plain_text(str(path)), facts, TensorTable(contents), _summary(contents))


class TensorTable:
    """The tensors with their densities and bytes. Where that is too wide, the shapes stand below the names.

    Args:
        contents: the contents of a file.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        table = self.table(stacked=False)
        fits = Measurement.get(console, options.update(max_width=UNLIMITED), table).maximum <= options.max_width
        yield table if fits else self.table(stacked=True)

    def table(self, stacked: bool) -> Table:
        """The table, with shapes beside the names or below them."""
        contents = self.contents
        masks = ["mask"] if contents.masks else []
        values = ["values"] if contents.values else []
        table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
        for title in ["tensor"] if stacked else ["tensor", "shape"]:
            table.add_column(title, overflow="fold")
        for title in [*contents.columns, *masks, *values, "dense"]:
            table.add_column(title, justify="right", no_wrap=True, vertical="bottom")

        def add(name: str, shape: str, densities: Iterable[str], sizes: Iterable[int | None]) -> None:
            below = f"\n{shape}" if shape else ""
            names = [Text(f"{plain_text(name)}{below}", overflow="fold")] if stacked else [plain_text(name), shape]
            table.add_row(*names, *densities, *map(_size, sizes))

        for row in contents.rows[:MAX_ROWS]:
            densities = ["" if density is None else f"{density:.4f}" for density in row.densities]
            sizes = [row.mask for _ in masks] + [row.values for _ in values] + [row.dense]
            add(row.name, "x".join(map(str, row.shape)) or "scalar", densities, sizes)
        if len(contents.rows) > MAX_ROWS:
            table.add_row(f"and {len(contents.rows) - MAX_ROWS:,} more")
        totals = [contents.masks for _ in masks] + [contents.values for _ in values] + [contents.dense]
        table.add_section()
        add("total", "", _total_densities(contents), totals)
        return table


def _total_densities(contents: Contents) -> list[str]:
    """The density over all tensors that have one, for each column."""
    totals = []
    for column in range(len(contents.columns)):
        entries = [(row.densities[column], prod(row.shape)) for row in contents.rows]
        masked = [(density * size, size) for density, size in entries if density is not None]
        total = sum(size for _, size in masked)
        totals.append(f"{sum(active for active, _ in masked) / total:.4f}" if total else "")
    return totals


def _size(value: int | None) -> str:
    return "" if value is None else size(value)


def _summary(contents: Contents) -> str:
    whole = f"{size(contents.size)} ({contents.size:,} bytes)"
    if not contents.dense:
        return f"{whole} without tensors"
    if not contents.values:
        return f"{whole}, with all that a run needs to continue"
    masks = f"masks {size(contents.masks)}, " if contents.masks else ""
    parts = f"{masks}values {size(contents.values)}, other {size(contents.size - contents.masks - contents.values)}"
    return f"{whole}, {percent(contents.size / contents.dense)} of dense\n{parts}"


def plain_text(text: str) -> Text:
    """A text from an unknown file, shortened, without markup and control characters that the terminal would execute."""
    return Text(printable(text[:MAX_TEXT]) + ("..." if len(text) > MAX_TEXT else ""), overflow="fold")
