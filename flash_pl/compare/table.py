"""The tables of a comparison, as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash_pl.compare.columns import Column
from flash_pl.compare.comparison import Comparison

LONGEST_LINE = 12  # characters of a title in one line; a longer title gets two lines


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table in which every row is an experiment.

    Args:
        titles: of the columns.
        units: of the columns; empty for texts and plain numbers.
        rows: the cells of each row.
        names: the number of columns with text; the columns after them have numbers.
        caption: what the numbers are.

    >>> table = Table(["experiment", "up"], ["", "MB"], [[Cell("jmwst"), Cell("1.50", best=True)]], 1, "Costs.")
    >>> print(as_markdown([table]))
    | experiment | up, MB |
    | --- | ---: |
    | jmwst | **1.50** |
    <BLANKLINE>
    Costs. Best in bold.
    <BLANKLINE>
    """

    titles: Sequence[str]
    units: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int
    caption: str

    @property
    def has_best(self) -> bool:
        """Whether a cell is the best of its column."""
        return any(cell.best for row in self.rows for cell in row)

    @property
    def caption_with_best(self) -> str:
        """The caption of a table in which the best cells are bold."""
        return f"{self.caption} Best in bold." if self.has_best else self.caption

    @property
    def headers(self) -> list[str]:
        """The titles with their units in one line: ``up, MB``."""
        return [f"{title}, {unit}" if unit else title for title, unit in zip(self.titles, self.units, strict=True)]

    @property
    def stacked_headers(self) -> list[list[str]]:
        """The lines of each title, with the unit in the last line."""
        pairs = zip(self.titles, self.units, strict=True)
        return [[*_in_two_lines(title), *([f"({unit})"] if unit else [])] for title, unit in pairs]


def tables_of(comparison: Comparison) -> list[Table]:
    """Return the tables of accuracies and masks, of the target and of costs; a table without columns is left out."""
    captions = {
        "accuracy": f"{comparison.about_accuracy} {comparison.about_unequal}".rstrip(),
        "target": comparison.about_target,
        "cost": comparison.about_costs,
    }
    columns = {kind: [column for column in comparison.columns if column.table == kind] for kind in captions}
    return [_table(comparison, columns[kind], caption) for kind, caption in captions.items() if columns[kind]]


def _table(comparison: Comparison, columns: Sequence[Column], caption: str) -> Table:
    """A table of some columns; data set and model are in it only if they are not the same in all groups."""
    groups = comparison.groups
    varied = [section for section in ("data", "model") if len({group.first.names[section] for group in groups}) > 1]
    rows = []
    for group in groups:
        names = [*(group.first.names[section] for section in varied), group.name]
        facts = [f"{group.first.density:g}", str(len(group.runs))]
        numbers = [Cell(comparison.text(group, column), comparison.is_best(group, column)) for column in columns]
        rows.append([*map(Cell, names + facts), *numbers])
    titles = [*varied, "experiment", "density", "seeds", *(column.title for column in columns)]
    units = [""] * (len(varied) + 3) + [comparison.unit(column).name for column in columns]
    return Table(titles, units, rows, len(varied) + 1, caption)


def _in_two_lines(title: str) -> list[str]:
    """Split a long title between two words into lines of similar length."""
    words = title.split()
    splits = [[" ".join(words[:index]), " ".join(words[index:])] for index in range(1, len(words))]
    if len(title) <= LONGEST_LINE or not splits:
        return [title]
    return min(splits, key=lambda lines: max(map(len, lines)))


def as_csv(comparison: Comparison) -> str:
    """Return one CSV table with all numbers in base units (bytes, FLOPs, seconds, shares).

    Every column of the comparison has three columns: the mean over seeds, the sample standard deviation (empty for a
    single seed) and the number of seeds. Seeds that diverged do not count; if all did, the mean is ``nan``. A text that
    a spreadsheet would take for a formula has an apostrophe in front.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["data", "model", "config", "scheduler", "density", "settings", "seeds"]
    titles = [f"{column.key}_{part}" for column in comparison.columns for part in ("mean", "std", "n")]
    writer.writerow([*names, *map(escape_csv, titles)])
    for group in comparison.groups:
        of = group.first.names
        facts = [of["data"], of["model"], group.config, of["scheduler"]]
        facts.append("; ".join(f"{key}={value}" for key, value in group.settings.items()))
        numbers: list[float | None] = []
        for column in comparison.columns:
            cell = comparison.statistics(group, column)
            numbers += [None, None, 0] if cell is None else [cell.mean, cell.std, cell.n]
        *names, settings = map(escape_csv, facts)
        writer.writerow([*names, group.first.density, settings, " ".join(map(str, group.seeds)), *numbers])
    return file.getvalue()


def escape_csv(text: str) -> str:
    """
    >>> escape_csv("=1+1"), escape_csv("jmwst")
    ("'=1+1", 'jmwst')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_markdown(tables: Sequence[Table]) -> str:
    """Return pipe tables with their captions."""
    lines = []
    for table in tables:
        rule = ["---"] * table.names + ["---:"] * (len(table.titles) - table.names)
        rows = [[_emphasized(cell, escape_markdown, "**{}**") for cell in row] for row in table.rows]
        lines += ["| " + " | ".join(row) + " |" for row in [list(map(escape_markdown, table.headers)), rule, *rows]]
        lines += ["", escape_markdown(table.caption_with_best), ""]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    r"""
    >>> escape_markdown("a_b <i> | c")
    'a\\_b \\<i> \\| c'
    """
    return re.sub(r"([\\`*_\[\]<|&~])", r"\\\1", text)


def as_latex(tables: Sequence[Table]) -> str:
    r"""Return a ``tabular`` per table; the document needs ``\usepackage{booktabs}``."""
    lines = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(_emphasized(cell, escape_latex, r"\textbf{{{}}}") for cell in row) for row in table.rows]
        lines += [
            f"% {table.caption_with_best}",
            rf"\begin{{tabular}}{{{'l' * table.names + 'r' * (len(table.titles) - table.names)}}}",
            r"\toprule",
            rf"{' & '.join(map(_latex_header, table.stacked_headers))} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    return "\n".join(lines)


def _latex_header(lines: Sequence[str]) -> str:
    escaped = [escape_latex(line) for line in lines]
    return escaped[0] if len(escaped) == 1 else r"\begin{tabular}{@{}r@{}}" + r" \\ ".join(escaped) + r"\end{tabular}"


LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "…": r"\dots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    r"""
    >>> escape_latex("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


def _emphasized(cell: Cell, escape: Callable[[str], str], bold: str) -> str:
    text = escape(cell.text)
    return bold.format(text) if cell.best else text
