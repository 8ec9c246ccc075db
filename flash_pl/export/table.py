"""The contents of a file on the screen."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flash_pl.export.contents import Contents, Row

LONGEST = 200  # characters of a fact


def contents_table(contents: Contents, path: Path) -> Group:
    """The facts, a line for each tensor, and where the bytes of the file go."""
    facts = Table(box=box.SIMPLE, show_header=False)
    for name, value in contents.facts.items():
        facts.add_row(_plain(name), _plain(value))
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    masks = ["mask"] if contents.masks else []
    values = ["values"] if contents.values else []
    for title in [*contents.columns, *masks, *values, "dense"]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in contents.rows:
        shares = ["" if density is None else f"{density:.4f}" for density in row.densities]
        sizes = [row.mask for _ in masks] + [row.values for _ in values] + [row.dense]
        table.add_row(_plain(row.name), "x".join(map(str, row.shape)) or "scalar", *shares, *map(_count, sizes))
    totals = [contents.masks for _ in masks] + [contents.values for _ in values] + [contents.dense]
    table.add_section()
    table.add_row("total", "", *_overall(contents.rows, len(contents.columns)), *map(_count, totals))
    return Group(_plain(str(path)), facts, table, _end(contents))


def _end(contents: Contents) -> str:
    if not contents.dense:
        return f"{contents.size:,} bytes without tensors"
    if not contents.values:
        return f"{contents.size:,} bytes with all that a run needs to go on"
    masks = f"masks {contents.masks:,}, " if contents.masks else ""
    parts = f"{masks}values {contents.values:,}, other {contents.size - contents.masks - contents.values:,}"
    return f"{contents.size:,} bytes, {contents.size / contents.dense:.1%} of dense: {parts}"


def _overall(rows: Sequence[Row], columns: int) -> list[str]:
    """The density over all tensors that have one, for each column."""
    found = []
    for column in range(columns):
        known = [(row.densities[column], prod(row.shape)) for row in rows]
        parts = [(density * size, size) for density, size in known if density is not None]
        total = sum(size for _, size in parts)
        found.append(f"{sum(active for active, _ in parts) / total:.4f}" if total else "")
    return found


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plain(text: str) -> Text:
    """Text from a file that anybody may have written: no markup, nothing that a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST])
    return Text(shown + ("..." if len(text) > LONGEST else ""), overflow="fold")
