"""Writes a comparison into a folder: tables, figures, and report.html, which contains them all."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flash_pl.atomic_write import make_folder, write_atomically
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.figures import ReportFigure, figures_of
from flash_pl.compare.settings import shared_settings
from flash_pl.compare.table import Table, as_csv, as_latex, as_markdown, tables_of
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.plotting import as_inline_svg, as_pdf, as_png
from flash_pl.yaml12 import as_short_line


def write_report(comparison: Comparison, folder: Path, command: str) -> list[Path]:
    """Write the tables (CSV, Markdown, LaTeX), the figures (PNG, PDF) and ``report.html``; return the paths.

    The same comparison gives the same bytes. A file that exists is replaced in one step: it is never half written.

    Args:
        command: the command line that asked for the report, shown in the page.

    Raises:
        ConfigError: the folder cannot be written.
    """
    paths = []
    try:
        make_folder(folder)
        for name, content in _contents(comparison, command):
            write_atomically(folder / name, content)
            paths.append(folder / name)
    except OSError as error:
        problem = f"{as_yaml(str(folder))} is not a folder that can be written ({error.strerror or error})"
        raise ConfigError("out", problem) from error
    return paths


def _contents(comparison: Comparison, command: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file."""
    tables = tables_of(comparison)
    yield "table.csv", _encode(as_csv(comparison))
    yield "table.md", _encode(as_markdown(tables))
    yield "table.tex", _encode(as_latex(tables))
    figures = figures_of(comparison)
    for figure in figures:
        yield f"{figure.name}.png", as_png(figure.figure)
        yield f"{figure.name}.pdf", as_pdf(figure.figure)
    yield "report.html", _encode(html_page(comparison, tables, figures, command))


def _encode(text: str) -> bytes:
    """Return the text in UTF-8; bytes of a file name that are not UTF-8 become escapes such as ``\\udcff``."""
    return text.encode(errors="backslashreplace")


def html_page(comparison: Comparison, tables: Sequence[Table], figures: Sequence[ReportFigure], command: str) -> str:
    """Return the page, in which everything is embedded. Its template is ``report.html.j2``.

    Args:
        tables: of the comparison.
        figures: of the comparison; they are in the page as SVG.
        command: the command line that asked for the report.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["yaml"] = as_short_line
    template = environment.from_string((files("flash_pl.compare") / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        comparison=comparison,
        tables=tables,
        # matplotlib has escaped the texts in it.
        images=[(figure, Markup(as_inline_svg(figure.figure, figure.name))) for figure in figures],
        shared_settings=shared_settings(comparison.runs),
        command=command,
    )
