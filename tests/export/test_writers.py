"""Exported files contain the trained model, for programs that do not use flash_pl."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flash_pl import units
from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.config import build_data, build_module, compose
from flash_pl.errors import ModuleError
from flash_pl.export import SavedRun, missing_packages, to_onnx
from flash_pl.wire import decode_flash, load_flash

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="no onnx")


def export(checkpoint: Path, to: str, *options: str) -> Path:
    assert main(["export", str(checkpoint), "--to", to, *options]) == 0
    return Path(to)


def network(checkpoint: Path, prefix: str = "model"):
    config = compose(read_checkpoint(checkpoint)["flash_pl"]["extra"]["config"])
    data = build_data(config)
    data.setup("fit")
    return build_module(config, data).get_submodule(prefix).eval(), data


def accuracy(net, data) -> float:
    with torch.no_grad():
        hits = [(net(images).argmax(1) == labels).float() for images, labels in data.val_dataloader()]
    return float(torch.cat(hits).mean())


def joined(path: Path) -> dict:
    """The state dict in a sparse safetensors file."""
    stored = load_file(path)
    for name in [key.removesuffix(".indices") for key in stored if key.endswith(".indices")]:
        indices, values = stored.pop(f"{name}.indices"), stored.pop(f"{name}.values")
        assert indices.dtype == torch.int32 and values.dtype == torch.float32
        dense = torch.zeros(stored.pop(f"{name}.shape").tolist())
        dense.view(-1)[indices.long()] = values
        stored[name] = dense
    return stored


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_formats_contain_the_state_dict_of_the_checkpoint(runs, folder):
    saved = read_checkpoint(runs["jmwst"])
    expected = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    dense, sparse = export(runs["jmwst"], "dense.safetensors"), export(runs["jmwst"], "s.safetensors", "--sparse")
    flash = export(runs["jmwst"], "model.flash")
    for tensors in (load_file(dense), joined(sparse), load_flash(flash)):
        assert equal(tensors, expected) and all(tensor.is_contiguous() for tensor in tensors.values())
    masks = decode_flash(flash.read_bytes()).model.masks
    assert sum(int(mask.sum()) for mask in masks.values()) == int(saved["flash_pl"]["server"]["mask"].sum())
    assert all(not expected[name][~mask].any() for name, mask in masks.items())
    assert dense.stat().st_size > 2 * sparse.stat().st_size > 2 * flash.stat().st_size
    short = export(runs["jmwst"], "short.flash", "--values", "fp16", "--compress")
    assert short.stat().st_size < flash.stat().st_size


def test_the_loaded_model_has_the_validated_accuracy(runs, folder, capsys):
    assert main(["validate", str(runs["jmwst"])]) == 0
    validated = re.search(r"val_acc +([\d.]+ %)", capsys.readouterr().out)[1]
    net, data = network(runs["jmwst"])
    for load, to in ((load_file, "model.safetensors"), (load_flash, "model.flash")):
        net.load_state_dict(load(export(runs["jmwst"], to)))
        assert units.percent(accuracy(net, data)) == validated


def test_the_metadata_describe_the_run(runs, folder, capsys):
    with safe_open(export(runs["jmwst"], "model.safetensors"), "pt") as file:
        facts = file.metadata()
    assert facts["scheduler"] == "jmwst" and facts["density"] == "0.2" and facts["data"] == "synthetic"
    assert facts["model"] == "flash_pl.models.LeafCNN" and facts["round"] == "2" and facts["format_version"] == "1"
    assert '"conv1.weight":' in facts["layer_density"] and facts["layout"] == "dense" and "flash_pl" in facts
    out = capsys.readouterr().out
    assert "model.safetensors: " in out and "weights active, d = 0.2" in out and out.count("\n") == 3
    smaller = re.search(r"with --sparse, .* would have (.*)", out)[1]
    assert units.size(export(runs["jmwst"], "sparse.safetensors", "--sparse").stat().st_size) == smaller
    assert "--sparse" not in capsys.readouterr().out


@pytest.mark.parametrize("to", ["m.safetensors", "m.flash"])
def test_the_same_model_gives_the_same_bytes(to, runs, folder):
    contents = {export(runs["jmwst"], to).read_bytes() for _ in range(5)}
    assert len(contents) == 1


def test_integer_buffers_shared_weights_and_non_persistent_buffers(runs, folder):
    net, _ = network(runs["net"])
    for load, options in (
        (load_file, ["x.safetensors"]),
        (joined, ["x.safetensors", "--sparse"]),
        (load_flash, ["x.flash"]),
    ):
        state = load(export(runs["net"], options[0], *options[1:]))
        net.load_state_dict(state)  # strict: exactly the keys of the network
        assert "scratch" not in state and torch.equal(state["twin.weight"], state["fc.weight"])
        assert state["norm.num_batches_tracked"].dtype == torch.int64


def test_a_lightning_module_keeps_its_names(runs, folder):
    state = load_file(export(runs["own"], "own.safetensors"))
    assert {"model.fc.weight", "loss.weight"} <= state.keys()
    network(runs["own"], "")[0].load_state_dict(state)


def test_a_dense_model_is_exported_too(runs, folder):
    file = decode_flash(export(runs["dense"], "dense.flash").read_bytes())
    assert file.model.active == file.model.maskable and file.sizes.mask < 20
    assert file.model.facts["density"] == "1"
    assert equal(joined(export(runs["dense"], "d.safetensors", "--sparse")), file.model.tensors)


@needs_onnx
@pytest.mark.parametrize("name, prefix", [("jmwst", "model"), ("shapeless", "model"), ("own", "")])
def test_onnx_computes_the_same_outputs_as_torch(name, prefix, runs, folder, capsys):
    import onnxruntime

    path = export(runs[name], "model.onnx", *([] if name == "jmwst" else ["--trust"]))
    out, err = capsys.readouterr()
    assert "onnxruntime and torch differ by at most" in out and out.count("\n") == 3
    assert not err if name == "jmwst" else "export_nets.Net" in err or "export_nets.Own" in err
    net, data = network(runs[name], prefix)
    net.load_state_dict(SavedRun(runs[name]).model().tensors)
    session = onnxruntime.InferenceSession(path)
    for size in (1, 3, 5):
        images = data.normalize(data.test.inputs[:size])
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(output), net(images), rtol=1e-5, atol=1e-5)


@needs_onnx
def test_to_onnx_leaves_each_module_in_its_mode():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3).eval(), torch.nn.Dropout())
    to_onnx(net, torch.ones(7, 3), {})
    assert [part.training for part in net] == [True, False, True]


class Constant(torch.nn.Linear):
    """A linear layer whose last output is the constant ``value``."""

    def forward(self, inputs):
        return super().forward(inputs).index_fill(1, torch.tensor([2]), self.value)


@needs_onnx
@pytest.mark.parametrize("value, refused", [(-torch.inf, False), (torch.nan, True)])
def test_onnx_outputs_may_have_equal_infinities_but_no_nan(value, refused):
    net = Constant(3, 3)
    net.value = value
    if refused:
        with pytest.raises(ModuleError, match="differ by nan"):
            to_onnx(net, torch.ones(7, 3), {})
    else:
        assert to_onnx(net, torch.ones(7, 3), {})[1] < 1e-5
