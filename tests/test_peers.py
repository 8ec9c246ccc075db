"""The speed comparison with other frameworks: its arithmetic, its tables, and one contender in a process of its own."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(SPEED / "peers")
    monkeypatch.syspath_prepend(SPEED)
    return importlib.import_module("peers")


def row(contender="Flower", workload="lenet5", seconds=(9.0, 9.0, 3.0), bare=(1.0, 1.0, 1.0, 2.0), **changed):
    facts = {"version": "flwr 1", "accuracy": 0.5, "moved": 1.0, "memory_mb": 100.0, "first_round_s": 2.0}
    measured = {"contender": contender, "workload": workload, "seconds": list(seconds), "bare": list(bare)}
    return facts | measured | changed


def test_a_round_is_divided_by_the_bare_rounds_around_it(peers):
    assert peers.ratios([9.0, 3.0], [8.0, 1.0, 2.0], warm_up=1) == [2.0]
    assert peers.ratios([60.0], [1.0, 2.0, 3.0], warm_up=1) == [30.0]  # NVIDIA FLARE: no bare round in between


def test_a_table_has_a_line_per_contender_in_order_of_its_ratio(peers):
    rows = [row(), row("fluke", seconds=(1.0, 1.0, 1.5), accuracy=0.25), row("Flower", seconds=(9.0, 9.0, 6.0))]
    lines = peers.table(rows, "lenet5")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| fluke", "| Flower"]
    assert "| 3.00 (2.00 to 4.00) |" in lines[3] and "| 25.0 % |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


def test_contenders_with_equal_ratios_keep_their_lines(peers):
    assert len(peers.table([row(), row("fluke")], "lenet5")) == 4


def test_all_contenders_have_a_script_and_an_environment(peers):
    for contender in peers.CONTENDERS.values():
        assert (SPEED / "peers" / contender.script).exists()
        assert contender.environment in {"", *peers.PACKAGES}


def test_memory_counts_the_processes_that_a_process_has_started(peers):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        assert len(peers.descendants(process.pid)) == 2
        assert peers.memory_mb(process.pid) > 1
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize("script, variant", [("run_bare.py", "tuned"), ("run_flash.py", "0.2")])
def test_a_contender_reports_its_rounds(script, variant, peers, tmp_path):
    bare = script == "run_bare.py"
    shapes = {"images": (12, 8, 1, 28, 28), "labels": (12, 8), "test_images": (4, 1, 28, 28), "test_labels": (4,)}
    (tmp_path / "data" / "lenet5").mkdir(parents=True)
    for name, shape in shapes.items():
        array = np.zeros(shape, np.float32 if "images" in name else np.int64)
        np.save(tmp_path / "data" / "lenet5" / name, array)
    core = min(os.sched_getaffinity(0))
    report = peers.measure(peers.Contender(script, variant), "lenet5", 2, bare, tmp_path, core)
    assert len(report["seconds"]) == 2 and report["first_round_s"] > 0
    if bare:
        assert len(report["bare"]) == 3 and report["moved"] > 0
        assert report["accuracy"] == 1.0  # all images and labels are 0
    else:
        assert not report["bare"] and report["memory_mb"] > 1
