"""``flash-pl export`` and ``inspect`` refuse with one line and exit code 2, and do not change the folder."""

import os
import shutil
import sys

import pytest

from flash_pl.checkpoint import read_checkpoint, write_checkpoint
from flash_pl.cli import main
from flash_pl.export import missing_packages

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="no onnx")


def refusal(capsys, *arguments: object) -> str:
    """The one line that a command prints when it refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


# Run, options, the key and a part of the message.
EXPORTS = [
    ("jmwst", ["model.pt"], "--to", "'model.pt'"),
    ("jmwst", ["model"], "--to", ".safetensors, .flash, .onnx"),
    ("jmwst", ["torn/model.flash"], "--to", "'torn/model.flash' cannot be written"),  # torn is a file
    ("jmwst", ["taken.flash"], "--to", "'taken.flash' cannot be written"),
    ("jmwst", ["model.flash", "--sparse"], "--sparse", "'model.flash' is not a .safetensors file"),
    ("jmwst", ["m.safetensors", "--values", "fp16"], "--values", "'m.safetensors' is not a .flash file"),
    ("jmwst", ["m.onnx", "--compress"], "--compress", "'m.onnx' is not a .flash file"),
    ("jmwst", ["model.flash", "--values", "int8"], "--values", "'int8' is not one of fp32, fp16, bf16"),
    ("jmwst", ["model.flash", "--density", "0.1"], "--density", "0.1 is not the density of a tier"),
    ("hetero", ["model.flash", "--density", "0.3"], "--density", "0.1, 0.15, 0.2"),
    ("nowhere", ["model.flash"], "ckpt_path", "nowhere"),
    ("torn", ["model.flash"], "ckpt_path", "torn"),
]


@pytest.mark.parametrize("run, options, key, expected", EXPORTS)
def test_exports(run, options, key, expected, runs, folder, capsys):
    (folder / "torn").write_bytes(runs["jmwst"].read_bytes()[:-100])
    (folder / "taken.flash").mkdir()
    before = sorted(os.listdir(folder))
    line = refusal(capsys, "export", runs.get(run, run), "--to", *options)
    assert line.startswith(f"{key}: ") and expected in line
    assert sorted(os.listdir(folder)) == before


# A change of the checkpoint's state, options, and a part of the message.
STATES = [
    (lambda state: state.update(extra={}), [], "without a config"),
    (lambda state: state["extra"]["config"]["model"].update(class_path="no_file.Net"), [], "add --trust"),
    (lambda state: state["extra"]["config"]["model"].update(class_path="no_file.Net"), ["--trust"], "No module named"),
]


@needs_onnx
@pytest.mark.parametrize("change, options, expected", STATES)
def test_only_onnx_needs_the_config_and_the_network(change, options, expected, runs, folder, capsys):
    state = read_checkpoint(runs["jmwst"])
    change(state["flash_pl"])
    write_checkpoint(folder / "x.ckpt", state)
    assert main(["export", "x.ckpt", "--to", "model.onnx", *options]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert os.listdir(folder) == ["x.ckpt"]
    assert main(["export", "x.ckpt", "--to", "model.flash"]) == main(["inspect", "x.ckpt"]) == 0


def test_a_checkpoint_without_a_mask(runs, folder, capsys):
    state = read_checkpoint(runs["jmwst"])
    state["flash_pl"]["has_mask"] = False
    write_checkpoint(folder / "x.ckpt", state)
    for command in (["export", "x.ckpt", "--to", "model.flash"], ["inspect", "x.ckpt"]):
        assert "x.ckpt' has no mask" in refusal(capsys, *command)


def test_a_folder_without_write_permission(runs, folder, capsys, monkeypatch):
    def locked(path, mode):  # root may write everywhere, so the test raises the error itself
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("flash_pl.atomic_write.open", locked, raising=False)
    assert "(Permission denied)" in refusal(capsys, "export", runs["jmwst"], "--to", "model.flash")
    assert os.listdir(folder) == []


def test_a_failed_export_keeps_the_old_file(runs, folder, capsys, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    (folder / "model.flash").write_bytes(b"the old one")
    monkeypatch.setattr("os.replace", full)
    assert "(No space left on device)" in refusal(capsys, "export", runs["jmwst"], "--to", "model.flash")
    assert os.listdir(folder) == ["model.flash"] and (folder / "model.flash").read_bytes() == b"the old one"


def test_missing_packages_are_named(runs, folder, capsys, monkeypatch):
    monkeypatch.setattr("flash_pl.commands.export.missing_packages", lambda: ["onnxruntime"])
    assert 'pip install "flash-pl[onnx]"' in refusal(capsys, "export", runs["jmwst"], "--to", "model.onnx")
    monkeypatch.setattr("flash_pl.export.readers.missing_packages", lambda: ["onnx"])
    (folder / "some.onnx").write_bytes(b"x")
    assert 'pip install "flash-pl[onnx]"' in refusal(capsys, "inspect", "some.onnx")


@needs_onnx
@pytest.mark.parametrize(
    "run, expected", [("silent", "it has no forward"), ("branching", "torch cannot export its forward to ONNX")]
)
def test_networks_that_cannot_be_exported_to_onnx(run, expected, runs, folder, capsys):
    assert "--trust" in refusal(capsys, "export", runs[run], "--to", "model.onnx")
    assert main(["export", str(runs[run]), "--to", "model.onnx", "--trust"]) == 2
    said, error = capsys.readouterr().err.splitlines()
    assert "export_nets" in said and expected in error
    assert not os.listdir(folder)


@needs_onnx
def test_different_outputs_are_refused(runs, folder, capsys, monkeypatch):
    monkeypatch.setattr("flash_pl.export.writers.TOLERANCE", -1.0)
    assert "ONNX and torch differ by " in refusal(capsys, "export", runs["jmwst"], "--to", "model.onnx")
    assert not os.listdir(folder)


@needs_onnx
def test_a_network_with_changed_code_is_refused(runs, folder, capsys, monkeypatch):
    nets = sys.modules["export_nets"]
    monkeypatch.setattr(nets, "Net", nets.Larger)
    assert main(["export", str(runs["net"]), "--to", "m.onnx", "--trust"]) == 2
    assert "does not fit the network" in capsys.readouterr().err


# Name of a file, its damage, and a part of the message.
FILES = [
    ("x.flash", lambda content: content[:-1], "x.flash' is not a complete .flash file ("),
    ("x.flash", lambda content: b"", "is not a complete .flash file"),
    ("x.safetensors", lambda content: content[: len(content) // 2], "is not a complete .safetensors file"),
    ("x.safetensors", lambda content: b"", "is not a complete .safetensors file"),
    ("x.onnx", lambda content: b"no model", "is not a complete ONNX model"),
    ("x.onnx", lambda content: b"", "is not a complete ONNX model"),
    ("x.ckpt", lambda content: content[:-1], "is not a complete checkpoint"),
]


@pytest.mark.parametrize("name, damage, expected", FILES)
def test_damaged_files(name, damage, expected, runs, folder, capsys):
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    if name.endswith(".ckpt"):
        shutil.copy(runs["jmwst"], folder / name)
    elif not name.endswith(".onnx"):
        assert main(["export", str(runs["jmwst"]), "--to", name]) == 0
    (folder / name).write_bytes(damage((folder / name).read_bytes() if (folder / name).exists() else b""))
    assert expected in refusal(capsys, "inspect", name)


def test_another_suffix_a_missing_file_and_a_folder(folder, capsys):
    (folder / "a.txt").write_text("a")
    (folder / "d.flash").mkdir()
    line = refusal(capsys, "inspect", "a.txt")
    assert line.startswith("file: ") and "a.txt" in line and ".flash, .safetensors, .onnx, .ckpt" in line
    for name in ("nowhere.flash", "nowhere"):
        assert f"'{name}' is not an existing file" in refusal(capsys, "inspect", name)
    assert "'d.flash' is a folder without checkpoints/last.ckpt" in refusal(capsys, "inspect", "d.flash")
