"""The table as text: numbers, bold, escapes."""

import csv
import io

import pytest
from rich.console import Console

from flash_pl.compare import Comparison, Run, print_table, tables_of
from flash_pl.compare.columns import BYTES, TIME, Unit
from flash_pl.compare.table import Cell, Table, as_csv, as_latex, as_markdown


@pytest.fixture
def foreign(make_run):
    """A run whose vote is a class with a name full of traps."""

    def make(*arguments, **kwargs):
        path = make_run(*arguments, **kwargs)
        text = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(text.replace("flash_pl.server.MagnitudeVote", "a_b.C_D&<1>"))
        return path

    return make


@pytest.fixture
def found(make_run, foreign):
    columns = {"bytes_up_total": (2e6, 4e6), "seconds": (1.5, 1.5)}
    paths = [
        foreign("1", "seed=1", accuracies=(0.5, 0.5), columns=columns),
        foreign("2", "seed=2", accuracies=(0.7, 0.7), columns=columns),
        make_run("3", "scheduler=nst", accuracies=(0.65, 0.65), columns=columns),
    ]
    return Comparison.of([Run.read(path) for path in paths], 5)[0]


def test_csv_has_plain_numbers_in_base_units(found):
    first, second = csv.DictReader(io.StringIO(as_csv(found)))
    assert float(first["val_acc_mean"]) == pytest.approx(0.6) and float(first["val_acc_std"]) == pytest.approx(
        0.02**0.5
    )
    assert (first["val_acc_n"], first["seeds"], first["settings"]) == ("2", "1 2", "scheduler.voter=C_D&<1>")
    assert float(first["bytes_up_mean"]) == 4e6 and float(first["seconds_mean"]) == 3
    assert (second["val_acc_std"], second["val_acc_n"], second["scheduler"]) == ("", "1", "nst")


def test_markdown(found):
    lines = as_markdown(tables_of(found)).splitlines()
    assert lines[0] == "| experiment | density | seeds | accuracy, % |" and lines[1] == "| --- | ---: | ---: | ---: |"
    assert lines[2] == "| jmwst, scheduler.voter=C\\_D\\&\\<1> | 0.05 | 2 | 60.0 ± 14.1 |"
    assert lines[3].endswith("| 0.05 | 1 | **65.0** |")
    assert "| experiment | density | seeds | up, MB | time of rounds, s |" in lines


def test_latex(found):
    text = as_latex(tables_of(found))
    assert text.count(r"\begin{tabular}{lrrr") == 2 == text.count(r"\bottomrule")
    assert r"jmwst, scheduler.voter=C\_D\&\textless{}1\textgreater{} & 0.05 & 2 & 60.0 $\pm$ 14.1 \\" in text
    assert r"\textbf{65.0} \\" in text and r"(\%)\end{tabular}" in text
    # A bracket after \\ would be read as its argument.
    assert r"\\ [" not in text and r"\\[" not in text


def test_a_terminal_shows_all_columns_and_a_file_keeps_them_together(found):
    out = io.StringIO()
    for table in tables_of(found):
        print_table(table, Console(file=out, force_terminal=True, width=50, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 50 and sum("density" in line for line in lines) >= 2
    for word in ("60.0 ± 14.1", "4.00", "3.00"):
        assert any(word in line for line in lines)
    out = io.StringIO()
    for table in tables_of(found):
        print_table(table, Console(file=out, width=20))
    assert "*65.0" in out.getvalue() and "Best with *" in out.getvalue()
    assert any("experiment" in line and "density" in line for line in out.getvalue().splitlines())


def test_digits_follow_the_size_of_a_number():
    assert [Unit("").format(value) for value in (0, 0.0999999, 9.999, 99.99, 1234.5)] == [
        "0",
        "0.100",
        "10.0",
        "100",
        "1234",
    ]
    assert [BYTES.unit_for([value]).name for value in (0, 999, 1000, 5e13)] == ["B", "B", "kB", "TB"]
    assert TIME.unit_for([59, 7300]).format(3600) == "1.00"


@pytest.mark.parametrize("width", [36, 46, 60, 80, 120])
def test_a_terminal_of_any_width_cuts_no_setting(width):
    names = ["jmwst, lr=0.1, scheduler.prune_rate=0.25", "hetero_jmwst, scheduler.prune_rate=0.3, fleet=mixed"]
    rows = [[Cell(name), Cell("0.05"), Cell("12.3", best=True)] for name in names]
    table = Table(["experiment", "density", "down per client and round"], ["", "", "kB"], rows, 1, "Costs.")
    out = io.StringIO()
    print_table(table, Console(file=out, width=width, force_terminal=True, color_system=None))
    assert max(map(len, out.getvalue().splitlines())) <= width
    # Folded names interleave with the titles of their line; the characters of the last column remain in order.
    last = "".join(line.split("  ")[-1].strip() for line in out.getvalue().replace("  \n", "\n").splitlines())
    assert "…" not in last and all(setting in out.getvalue() or setting in last for setting in ["=0.25", "=0.3"])
