"""The commands sweep and compare."""

import os
import re
import shutil
import signal

import pytest

from flash_pl.cli import main
from flash_pl.compare import Run
from flash_pl.config import DirectoryLock
from flash_pl.errors import Interrupted

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2", "trainer.accelerator=cpu"]
CNN = ["model=digits_cnn", "model.hidden=16"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(capsys, *arguments):
    """The one line that a command prints when it refuses."""
    try:
        code = main(arguments)
    except SystemExit as end:  # of a wrong option
        code = end.code
    assert code == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


def test_a_second_sweep_in_a_folder_is_refused(capsys, tmp_path):
    lock = DirectoryLock(tmp_path / "out")
    assert lock.acquire() is None
    line = refusal(capsys, "sweep", "pdst", *TINY, *CNN, "--out=out")
    assert line.startswith("out: ") and f"process {os.getpid()} " in line and "'out'" in line
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_finished_runs_are_skipped_unfinished_ones_resumed_and_failures_named(capsys, tmp_path):
    (tmp_path / "tires_soon.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, rounds=100):\n"
        "        super().__init__()\n        self.fc, self.left = nn.Linear(64, 4), rounds\n"
        "    def forward(self, images):\n        self.left -= 1\n        assert self.left > 0, 'tired'\n"
        "        return self.fc(images.flatten(1))\n"
    )
    net, names = ["model.class_path=tires_soon.Net"], ["finished", "begun", "other", "fails"]
    values = dict(zip(names, ("1001", "1002", "1003", "2"), strict=True))
    folders = {name: tmp_path / "out" / f"model.rounds={value}" for name, value in values.items()}
    for name in ("finished", "begun"):
        assert main(["fit", "pdst", *TINY, *net, f"model.rounds={values[name]}", f"run_dir={folders[name]}"]) == 0
    shutil.copytree(folders["finished"], folders["other"])
    (folders["begun"] / "result.json").unlink()
    before = {name: (folders[name] / "result.json").read_bytes() for name in ("finished", "other")}
    capsys.readouterr()

    arguments = ["sweep", "pdst", *TINY, *net, f"model.rounds={','.join(values.values())}", "--out", "out"]
    assert main([*arguments, "--workers", "2"]) == 3
    out, err = capsys.readouterr()
    lines = {line.split("  ")[1]: line.split("  ")[2] for line in err.splitlines() if " of 4  " in line}
    ends = {name: lines[folder.name] for name, folder in folders.items()}
    assert ends["finished"] == "already there" and re.match(r"last accuracy [\d.]+ %, ", ends["begun"])
    assert "another experiment (model.init_args.rounds=1001)" in ends["other"]
    assert "AssertionError: tired" in ends["fails"] and "exit code 3" in ends["fails"]
    names = ", ".join(folders[name].name for name in ("other", "fails"))
    assert err.splitlines()[-1] == f"flash-pl: error: 2 of 4 runs failed: {names}"
    out, _, left_out = out.partition("Left out, because they failed: ")
    assert all(name in left_out for name in names.split(", "))
    assert "going on from" in (tmp_path / "out" / f"{folders['begun'].name}.log").read_text()
    assert before == {name: (folders[name] / "result.json").read_bytes() for name in before}
    assert "model.rounds=1001" in out and "model.rounds=1002" in out and "model.rounds=1003" not in out
    assert (tmp_path / "out" / "report" / "report.html").exists()


def test_a_sweep_of_finished_runs_only_compares_them(capsys, tmp_path):
    for seed in (1, 2):
        assert main(["fit", "pdst", *TINY, *CNN, f"seed={seed}", f"run_dir=sweeps/pdst/seed={seed}"]) == 0
    capsys.readouterr()
    assert main(["sweep", "pdst", *TINY, *CNN, "seed=1,2"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == ["1 of 2  seed=1  already there", "2 of 2  seed=2  already there"]
    columns = [Run.read(tmp_path / f"sweeps/pdst/seed={n}").metrics["val_acc"] for n in (1, 2)]
    assert f"{100 * sum(column.mean() for column in columns) / 2:.1f} ± " in out
    assert out.splitlines()[-1] == "sweeps/pdst/report/report.html"

    (tmp_path / "sweeps/pdst/seed=2/result.json").unlink()
    assert main(["compare", "sweeps", "--last", "1"]) == 0
    out, err = capsys.readouterr()
    assert f"{100 * columns[0][-1]:.1f}" in out and "±" not in out
    assert err.count("\n") == 1 and "left out" in err and "seed=2" in err


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "sweep", "pdst", *TINY, *CNN, "--out=file/sub")
    assert line.startswith("out: 'file/sub' ")
    assert main(["sweep", "pdst", *TINY, *CNN, "--out=~/runs"]) == 0
    assert (tmp_path / "home" / "runs" / "run" / "result.json").exists()


# Arguments of sweep, the key that the line starts with, a part of the line.
REFUSED = [
    (["jmwst", "scheduler.prune_rat=0.1,0.2"], "scheduler.prune_rat", "did you mean prune_rate?"),
    (["jmwst", "scheduler=jmwst,jmwts"], "scheduler", "did you mean jmwst?"),
    (["jmwst", "density=0.1,0"], "density", "(0, 1]"),
    (["jmwst", "seed=1,2", "model.hidden=x"], "model.hidden", "an integer"),
    (
        ["jmwst", "scheduler=jmwst,spdst", "scheduler.prune_rate=0.2,0.3"],
        "scheduler.prune_rate",
        "(in scheduler=spdst,",
    ),
    (["jmwts", "seed=1,2"], "config", "did you mean jmwst?"),
    (["jmwst", "seed=1,2", "--workers", "0"], "--workers", "at least 1"),
    (["jmwst", "seed=[1,2"], "seed", "ends without ]"),
]


@pytest.mark.parametrize(("arguments", "key", "words"), REFUSED)
def test_a_wrong_sweep_is_one_line_before_anything_is_trained(capsys, tmp_path, arguments, key, words):
    line = refusal(capsys, "sweep", *arguments)
    assert line.startswith(f"{key}: ") and words in line
    assert not list(tmp_path.iterdir())


def test_a_wrong_comparison_is_one_line(capsys, tmp_path):
    assert "nowhere" in refusal(capsys, "compare", "nowhere")
    assert refusal(capsys, "compare", "nowhere", "--last", "0").startswith("--last: 0")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.csv").touch()
    (tmp_path / "old" / "result.json").touch()
    assert "config.yaml" in refusal(capsys, "compare", "old")


def test_a_stopped_sweep_says_how_it_goes_on(capsys, monkeypatch):
    def stopped(self, jobs):
        raise Interrupted(signal.SIGTERM, "the same command goes on")

    monkeypatch.setattr("flash_pl.sweep.processes.Processes.run", stopped)
    assert main(["sweep", "pdst", *TINY, *CNN, "seed=1,2"]) == 143
    assert capsys.readouterr().err == "flash-pl: stopped by SIGTERM; the same command goes on\n"
