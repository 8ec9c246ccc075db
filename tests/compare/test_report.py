"""The files of a comparison."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from flash_pl import plotting
from flash_pl.compare import Comparison, Run, write_report
from flash_pl.compare.figures import Curve, figures_of
from flash_pl.errors import ConfigError

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Holds a page to its nesting, and collects tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def found(make_run):
    columns = {
        "bytes_up_total": (1e6, 2e6, 3e6),
        "flops_total": (1e9, 2e9, 3e9),
        "fleet_seconds_total": (60, 120, 180),
        "mismatch_clients": (0.3, 0.2, 0.1),
    }
    consensus = [{"round": n, "density/conv1": 0.5, "density/fc": 0.1 * n, "votes/1": 7} for n in (1, 2, 3)]
    runs = [
        make_run(f"{method}-{seed}", f"scheduler={method}", f"seed={seed}", accuracies=(0.2, 0.3, 0.4), columns=columns,
                 consensus=consensus, result={"versions": {"torch": "<b>&"}})
        for method in ("jmwst", "nst")
        for seed in (1, 2)
    ]  # fmt: skip
    return Comparison.of([Run.read(path) for path in runs], 5)[0]


def test_everything_is_written_and_the_page_needs_nothing_else(found, tmp_path):
    folder = tmp_path / "a" / "report"
    written = write_report(found, folder, "flash-pl compare '<script>' & more")
    names = {path.name for path in written}
    figures = {"accuracy", "accuracy_sent", "accuracy_flops", "accuracy_fleet_time", "mismatch", "layers"}
    assert names == {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")} | {
        "table.csv", "table.md", "table.tex", "report.html",
    }  # fmt: skip
    assert names == {path.name for path in folder.iterdir()}
    assert all((folder / name).read_bytes()[1:4] in (b"PNG", b"PDF") for name in names if name.endswith(("png", "pdf")))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "http" not in text and "<script" not in text
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(images) == len(figures) and not any(tag == "img" for tag, _ in page.tags)
    # Every picture has identifiers of its own, and refers to these only.
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids) and set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)
    # Text is text, in the color of the page; axes, too.
    assert "mismatch of clients" in page.text and "#000000" not in text and "currentColor" in text
    for words in ("flash-pl compare '<script>' & more", "torch <b>&", str(found.groups[0].first.path), "Seeds 1, 2"):
        assert words in page.text


def test_the_same_runs_give_the_same_bytes_and_old_files_are_replaced(make_run, tmp_path):
    found, _ = Comparison.of([Run.read(make_run("a"))], 5)
    (tmp_path / "report.html").write_text("old")
    first = {path: path.read_bytes() for path in write_report(found, tmp_path, "x")}
    assert first == {path: path.read_bytes() for path in write_report(found, tmp_path, "x")}
    assert first[tmp_path / "report.html"] != b"old" and not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_one_error(found, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a folder that can be written"):
        write_report(found, tmp_path / "file", "x")


def test_bold_is_in_the_page_where_it_is_in_the_table(make_run, tmp_path):
    paths = [make_run("a", accuracies=(0.5,)), make_run("b", "scheduler=nst", accuracies=(0.8,))]
    write_report(Comparison.of([Run.read(path) for path in paths], 5)[0], tmp_path / "out", "x")
    text = (tmp_path / "out" / "report.html").read_text()
    assert re.findall(r"<strong>(.*?)</strong>", text) == ["80.0"]
    assert "prefers-color-scheme: dark" in text
    assert not (tmp_path / "out" / "mismatch.png").exists()


def test_groups_keep_their_color_and_those_that_always_agree_are_named(make_run):
    mismatch = {"mismatch_clients": (0.0, 0.0)}, {"mismatch_clients": (0.2, 0.1)}
    paths = [
        make_run("a", "scheduler=spdst", accuracies=(0.5, 0.6), columns=mismatch[0]),
        make_run("b", "scheduler=nst", accuracies=(0.5, 0.6), columns=mismatch[1]),
        make_run("c", "scheduler=pdst", accuracies=(0.5, 0.6)),  # an older run, without the column
    ]
    made = {one.name: one for one in figures_of(Comparison.of([Run.read(path) for path in paths], 5)[0])}
    lines = {name: made[name].figure.axes[0].get_lines() for name in ("accuracy", "mismatch")}
    assert [line.get_label() for line in lines["accuracy"]] == ["spdst", "nst", "pdst"]
    assert [line.get_color() for line in lines["mismatch"]] == [lines["accuracy"][1].get_color()]
    assert "Left out, because all clients have the same mask: spdst." in made["mismatch"].caption


def test_names_that_are_no_file_names_or_formulas(make_run, tmp_path):
    paths = [
        make_run("a", "trainer.monitor=val/$acc$"),
        make_run("b", "data.partition=iid", result={"cost": {}}),
    ]
    found, _ = Comparison.of([Run.read(path) for path in paths], 5)
    names = {path.name for path in write_report(found, tmp_path / "out", "\udcff")}
    assert {"accuracy_val_acc_.png", "accuracy_val_acc.png"} <= names
    assert "\\udcff" in (tmp_path / "out" / "report.html").read_text()


def test_a_curve_is_the_mean_over_the_rounds_that_all_seeds_have():
    nan = float("nan")
    one = {"round": np.array([1.0, 2, 3]), "x": np.array([1.0, 2, 3]), "y": np.array([0.2, nan, 0.4])}
    two = {"round": np.array([1.0, 2, 3, 4]), "x": np.array([3.0, 4, 5, 6]), "y": np.array([0.4, 0.5, 0.8, 0.9])}
    curve = Curve.of_tables([one, two], "x", "y")
    assert np.allclose(curve.x, [2, 4]) and np.allclose(curve.y, [0.3, 0.6])
    assert np.allclose(curve.std, [0.02**0.5, 0.08**0.5])
    assert Curve.of_tables([one], "x", "y").std is None and Curve.of_tables([one, two], "x", "z") is None


def test_runs_that_failed_are_named_in_the_page(make_run, tmp_path):
    found = Comparison.of([Run.read(make_run("a"))], 5, failed=["lr=1e9,seed=1", "lr=1e9,seed=2"])[0]
    write_report(found, tmp_path / "report", "flash-pl sweep")
    page = Page((tmp_path / "report" / "report.html").read_text()).text
    assert "Left out, because they failed: lr=1e9,seed=1; lr=1e9,seed=2. Means are over the other seeds." in page


def test_lines_differ_and_a_name_that_begins_with_an_underscore_is_in_the_legend():
    looks = [str(plotting.line_style(index)) for index in range(56)]
    assert len(set(looks)) == 56
    figure, (axes,) = plotting.new_figure(1, across=1)
    plotting.plot_line(axes, np.arange(3.0), np.arange(3.0), None, plotting.line_style(0), "_fc")
    plotting.legend_below(figure, [axes])
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_fc"]


def test_the_table_needs_no_torch_and_the_report_none_either(make_run, tmp_path):
    runs = [make_run("a", "fleet=mixed", config="hetero_jmwst"), make_run("b", "scheduler=nst")]
    code = "import sys; from flash_pl.cli import main; code = main(sys.argv[1:]); print(code, *sys.modules)"
    for more, drawn in (["--target", "0.5"], False), (["--out", str(tmp_path / "out")], True):
        command = [sys.executable, "-c", code, "compare", *map(str, runs), *more]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        ended, *modules = printed.splitlines()[-1].split()
        assert ended == "0" and not {"torch", "lightning"} & set(modules) and ("matplotlib" in modules) == drawn


def test_a_page_of_any_scheme_shows_the_grid_faintly_and_every_layer():
    figure, (axes,) = plotting.new_figure(panels=1, across=1)
    axes.plot([1, 2], [1, 2])
    source = plotting.as_inline_svg(figure, "x")
    assert source.count("stroke: var(--line)") >= 4 and "stroke: #e" not in source
