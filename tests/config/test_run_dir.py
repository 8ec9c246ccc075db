"""Run directories: no command replaces a run, and a resumed run finds its own directory."""

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest

from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.config import DirectoryLock, RunDir, compose, read_config
from flash_pl.environment import starts_as_rank_0

TINY = ["data=synthetic", "data.samples=60", "data.test_samples=20", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=8", "clients=3", "cohort=2", "batch_size=8", "density=0.2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false"]
NAME = "runs/synthetic-pdst-d0.2-s1"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*arguments, rounds=2) -> int:
    return main(["fit", "pdst", *TINY, f"rounds={rounds}", *arguments])


def rounds_of(run) -> int:
    return read_checkpoint(f"{run}/checkpoints/last.ckpt")["flash_pl"]["round"]


def break_off(run):
    """As a kill leaves a run: everything but the result."""
    (run / "result.json").unlink()


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_plain_command_takes_the_next_number_also_beside_a_broken_run(tmp_path):
    assert fit() == 0
    break_off(tmp_path / NAME)
    before = files(tmp_path / NAME)
    assert fit() == 0 and fit() == 0
    assert files(tmp_path / NAME) == before
    assert (tmp_path / f"{NAME}-2" / "result.json").exists() and (tmp_path / f"{NAME}-3" / "result.json").exists()


def test_dense_training_has_no_target_in_its_name():
    for name, end in {"dense": "dense-d1-s1", "pdst": "pdst-d0.2-s1"}.items():
        config = compose(read_config(name), TINY)
        assert str(RunDir(config).path) == f"runs/synthetic-{end}"


def test_last_goes_on_with_the_newest_of_the_numbered_runs(tmp_path):
    assert fit() == 0 and fit() == 0
    break_off(tmp_path / f"{NAME}-2")
    first = files(tmp_path / NAME)
    assert fit("ckpt_path=last", rounds=4) == 0
    assert files(tmp_path / NAME) == first and rounds_of(f"{NAME}-2") == 4


def test_a_checkpoint_file_goes_on_in_its_own_run(tmp_path):
    assert fit() == 0 and fit() == 0
    second = files(tmp_path / f"{NAME}-2")
    assert fit(f"ckpt_path={NAME}/checkpoints/last.ckpt", rounds=3) == 0
    assert rounds_of(NAME) == 3 and files(tmp_path / f"{NAME}-2") == second
    assert json.loads((tmp_path / NAME / "result.json").read_text())["rounds"] == 3


@contextmanager
def in_use(path):
    """As long as another run writes in the directory, perhaps without a file yet."""
    lock = DirectoryLock(path)
    assert lock.acquire() is None
    yield
    lock.release(keep=True)


def refusal(capsys, *arguments) -> str:
    capsys.readouterr()
    assert fit(*arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_directory_in_use_is_taken_also_without_files(tmp_path, capsys):
    with in_use(tmp_path / NAME):
        assert fit() == 0
        assert rounds_of(f"{NAME}-2") == 2
        assert [path.name for path in (tmp_path / NAME).iterdir()] == [".lock"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("arguments", [["run_dir=mine"], ["run_dir=mine", "ckpt_path=last"]])
def test_a_second_run_in_a_directory_is_refused(arguments, finished, tmp_path, capsys):
    if finished:
        assert fit("run_dir=mine") == 0
    with in_use(tmp_path / "mine"):
        before = files(tmp_path / "mine")
        line = refusal(capsys, *arguments)
        assert "run_dir: " in line and "'mine'" in line
        assert f"process {os.getpid()} on {socket.gethostname()}" in line and "another directory" in line
        assert files(tmp_path / "mine") == before


def test_last_does_not_go_on_with_a_run_that_is_running(tmp_path, capsys):
    assert fit() == 0
    with in_use(tmp_path / f"{NAME}-2"):
        line = refusal(capsys, "ckpt_path=last")
        assert f"{NAME}-2" in line and f"process {os.getpid()} " in line
    with in_use(tmp_path / NAME):
        line = refusal(capsys, f"ckpt_path={NAME}/checkpoints/last.ckpt")
        assert f"'{NAME}'" in line and f"process {os.getpid()} " in line
    assert fit("ckpt_path=last", rounds=3) == 0 and rounds_of(NAME) == 3


def test_what_a_killed_start_leaves_is_used_by_the_next_one(tmp_path):
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / ".lock").write_text("process 1 on elsewhere\n")
    assert fit("ckpt_path=last") == 0 and rounds_of(NAME) == 2
    assert not list(tmp_path.rglob(".lock")) and not (tmp_path / f"{NAME}-2").exists()


def test_a_restart_by_torchrun_leaves_a_run_alone_that_is_running(tmp_path, monkeypatch):
    assert fit() == 0
    break_off(tmp_path / NAME)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with in_use(tmp_path / f"{NAME}-2"):
        assert fit(rounds=3) == 0
    assert rounds_of(NAME) == 3 and not (tmp_path / f"{NAME}-3").exists()


# Each is refused later than the one before: settings, the launch, the data, the network, the checkpoint, loggers.
LATE = [
    "trainer.graphs=true",
    "data=fashion_mnist",
    "model.num_classes=2",
    "ckpt_path=nowhere.ckpt",
    "logger=flash_pl.callbacks.History",
]


@pytest.mark.parametrize("argument", LATE)
@pytest.mark.parametrize("named", [True, False])
def test_a_refused_start_leaves_nothing(argument, named, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))
    refusal(capsys, argument, *["run_dir=a/b/c"] * named)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["''", "x" * 300, "/".join(["x" * 200] * 30), "file", "file/run", "/proc/none/run"])
def test_a_path_that_cannot_be_a_directory_is_one_line(path, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "error: run_dir: " in refusal(capsys, f"run_dir={path}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_only_rank_0_claims(monkeypatch):
    assert starts_as_rank_0()
    for names in ({"RANK": "1", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1"}, {"SLURM_PROCID": "3"}):
        with monkeypatch.context() as context:
            for name, value in names.items():
                context.setenv(name, value)
            assert not starts_as_rank_0()
            with RunDir(compose(read_config("pdst"), TINY)).claimed(writes=starts_as_rank_0()):
                assert not Path("runs").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_named_directory_with_a_run_is_refused_and_left_alone(finished, tmp_path, capsys):
    assert fit("run_dir=mine") == 0 and fit("run_dir=other") == 0
    if not finished:
        break_off(tmp_path / "mine")
    before = files(tmp_path / "mine")
    capsys.readouterr()
    for arguments in ([], ["ckpt_path=other/checkpoints/last.ckpt"]):
        assert fit("run_dir=mine", *arguments) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "run_dir: 'mine'" in line and "ckpt_path=last" in line
    assert files(tmp_path / "mine") == before
    assert fit("run_dir=mine", "ckpt_path=last", rounds=3) == 0 and rounds_of("mine") == 3


def test_what_the_error_about_a_taken_directory_advises_works(capsys):
    assert fit("run_dir=here", rounds=1) == 0

    def refusal(*arguments):
        capsys.readouterr()
        assert fit("run_dir=here", *arguments) == 2
        return capsys.readouterr().err.removeprefix("flash-pl: error: ")

    assert "ckpt_path=last" in refusal() and refusal().startswith("run_dir: ")
    # Another experiment cannot go on there, as after a run that diverged.
    other = refusal("lr=0.01")
    assert other.startswith("run_dir: ") and "another lr" in other and "ckpt_path" not in other
    assert "without ckpt_path" in refusal("lr=0.01", "ckpt_path=last")
    # A missing checkpoint is not blamed on the directory.
    assert refusal("ckpt_path=nowhere.ckpt").startswith("ckpt_path: 'nowhere.ckpt' ")
    assert fit("run_dir=here", "ckpt_path=last") == 0


def test_a_restart_by_torchrun_finds_the_run_that_died_and_not_a_finished_one(tmp_path, monkeypatch):
    assert fit() == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert fit() == 0
    assert rounds_of(NAME) == rounds_of(f"{NAME}-2") == 2
    break_off(tmp_path / f"{NAME}-2")
    assert fit(rounds=3) == 0
    assert rounds_of(f"{NAME}-2") == 3 and not (tmp_path / f"{NAME}-3").exists()


def test_a_file_that_is_not_a_runs_is_left_alone(tmp_path, capsys):
    """A config of the user's own, and whatever lies around a checkpoint that was copied."""
    assert fit("run_dir=mine") == 0
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("scheduler: pdst  # mine\n")
    (tmp_path / "own" / "metrics.csv").write_text("mine")
    (tmp_path / "own" / "kept").mkdir()
    (tmp_path / "own" / "kept" / "last.ckpt").write_bytes(
        (tmp_path / "mine" / "checkpoints" / "last.ckpt").read_bytes()
    )
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.yaml").write_bytes(b"scheduler: pdst  # mine, \xff\n")
    before = files(tmp_path / "own"), files(tmp_path / "plain")
    assert fit("ckpt_path=own/kept/last.ckpt", rounds=3) == 0
    assert rounds_of(NAME) == 3
    capsys.readouterr()
    assert fit("run_dir=plain") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "run_dir: 'plain'" in line and "config.yaml" in line
    assert (files(tmp_path / "own"), files(tmp_path / "plain")) == before


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fit("run_dir=~/runs/mine") == 0
    assert (tmp_path / "home" / "runs" / "mine" / "result.json").exists() and not (tmp_path / "~").exists()
