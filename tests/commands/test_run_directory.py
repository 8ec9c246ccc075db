"""A run directory stands for its checkpoint, and missing folders above a result are made."""

import shutil
from pathlib import Path

import pytest

from flash_pl.atomic_write import make_folder
from flash_pl.checkpoint import checkpoint_file, read_checkpoint
from flash_pl.cli import main

TINY = ["data=synthetic", "data.samples=60", "data.test_samples=20", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=4", "cohort=2", "batch_size=8", "density=0.2", "rounds=1"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_is_accepted_in_place_of_its_checkpoint(capsys, tmp_path):
    run = tmp_path / "not" / "there" / "yet"
    assert main(["fit", "pdst", *TINY, f"run_dir={run}"]) == 0
    capsys.readouterr()
    last = run / "checkpoints" / "last.ckpt"
    for command in (["validate"], ["inspect"], ["export", "--to", "new/folder/model.safetensors"]):
        shown = []
        for path in (run, last):
            assert main([*command, str(path)]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]
    assert (tmp_path / "new" / "folder" / "model.safetensors").exists()
    assert main(["compare", str(run), "--out", "other/new/report"]) == 0
    assert (tmp_path / "other" / "new" / "report" / "report.html").exists()
    capsys.readouterr()
    assert main(["export", str(run), "--to", "other/new/report/report.html/x.flash"]) == 2
    assert "report.html' is not a folder" in capsys.readouterr().err
    assert main(["fit", str(run / "config.yaml"), f"ckpt_path={run}", "rounds=2"]) == 0
    assert read_checkpoint(run)["flash_pl"]["round"] == 2  # it went on in the directory of the run
    assert main(["fit", "pdst", *TINY, "run_dir=copy", f"ckpt_path={run}", "rounds=3"]) == 0
    assert read_checkpoint("copy")["flash_pl"]["round"] == 3


def test_what_validate_changes_in_a_component_is_checked_in_source(capsys, tmp_path, monkeypatch):
    def never(*path):
        raise AssertionError("the checkpoint is read")

    assert main(["fit", "pdst", *TINY, "run_dir=here"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("flash_pl.commands.fit.read_checkpoint", never)
        for path in ("here", "here/checkpoints/last.ckpt"):
            for wrong in ("data.sampels=5", "data.samples=0"):
                assert main(["validate", path, wrong]) == 2
                assert wrong.partition("=")[0] in capsys.readouterr().err
    config = tmp_path / "here" / "config.yaml"
    for content in ("data: {samples: 0}", "- no config", None):  # the checkpoint has its own
        config.write_text(content) if content else config.unlink()
        assert main(["validate", "here"]) == 0


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/a/b"):
        with pytest.raises(NotADirectoryError) as caught:
            make_folder(Path(folder))
        assert caught.value.strerror == "'file' is not a folder"


def test_the_best_checkpoint_stands_in_for_the_last_one(tmp_path):
    for name in ("last", "best"):
        (tmp_path / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "checkpoints" / f"{name}.ckpt").touch()
    assert checkpoint_file("run").name == "last.ckpt"
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    assert checkpoint_file("run").name == "best.ckpt"
    assert str(checkpoint_file("run/checkpoints/other.ckpt")) == "run/checkpoints/other.ckpt"
    assert str(checkpoint_file("~nobody_here/x")) == "~nobody_here/x"


@pytest.mark.parametrize(
    "command", [["validate", "run"], ["inspect", "run"], ["export", "run", "--to", "x.flash"], ["fit", "pdst"]]
)
def test_a_folder_without_checkpoints_is_one_line(command, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    more = [*TINY, "ckpt_path=run"] if command[0] == "fit" else []
    assert main([*command, *more]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ckpt_path: 'run' is a folder")
    shutil.rmtree(tmp_path / "run")
    assert not list(tmp_path.iterdir())
