"""Rounds and bytes until a metric reaches a value, against the rows of metrics.csv."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flash_pl.cli import main
from flash_pl.compare import Comparison, Run
from flash_pl.config import compose
from flash_pl.errors import ConfigError

KEYS = ("rounds_to_target", "bytes_up_to_target", "bytes_to_target")
LOSS = ["trainer.monitor=val_loss", "trainer.monitor_mode=min"]


def comparison(*paths, target, last=5):
    return Comparison.of([Run.read(path) for path in paths], last, target=target)


def columns(found):
    return [next(column for column in found.columns if column.key == key) for key in KEYS]


def numbers(path, target):
    """What a run shows, in base units."""
    run = Run.read(path)
    return [column.value(run) for column in columns(comparison(path, target=target)[0])]


def by_hand(path, metric, reached):
    with open(path / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row[metric] not in ("", "nan", "inf", "-inf") and reached(float(row[metric])):
                up, down = float(row["bytes_up_total"]), float(row["bytes_down_total"])
                return [float(row["round"]), up, up + down]
    return [None] * 3


def total(count, of=1):
    return {"bytes_up_total": [of * (7 + 3 * n) for n in range(count)],
            "bytes_down_total": [of * (5 + 4 * n) for n in range(count)]}  # fmt: skip


CELLS = st.lists(
    st.sampled_from(["", "nan", "inf", "-inf", 0.1, 0.25, 0.5, 0.75, 0.9, 1.5, 80.0]), min_size=1, max_size=8
)


@given(cells=CELLS, target=st.sampled_from([0.1, 0.5, 0.6, 0.9, 50.0]), low=st.booleans())
def test_the_first_round_that_reaches_the_target_as_it_was_measured(tmp_path_factory, cells, target, low):
    metric = "val_loss" if low else "val_acc"
    path = _run(tmp_path_factory.mktemp("run"), metric, low, cells)
    expected = by_hand(path, metric, (lambda value: value <= target) if low else (lambda value: value >= target))
    assert numbers(path, target) == expected


def _run(folder, metric, low, cells):
    """A run written by hand: hypothesis cannot call a fixture again."""
    config = compose({"scheduler": "jmwst"}, [f"rounds={len(cells)}", *(LOSS if low else [])])
    kept = {key: value for key, value in config.items() if key not in ("run_dir", "ckpt_path")}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))
    (folder / "result.json").write_text("{}")
    rows = [
        f"{n},{cell},{up},{down}"
        for n, (cell, up, down) in enumerate(zip(cells, *total(len(cells)).values(), strict=True), 1)
    ]
    (folder / "metrics.csv").write_text("\n".join([f"round,{metric},bytes_up_total,bytes_down_total", *rows]))
    return folder


def test_nothing_is_smoothed(make_run):
    """An accuracy that falls again has reached its highest value, and one between two evaluations is not known."""
    path = make_run("a", accuracies=(0.2, "", 0.81, 0.5, 0.9), columns=total(5))
    assert numbers(path, 0.8) == [3, 13, 13 + 13] and numbers(path, 0.81) == [3, 13, 26]
    assert numbers(path, 0.82) == [5, 19, 19 + 21] and numbers(path, 0.91) == [None] * 3


def test_seven_of_ten_reach_seventy_percent(make_run):
    """In single precision 0.7 is below 0.7."""
    assert numbers(make_run("a", accuracies=(0.3, 0.699999988079071), columns=total(2)), 0.7)[0] == 2
    assert numbers(make_run("b", *LOSS, accuracies=(0.3, 0.10000000149011612), columns=total(2)), 0.1)[0] == 2


def test_seeds_that_never_reach_it_are_counted_and_the_group_is_not_the_best(make_run):
    paths = [
        make_run(f"a{seed}", f"seed={seed}", accuracies=(0.2, value), columns=total(2, of=10**6))
        for seed, value in [(1, 0.9), (2, 0.5), (3, 0.8)]
    ]
    other = make_run("b", "scheduler=nst", accuracies=(0.8, 0.8), columns=total(2, of=10**9))
    never = make_run("c", "scheduler=pdst", accuracies=(0.1, 0.1), columns=total(2))
    found, warnings = comparison(*paths, other, never, target=0.8)
    assert [found.text(group, columns(found)[0]) for group in found.groups] == ["2.0 ± 0.0 (2 of 3)", "1.0", "-"]
    assert [found.is_best(group, columns(found)[1]) for group in found.groups] == [False, True, False]
    assert "- means never" in found.about_target and not warnings


def test_a_target_that_no_run_reaches_is_a_warning(make_run):
    path = make_run("a", accuracies=(0.2, 0.83, 0.5), columns=total(3))
    found, warnings = comparison(path, target=80)
    assert [found.text(found.groups[0], column) for column in columns(found)] == ["-"] * 3
    assert len(warnings) == 1 and "0.83" in warnings[0] and "share" in warnings[0]
    assert "share" not in comparison(path, target=0.9)[1][0]


def test_a_run_without_its_first_rounds_may_have_reached_it_before(make_run):
    path = make_run("a", accuracies=(0.2, 0.9, 0.9), columns=total(3))
    header, _, *rows = (path / "metrics.csv").read_text().splitlines()
    (path / "metrics.csv").write_text("\n".join([header, *rows]))
    assert numbers(path, 0.8) == [None] * 3


def test_bytes_that_a_table_lacks_are_not_zero(make_run):
    assert numbers(make_run("a", accuracies=(0.9,)), 0.8) == [1, None, None]
    assert numbers(make_run("b", accuracies=(0.9,), columns={"bytes_up_total": [7]}), 0.8) == [1, 7, None]


def test_one_target_is_for_one_metric(make_run):
    with pytest.raises(ConfigError) as caught:
        comparison(make_run("a"), make_run("b", *LOSS), target=0.5)
    assert caught.value.key == "target" and "val_acc" in caught.value.problem and "val_loss" in caught.value.problem


def test_the_command_has_a_table_of_it(make_run, capsys, tmp_path):
    path = make_run("a", accuracies=(0.2, 0.9), columns=total(2, of=10**6))
    out = tmp_path / "report"
    assert main(["compare", str(path), "--target", "0.9", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["jmwst", "0.05", "1", "2", "10.0", "19.0"] for line in lines)
    assert "--target 0.9" in (out / "report.html").read_text()
    (row,) = csv.DictReader((out / "table.csv").read_text().splitlines())
    assert [float(row[f"{key}_mean"]) for key in KEYS] == [2, 10e6, 19e6]
    for wrong in ("nan", "inf"):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", str(path), "--target", wrong])
        assert capsys.readouterr().err.startswith("flash-pl: error: --target: ")
