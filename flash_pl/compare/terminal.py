"""The table of a comparison in a terminal."""

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from flash_pl.compare.table import Entry, Table


def show(table: Table, console: Console) -> None:
    """Print a table; one that is wider than the terminal in parts, each with the names of its rows.

    What goes into a file or a pipe stays in one piece, and has stars where a terminal has bold.
    """
    star = "" if console.is_terminal else "*"
    rest = list(range(table.names, len(table.titles)))
    while rest:
        count = len(rest)
        while count > 1 and console.is_terminal and _width(_part(table, rest[:count], star), console) > console.width:
            count -= 1
        part = _part(table, rest[:count], star)
        (console if console.is_terminal else Console(file=console.file, width=_width(part, console))).print(part)
        rest = rest[count:]
    console.print(Text(f"{table.caption} Best {'with *' if star else 'in bold'}."), soft_wrap=not console.is_terminal)


def _part(table: Table, numbers: list[int], star: str) -> RichTable:
    part = RichTable(box=box.SIMPLE_HEAD)
    indices = [*range(table.names), *numbers]
    for index in indices:
        title, number = Text("\n".join(table.stacked[index])), index >= table.names
        part.add_column(title, justify="right" if number else "left", vertical="bottom", no_wrap=number)
    for row in table.rows:
        part.add_row(*(_shown(row[index], star) for index in indices))
    return part


def _shown(entry: Entry, star: str) -> Text:
    return Text(star + entry.text, style="bold") if entry.best else Text(entry.text)


def _width(part: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), part).maximum
