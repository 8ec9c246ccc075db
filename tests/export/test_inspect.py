"""What flash-pl inspect says of a file: every byte has its place."""

import json

import pytest
import torch
from safetensors.torch import save_file

from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.export import missing_packages, read_contents
from flash_pl.sparsity import SparseModel
from flash_pl.wire import encode_flash

MADE = [["m.flash"], ["h.flash", "--values", "fp16"], ["m.safetensors"], ["s.safetensors", "--sparse"]]
MADE += [] if missing_packages() else [["m.onnx"]]


@pytest.mark.parametrize("arguments", MADE)
def test_bytes_and_densities_add_up(arguments, runs, folder, capsys):
    name = arguments[0]
    assert main(["export", str(runs["jmwst"]), "--to", *arguments]) == 0
    found = read_contents(folder / name)
    assert found.size == (folder / name).stat().st_size > found.masks + found.values > 0
    expected = json.loads((runs["jmwst"].parents[1] / "result.json").read_text())["layer_density"]
    rows = {row.name: row for row in found.rows}
    for layer, density in expected.items():
        row = rows[f"{layer}.weight"]
        # An active weight can be 0: where there is no mask there are at most as many that are not.
        assert row.densities[0] == density if found.columns == ("density",) else row.densities[0] <= density
        assert row.dense == 4 * torch.Size(row.shape).numel()
    assert found.facts["method"] == "jmwst" and found.facts["density"] == "0.2"
    capsys.readouterr()
    assert main(["inspect", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(name) and f"{found.size:,} bytes, " in said and "conv2.weight" in said and "16x1x5x5" in said


def test_a_flash_files_masks_and_values(runs, folder):
    assert main(["export", str(runs["jmwst"]), "--to", "m.flash", "--values", "bf16"]) == 0
    found = read_contents(folder / "m.flash")
    active = int(read_checkpoint(runs["jmwst"])["flash_pl"]["server"]["mask"].sum())
    layers = [row for row in found.rows if row.densities[0] is not None]
    assert sum(row.values for row in layers) == 2 * active and all(row.mask > 0 for row in layers)
    assert found.facts["mask"] == "positions" and found.facts["values"] == "bf16"
    assert found.size - found.masks - found.values < 600  # names, shapes, facts and checksums


def test_a_checkpoint_shows_every_tier(runs, folder, capsys):
    assert main(["inspect", str(runs["hetero"])]) == 0
    said = capsys.readouterr().out
    for word in (
        "d = 0.1",
        "d = 0.15",
        "d = 0.2",
        "conv1.weight",
        "jmwst",
        "synthetic",
        "round",
        "all that a run needs",
    ):
        assert word in said
    found = read_contents(runs["hetero"])
    assert found.facts["round"] == "2" and all(row.name.count(".") == 1 for row in found.rows)
    shares = [row.densities for row in found.rows if row.densities[0] is not None]
    assert len(shares) == 4 and all(list(share) == sorted(share) for share in shares)
    assert read_contents(runs["jmwst"]).columns == ("density",)


def test_a_dense_models_mask_is_shared_by_all_layers(runs, folder, capsys):
    assert main(["export", str(runs["dense"]), "--to", "m.flash"]) == 0
    found = read_contents(folder / "m.flash")
    assert found.facts["density"] == read_contents(runs["dense"]).facts["density"] == "1"
    assert found.shared_mask > 0 and found.facts["mask"] == "all active"
    capsys.readouterr()
    assert main(["inspect", "m.flash"]) == 0 and f"masks {found.shared_mask}, " in capsys.readouterr().out


def test_a_flash_files_truth_values_are_bits(folder, capsys):
    tensors = {"fc.weight": torch.ones(2, 2), "seen": torch.arange(5001) % 3 == 0, "flag": torch.tensor(True)}
    model = SparseModel(tensors, {"fc.weight": torch.ones(2, 2, dtype=torch.bool)}, {})
    (folder / "m.flash").write_bytes(encode_flash(model))
    found = read_contents(folder / "m.flash")
    assert {row.name: row.values for row in found.rows} == {"fc.weight": 16, "seen": 626, "flag": 1}
    assert 0 < found.size - found.masks - found.values < 200
    assert main(["inspect", "m.flash"]) == 0 and "other -" not in capsys.readouterr().out


def test_files_from_elsewhere(folder, capsys):
    tensors = {"[red]\x1b[31m": torch.tensor([0.0, 1.0]), "half": torch.ones(2, 2, dtype=torch.bfloat16)}
    tensors |= {"count": torch.tensor(0), "empty": torch.empty(0, 3), "a.indices": torch.zeros(2)}
    tensors |= {"tiny": torch.ones(4).to(torch.float8_e4m3fn)}
    save_file(tensors, "x.safetensors", {"note": "x" * 1000})
    found = read_contents(folder / "x.safetensors")
    shares = {row.name: row.densities[0] for row in found.rows}
    assert shares == {"[red]\x1b[31m": 0.5, "half": 1.0, "count": 0.0, "empty": 0.0, "a.indices": 0.0, "tiny": 1.0}
    assert main(["inspect", "x.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "[red]\\x1b[31m" in said and "\x1b" not in said and "scalar" in said and "x" * 300 not in said
    save_file({}, "none.safetensors")
    assert main(["inspect", "none.safetensors"]) == 0 and "without tensors" in capsys.readouterr().out


def test_a_sparse_file_that_lacks_a_part(folder, capsys):
    facts = {"layout": "sparse", "layer_density": '{"fc": 0.5}'}
    save_file({"fc.indices": torch.zeros(1, dtype=torch.int32)}, "x.safetensors", facts)
    assert main(["inspect", "x.safetensors"]) == 2
    assert "of each sparse tensor indices, values, shape; see fc" in capsys.readouterr().err


@pytest.mark.parametrize("listed", ['{"fc": 0.5}', "[1", "[1]", None])
def test_a_buffer_that_is_called_as_a_part_of_a_sparse_tensor(listed, folder):
    tensors = {"fc.indices": torch.tensor([1], dtype=torch.int32), "fc.values": torch.ones(1)}
    tensors |= {"fc.shape": torch.tensor([1, 2]), "pos.indices": torch.arange(3), "values": torch.ones(2)}
    save_file(tensors, "x.safetensors", {"layout": "sparse"} | ({"layer_density": listed} if listed else {}))
    shapes = {row.name: row.shape for row in read_contents(folder / "x.safetensors").rows}
    assert shapes == {"fc": (1, 2), "pos.indices": (3,), "values": (2,)}
