"""A comparison as files."""

from collections.abc import Iterator
from pathlib import Path

from flash_pl.checkpoint import write_whole
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.figures import pictures
from flash_pl.compare.page import report
from flash_pl.compare.table import Table, as_csv, as_latex, as_markdown
from flash_pl.drawing import as_pdf, as_png
from flash_pl.errors import ConfigError


def write_report(comparison: Comparison, folder: Path, command: str) -> list[Path]:
    """Write the table (CSV, Markdown, LaTeX), the figures (PNG, PDF) and ``report.html``, which holds them all.

    Every file is there whole or as it was before.

    Args:
        command: that asked for it, for the page to say.

    Raises:
        ConfigError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in _files(comparison, command):
            write_whole(folder / name, content)
            written.append(folder / name)
    except OSError as error:
        raise ConfigError("out", str(folder), f"a folder that can be written ({error.strerror or error})") from error
    return written


def _files(comparison: Comparison, command: str) -> Iterator[tuple[str, bytes]]:
    tables = Table.of(comparison)
    texts = {"csv": as_csv(comparison), "md": as_markdown(tables), "tex": as_latex(tables)}
    for kind, text in texts.items():
        yield f"table.{kind}", _encoded(text)
    shown = []
    for picture in pictures(comparison):
        png = as_png(picture.figure)
        yield f"{picture.name}.png", png
        yield f"{picture.name}.pdf", as_pdf(picture.figure)
        shown.append((picture.name.replace("_", " "), picture.caption, png))
    yield "report.html", _encoded(report(comparison, shown, command))


def _encoded(text: str) -> bytes:
    """UTF-8; what a file name has that is no text is shown as an escape."""
    return text.encode(errors="backslashreplace")
