"""Reading runs: what is one, what is left out and why."""

import os
import re

import pytest

from flash_pl.compare import Run, read_runs
from flash_pl.errors import ConfigError


def test_a_run_is_read_and_empty_cells_are_passed_over(make_run):
    path = make_run("run", accuracies=(0.1, "", 0.3, 0.5, ""), columns={"bytes_up": (1, 2, 3, 4, 5)})
    run = Run.read(path)
    assert run.names == {"data": "digits", "model": "digits_cnn", "scheduler": "jmwst"}
    assert run.mean_of_last("val_acc", 2) == pytest.approx(0.4) and run.mean_of_last("val_acc", 9) == pytest.approx(0.3)
    assert run.last("val_acc") == 0.5 and run.total("bytes_up") == 15 and run.last("nothing") is None


def test_a_table_that_a_spreadsheet_has_saved_is_read(make_run):
    path = make_run("run")
    metrics = path / "metrics.csv"
    metrics.write_bytes(b"\xef\xbb\xbf" + metrics.read_bytes())
    assert Run.read(path).last("val_acc") == 0.6


def test_runs_are_found_below_folders_and_behind_links_each_once(make_run, tmp_path):
    first, second = make_run("all/b/one"), make_run("all/a/deep/two", "seed=2")
    (first / "checkpoints").mkdir()
    (tmp_path / "chosen").mkdir()
    os.symlink(first, tmp_path / "chosen" / "link")
    os.symlink(tmp_path, tmp_path / "all" / "loop")
    runs, errors = read_runs([tmp_path / "all", first, tmp_path / "chosen"])
    assert [run.path for run in runs] == [second, first] and not errors
    runs, _ = read_runs([tmp_path / "chosen"])
    assert [run.path.name for run in runs] == ["link"]


def test_runs_are_not_looked_for_on_a_whole_disk(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("flash_pl.compare.runs.MOST_FOLDERS", 5)
    make_run("all/a")
    for number in range(20):
        (tmp_path / "disk" / str(number)).mkdir(parents=True)
    (tmp_path / "all" / "link").symlink_to(tmp_path / "disk")
    runs, (error,) = read_runs([tmp_path / "all"])
    assert [run.path.name for run in runs] == ["a"] and str(tmp_path / "all") in str(error)


def test_paths_without_runs_and_unfinished_runs_are_named(make_run, tmp_path):
    make_run("good")
    (make_run("unfinished") / "result.json").unlink()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / "config.yaml").touch()
    (tmp_path / "empty").mkdir()
    runs, errors = read_runs([tmp_path / "nowhere", tmp_path / "empty", tmp_path])
    assert [run.path.name for run in runs] == ["good"]
    names = ("nowhere", "empty", "begun", "unfinished")
    assert len(errors) == 4 and all(f"{name}'" in str(error) for name, error in zip(names, errors, strict=True))
    assert "finished" in str(errors[-1])


# A file and its content.
DAMAGED = [
    ("config.yaml", None),
    ("config.yaml", b"a: ["),
    ("config.yaml", b"\xff\xfe\x00"),
    ("config.yaml", b"scheduler: jmwst"),
    ("config.yaml", b"{density: 0}"),
    ("config.yaml", b"{density: 0.1, seed: 1, rounds: 2, cohort: 1, data: digits}"),
    ("metrics.csv", None),
    ("metrics.csv", b""),
    ("metrics.csv", b"round,val_acc\n"),
    ("metrics.csv", b"val_acc\n0.5\n"),
    ("metrics.csv", b"round,val_acc\n1,0.5\n2\n"),
    ("metrics.csv", b"round,val_acc\n1,lots\n"),
    ("metrics.csv", b"round,val_acc\n2,0.5\n1,0.5\n"),
    ("metrics.csv", b"round\xff\n1\n"),
    ("metrics.csv", b"round,a\n1,\x00\n"),
    ("result.json", b"{"),
    ("result.json", b"[1]"),
    ("result.json", b"\xff"),
    ("consensus.csv", b"layers\n?\n"),
]


@pytest.mark.parametrize(("file", "content"), DAMAGED)
def test_a_damaged_file_is_one_error(make_run, file, content):
    path = make_run("run")
    (path / file).unlink(missing_ok=True)
    if content is not None:
        (path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(file)) as caught:
        Run.read(path)
    assert caught.value.key in ("run", "config") and str(path) in str(caught.value)
