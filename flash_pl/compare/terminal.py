"""The tables of a comparison on a terminal, whose lines are never longer than it is wide."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from flash_pl.compare.table import Cell, Table
from flash_pl.errors import printable


def print_table(table: Table, console: Console) -> None:
    """Print a table.

    In a terminal that is too narrow the table is cut into several below each other, between its columns or between its
    rows; in the latter case the experiments are the columns. The layout with the fewest lines is taken. In a file or
    a pipe the table is in one piece, and the best numbers have a star in front, because they cannot be bold.

    >>> import io
    >>> table = Table(["experiment", "up"], ["", "MB"], [[Cell("jmwst"), Cell("1.50", best=True)]], 1, "Costs.")
    >>> out = io.StringIO()
    >>> print_table(table, Console(file=out))
    >>> print(out.getvalue().splitlines()[-1])
    Costs. Best with *.
    """
    star = "" if console.is_terminal else "*"
    if console.is_terminal:
        layouts = [layout for one in (_Rows(table), _Columns(table)) if (layout := _parts(one, console)) is not None]
        parts = min(layouts, key=lambda layout: sum(_lines(part, console) for part in layout), default=[])
        for part in parts or _cut(_Columns(table), console):
            console.print(part)
    else:
        whole = _Rows(table).part(range(table.names, len(table.titles)), star)
        Console(file=console.file, width=_width(whole, console)).print(whole)
    best = f" Best {'with *' if star else 'in bold'}." if table.has_best else ""
    console.print(Text(table.caption + best), soft_wrap=not console.is_terminal)


class _Rows:
    """A table in which every row is an experiment; it is cut between columns of numbers."""

    def __init__(self, table: Table) -> None:
        self.table, self.pieces = table, range(table.names, len(table.titles))

    def part(self, pieces: Sequence[int], star: str = "") -> RichTable:
        part = RichTable(box=box.SIMPLE_HEAD)
        columns = [*range(self.table.names), *pieces]
        for index in columns:
            is_number = index >= self.table.names
            header = Text("\n".join(self.table.stacked_headers[index]))
            part.add_column(header, justify="right" if is_number else "left", vertical="bottom", no_wrap=True)
        for row in self.table.rows:
            part.add_row(*(_text(row[index], star) for index in columns))
        return part


class _Columns:
    """A table in which every column is an experiment; it is cut between experiments.

    The settings in the name of an experiment are below each other; the value of a long one has its own line. In a
    terminal that is narrower than one experiment titles and names go on in the next line.
    """

    LONG = 16  # characters of a setting

    def __init__(self, table: Table) -> None:
        self.table, self.pieces = table, range(len(table.rows))

    def part(self, pieces: Sequence[int], star: str = "") -> RichTable:
        table, part = self.table, RichTable(box=box.SIMPLE_HEAD)
        part.add_column("")
        for index in pieces:
            settings = [line for cell in table.rows[index][: table.names] for line in cell.text.split(", ")]
            lines = [line.replace("=", "\n=", 1) if len(line) > self.LONG else line for line in settings]
            part.add_column(
                Text(_printable_lines("\n".join(lines))), justify="right", vertical="bottom", overflow="fold"
            )
        for column in range(table.names, len(table.titles)):
            title, unit = table.titles[column], table.units[column]
            part.add_row(
                Text(printable(f"{title} ({unit})" if unit else title)),
                *(_text(table.rows[index][column], star) for index in pieces),
            )
        return part


def _parts(layout: _Rows | _Columns, console: Console) -> list[RichTable] | None:
    """The tables into which a layout is cut, None if one piece alone is wider than the console."""
    parts = list(_cut(layout, console))
    return parts if all(_width(part, console) <= console.width for part in parts) else None


def _cut(layout: _Rows | _Columns, console: Console) -> Iterator[RichTable]:
    remaining = list(layout.pieces)
    while remaining:
        count = 1
        while count < len(remaining) and _width(layout.part(remaining[: count + 1]), console) <= console.width:
            count += 1
        yield layout.part(remaining[:count])
        remaining = remaining[count:]


def _text(cell: Cell, star: str) -> Text:
    """``Text`` shows brackets, which a string would take for markup."""
    return Text(star + printable(cell.text), style="bold") if cell.best else Text(printable(cell.text))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _width(part: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), part).maximum


def _lines(part: RichTable, console: Console) -> int:
    return len(console.render_lines(part))
