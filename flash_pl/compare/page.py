"""report.html: one file that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from flash_pl.checkpoint import write_atomically
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.figures import pictures
from flash_pl.compare.settings import shared, write
from flash_pl.compare.table import Entry, Table, as_csv, as_latex, as_markdown
from flash_pl.errors import ConfigError
from flash_pl.plotting import as_pdf, as_png

CSS = """
:root { color-scheme: light dark; --ink: #1b1b1b; --faint: #666; --line: #d4d4d4; --paper: #fff; --shade: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --faint: #a0a0a0; --line: #444; --paper: #161616; --shade: #222; }
}
body { margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
p, figcaption, caption { color: var(--faint); } .wide { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: 0.5rem; }
th, td { padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; } thead th { vertical-align: bottom; }
.results { font-size: 13px; } .results th, .results td { padding: 0.3rem 0.45rem; } .results th { max-width: 6em; }
.results td { white-space: nowrap; }
.results .number { text-align: right; }
.results .method { white-space: normal; min-width: 9rem; max-width: 24rem; }
thead tr { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); }
tbody { border-bottom: 2px solid var(--ink); } tbody tr:nth-child(even) { background: var(--shade); }
thead th small { display: block; font-weight: normal; color: var(--faint); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; } figure img { display: block; width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px; }
figcaption { margin-top: 0.4rem; } code { font: 13px/1.4 ui-monospace, monospace; }
td code { overflow-wrap: anywhere; } details { margin-top: 1rem; }
"""


def report(comparison: Comparison, pictures: Sequence[tuple[str, str, bytes]], command: str) -> str:
    """The page.

    Args:
        pictures: title, caption and PNG of each figure.
        command: that made the page.
    """
    data = ", ".join(comparison.data)
    seeds = sorted({seed for group in comparison.groups for seed in group.seeds})
    title = f"Comparison of {len(comparison.groups)} experiments on {data}"
    made = f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}. {comparison.about_accuracy}"
    body = element(
        "body",
        element("h1", title),
        element("p", "Made by ", element("code", command), f". {made}"),
        element("h2", "Results"),
        *(element("div", _results(table), class_="wide") for table in Table.of(comparison)),
        *([element("p", comparison.about_failed)] if comparison.failed else []),
        _columns(comparison),
        element("h2", "Figures"),
        element("div", *(_figure(*picture) for picture in pictures), class_="figures"),
        element("h2", "Experiments"),
        element("div", _experiments(comparison), class_="wide"),
        element("h2", "Shared by all"),
        element("div", _pairs(shared([run for group in comparison.groups for run in group.runs])), class_="wide"),
        element("h2", "Runs"),
        element("div", _runs(comparison), class_="wide"),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", CSS),
    )
    page = element("html", head, body, lang="en")
    return "<!DOCTYPE html>\n" + tostring(page, encoding="unicode", method="html") + "\n"


def element(tag: str, *children: "Element | str", **attributes: str) -> Element:
    """An element with text and elements in it, escaped when it is written; ``class_`` is the attribute ``class``."""
    made = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def _results(table: Table) -> Element:
    def look(index: int) -> str:
        return "number" if index >= table.names else "scheduler" if index == table.names - 1 else "name"

    heads = [
        element("th", title, *([element("small", unit)] if unit else []), scope="col", class_=look(index))
        for index, (title, unit) in enumerate(zip(table.titles, table.units, strict=True))
    ]
    rows = [
        element("tr", *(element("td", *_entry(cell), class_=look(index)) for index, cell in enumerate(row)))
        for row in table.rows
    ]
    parts = [
        element("caption", f"{table.caption} Best in bold."),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
    ]
    return element("table", *parts, class_="results")


def _entry(entry: Entry) -> list[Element | str]:
    return [element("strong", entry.text)] if entry.best else [entry.text]


def _columns(comparison: Comparison) -> Element:
    """What each column means."""
    meanings = {column.title: column.about for column in comparison.columns}
    return element("details", element("summary", "What the columns mean"), _pairs(meanings))


def _figure(title: str, caption: str, png: bytes) -> Element:
    source = "data:image/png;base64," + b64encode(png).decode("ascii")
    return element("figure", element("img", src=source, alt=title), element("figcaption", caption))


def _experiments(comparison: Comparison) -> Element:
    rows = []
    for group in comparison.groups:
        run = group.first
        settings = "; ".join(f"{key}={write(value)}" for key, value in group.settings.items())
        facts = [run.names["data"], run.names["model"], run.names["scheduler"], f"{run.density:g}"]
        rows.append([*facts, settings or "-", ", ".join(map(str, group.seeds))])
    return _table(["data", "model", "scheduler", "density", "differing keys", "seeds"], rows)


def _runs(comparison: Comparison) -> Element:
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            found = run.result.get("versions")
            versions = found if isinstance(found, Mapping) else {}
            text = ", ".join(f"{name} {version}" for name, version in versions.items())
            rows.append([group.label, str(run.seed), str(run.path), text or "-"])
    return _table(["experiment", "seed", "directory", "versions"], rows)


def _pairs(values: Mapping[str, object]) -> Element:
    return _table(["key", "value"], [[key, write(value)] for key, value in values.items()])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    head = element("thead", element("tr", *(element("th", title, scope="col") for title in titles)))
    return element(
        "table", head, element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    )


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
            write_atomically(folder / name, content)
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
