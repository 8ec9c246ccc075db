"""What cannot be exported or looked into is one line and exit code 2, and leaves the folder as it was."""

import os
import shutil
import sys

import pytest

from flash_pl.checkpoint import read_checkpoint, write_checkpoint
from flash_pl.cli import main
from flash_pl.export import missing_packages


def refusal(capsys, *arguments: object) -> str:
    """The one line that a command prints when it refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


# Run, options, a part of the message.
EXPORTS = [
    (
        "jmwst",
        ["model.pt"],
        "--to: 'model.pt' is not allowed; expected a file that ends in one of",
    ),
    ("jmwst", ["model"], "--to: 'model'"),
    (
        "jmwst",
        ["nowhere/model.flash"],
        "expected a file that can be written (No such file",
    ),
    (
        "jmwst",
        ["taken.flash"],
        "--to: 'taken.flash' is not allowed; expected a file that can be written",
    ),
    ("jmwst", ["model.flash", "--sparse"], "--sparse: 'model.flash' is not allowed; expected a .safetensors file"),
    ("jmwst", ["m.safetensors", "--values", "fp16"], "--values: 'm.safetensors'"),
    ("jmwst", ["m.onnx", "--compress"], "--compress: 'm.onnx'"),
    ("jmwst", ["model.flash", "--values", "int8"], "--values: 'int8' is not allowed; expected one of fp32, fp16, bf16"),
    (
        "jmwst",
        ["model.flash", "--density", "0.1"],
        "--density: 0.1 is not allowed; expected the density",
    ),
    ("hetero", ["model.flash", "--density", "0.3"], "a tier of this run: 0.1, 0.15, 0.2"),
    ("nowhere", ["model.flash"], "ckpt_path: 'nowhere' is not allowed; expected a checkpoint file that can be read"),
    ("torn", ["model.flash"], "torn, altered or foreign"),
]


@pytest.mark.parametrize("run, options, expected", EXPORTS)
def test_exports(run, options, expected, runs, folder, capsys):
    (folder / "torn").write_bytes(runs["jmwst"].read_bytes()[:-100])
    (folder / "taken.flash").mkdir()
    before = sorted(os.listdir(folder))
    assert expected in refusal(capsys, "export", runs.get(run, run), "--to", *options)
    assert sorted(os.listdir(folder)) == before


# What is changed in a checkpoint's state, a part of the message.
STATES = [
    (lambda state: state.update(has_mask=False), "a checkpoint with a mask"),
    (lambda state: state.update(extra={}), "a checkpoint that flash-pl fit wrote, with its config"),
    (lambda state: state["extra"]["config"]["model"].update(class_path="no_such_file.Net"), "No module named 'no_such"),
]


@pytest.mark.parametrize("change, expected", STATES)
def test_checkpoints_without_what_an_export_needs(change, expected, runs, folder, capsys):
    state = read_checkpoint(runs["jmwst"])
    change(state["flash_pl"])
    write_checkpoint(folder / "x.ckpt", state)
    assert expected in refusal(capsys, "export", "x.ckpt", "--to", "model.flash")
    assert expected in refusal(capsys, "inspect", "x.ckpt")
    assert os.listdir(folder) == ["x.ckpt"]


def test_a_folder_that_may_not_be_written(runs, folder, capsys, monkeypatch):
    def locked(path, mode):  # root may write everywhere, so the system's answer is given here
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("flash_pl.checkpoint.open", locked, raising=False)
    assert "(Permission denied)" in refusal(capsys, "export", runs["jmwst"], "--to", "model.flash")
    assert os.listdir(folder) == []


def test_a_failed_export_keeps_the_file_that_was_there(runs, folder, capsys, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    (folder / "model.flash").write_bytes(b"the old one")
    monkeypatch.setattr("os.replace", full)
    assert "(No space left on device)" in refusal(capsys, "export", runs["jmwst"], "--to", "model.flash")
    assert os.listdir(folder) == ["model.flash"] and (folder / "model.flash").read_bytes() == b"the old one"


def test_without_the_extra_one_line_says_what_to_install(runs, folder, capsys, monkeypatch):
    monkeypatch.setattr("flash_pl.commands.export.missing_packages", lambda: ["onnxruntime"])
    assert 'pip install "flash-pl[onnx]"' in refusal(capsys, "export", runs["jmwst"], "--to", "model.onnx")
    monkeypatch.setattr("flash_pl.export.readers.missing_packages", lambda: ["onnx"])
    (folder / "some.onnx").write_bytes(b"x")
    assert 'pip install "flash-pl[onnx]"' in refusal(capsys, "inspect", "some.onnx")


needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="no onnx")


@needs_onnx
@pytest.mark.parametrize(
    "run, expected", [("silent", "it has no forward"), ("branching", "torch cannot export its forward to ONNX")]
)
def test_networks_that_onnx_cannot_have(run, expected, runs, folder, capsys):
    assert expected in refusal(capsys, "export", runs[run], "--to", "model.onnx")
    assert not os.listdir(folder)


@needs_onnx
def test_another_result_is_refused(runs, folder, capsys, monkeypatch):
    monkeypatch.setattr("flash_pl.export.writers.TOLERANCE", -1.0)
    assert "ONNX and torch differ by " in refusal(capsys, "export", runs["jmwst"], "--to", "model.onnx")
    assert not os.listdir(folder)


@needs_onnx
def test_a_network_that_has_changed_since(runs, folder, capsys, monkeypatch):
    nets = sys.modules["export_nets"]
    monkeypatch.setattr(nets, "Net", nets.Larger)
    assert "a checkpoint of what its config builds" in refusal(capsys, "export", runs["net"], "--to", "m.onnx")


# Name, how the file comes from a good one, a part of the message.
FILES = [
    (
        "x.flash",
        lambda good: good[:-1],
        "file: 'x.flash' is not allowed; expected a whole .flash file (",
    ),
    ("x.flash", lambda good: b"", "a whole .flash file"),
    ("x.safetensors", lambda good: good[: len(good) // 2], "a whole .safetensors file"),
    ("x.safetensors", lambda good: b"", "a whole .safetensors file"),
    ("x.onnx", lambda good: b"no model", "a whole ONNX model"),
    ("x.onnx", lambda good: b"", "a whole ONNX model"),
    ("x.ckpt", lambda good: good[:-1], "torn, altered or foreign"),
]


@pytest.mark.parametrize("name, damage, expected", FILES)
def test_files(name, damage, expected, runs, folder, capsys):
    if name.endswith(".ckpt"):
        shutil.copy(runs["jmwst"], folder / name)
    elif not name.endswith(".onnx"):
        assert main(["export", str(runs["jmwst"]), "--to", name]) == 0
    (folder / name).write_bytes(damage((folder / name).read_bytes() if (folder / name).exists() else b""))
    assert expected in refusal(capsys, "inspect", name)


def test_another_suffix_a_missing_file_and_a_folder(folder, capsys):
    (folder / "a.txt").write_text("a")
    (folder / "d.flash").mkdir()
    assert "ends in one of .flash, .safetensors, .onnx, .ckpt" in refusal(capsys, "inspect", "a.txt")
    for name in ("nowhere.flash", "d.flash"):
        assert "a file that exists" in refusal(capsys, "inspect", name)
