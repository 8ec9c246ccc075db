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
    """The facts, a line for each tensor, what the format adds, and the total."""
    facts = Table(box=box.SIMPLE, show_header=False)
    for name, value in contents.facts.items():
        facts.add_row(_plain(name), _plain(value))
    masks, listed = contents.masks > 0, contents.counted > 0
    table = Table(box=box.SIMPLE)
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    sizes = (["mask", "values"] if masks else []) + (["bytes"] if listed else []) + ["dense"]
    for title in [*contents.columns, *sizes]:
        table.add_column(title, justify="right")
    for row in contents.rows:
        parts = [_count(row.mask), _count(row.values)] if masks else []
        whole = [_count((row.mask or 0) + (row.values or 0))] if listed else []
        shares = ["" if density is None else f"{density:.4f}" for density in row.densities]
        shape = " x ".join(map(str, row.shape)) or "scalar"
        table.add_row(_plain(row.name), shape, *shares, *parts, *whole, _count(row.dense))
    blank = [""] * len(contents.columns)
    if contents.shared_mask:
        table.add_row("(masks)", "", *blank, *[_count(contents.shared_mask), "", _count(contents.shared_mask), ""])
    if listed:
        rest = contents.size - contents.counted
        table.add_row("(other)", "", *blank, *(["", ""] if masks else []), _count(rest), "")
    table.add_section()
    totals = [_count(contents.masks), _count(contents.values)] if masks else []
    totals += [_count(contents.size)] if listed else []
    table.add_row("total", "", *_overall(contents.rows, len(contents.columns)), *totals, _count(contents.dense))
    return Group(_plain(str(path)), facts, table, _end(contents))


def _end(contents: Contents) -> Text:
    if not contents.dense:
        return Text(f"{contents.size:,} bytes without tensors")
    if not contents.counted:
        return Text(f"{contents.size:,} bytes with all that a run needs to go on")
    return Text(f"{contents.size:,} bytes, {contents.size / contents.dense:.1%} of the dense tensors")


def _overall(rows: Sequence[Row], columns: int) -> list[str]:
    """The density over all tensors that have one, for each column."""
    found = []
    for column in range(columns):
        pairs = [(row.densities[column], prod(row.shape)) for row in rows]
        known = [(density, size) for density, size in pairs if density is not None]
        total = sum(size for _, size in known)
        found.append(f"{sum(density * size for density, size in known) / total:.4f}" if total else "")
    return found


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plain(text: str) -> Text:
    """Text from a file that anybody may have written: no markup, nothing that a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:LONGEST])
    return Text(shown + ("..." if len(text) > LONGEST else ""))
