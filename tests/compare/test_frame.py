"""Runs as a DataFrame."""

import csv
import math
import sys

import pytest

from flash_pl.compare import to_frame
from flash_pl.errors import ConfigError


def test_a_row_for_each_run_with_the_numbers_of_its_files(make_run, tmp_path):
    pytest.importorskip("pandas")
    columns = {"bytes_up_total": (10, 20), "bytes_down_total": (1, 2)}
    one = make_run("runs/a", "seed=1", "lr=0.3", accuracies=(0.5, 0.8), columns=columns)
    two = make_run("runs/b", "seed=2", "lr=0.3", accuracies=(0.5, 0.7), columns=columns)
    three = make_run("runs/c", "fleet=mixed", config="hetero_jmwst", accuracies=(0.2, 0.4), columns=columns)
    frame = to_frame(tmp_path / "runs", last=1, target=0.75)
    assert frame["experiment"].tolist() == ["jmwst, lr=0.3"] * 2 + ["hetero_jmwst, fleet=mixed"]
    assert frame["path"].tolist() == [str(path) for path in (one, two, three)] and frame["seed"].tolist()[:2] == [1, 2]
    for path, accuracy, up in zip(frame["path"], frame["val_acc"], frame["bytes_up"], strict=True):
        with open(f"{path}/metrics.csv", newline="") as file:
            *_, row = csv.DictReader(file)
        assert (accuracy, up) == (float(row["val_acc"]), float(row["bytes_up_total"]))
    assert frame["bytes_to_target"].tolist()[0] == 22 and all(map(math.isnan, frame["bytes_to_target"].tolist()[1:]))
    assert frame["lr"].tolist()[:2] == [0.3, 0.3] and frame["fleet"].tolist()[2] == "mixed"


def test_what_is_left_out_is_a_warning_and_nothing_an_error(make_run, tmp_path):
    pytest.importorskip("pandas")
    make_run("runs/a")
    broken = make_run("runs/b")
    (broken / "result.json").unlink()
    with pytest.warns(UserWarning, match="left out: .*result.json"):
        assert len(to_frame([tmp_path / "runs"])) == 1
    with pytest.raises(ConfigError) as caught:
        to_frame(str(tmp_path / "nowhere"))
    assert caught.value.key == "run"


def test_without_pandas_it_is_one_sentence(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError) as caught:
        to_frame(make_run("a"))
    assert caught.value.key == "pandas" and "flash-pl[pandas]" in caught.value.hint
