"""``read_contents`` and ``flash-pl inspect``: the bytes of a file add up."""

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.errors import ConfigError
from flash_pl.export import Contents, TensorRow, contents_table, missing_packages, read_contents
from flash_pl.sparsity import SparseModel
from flash_pl.wire import encode_flash

FILES = [["m.flash"], ["h.flash", "--values", "fp16"], ["m.safetensors"], ["s.safetensors", "--sparse"]]
FILES += [] if missing_packages() else [["m.onnx"]]


@pytest.mark.parametrize("arguments", FILES)
def test_bytes_and_densities_add_up(arguments, runs, folder, capsys):
    name = arguments[0]
    assert main(["export", str(runs["jmwst"]), "--to", *arguments]) == 0
    contents = read_contents(folder / name)
    assert contents.size == (folder / name).stat().st_size > contents.masks + contents.values > 0
    expected = json.loads((runs["jmwst"].parents[1] / "result.json").read_text())["layer_density"]
    rows = {row.name: row for row in contents.rows}
    for layer, density in expected.items():
        row = rows[f"{layer}.weight"]
        # An active weight can be 0, so without a mask the share of nonzero weights is at most the density.
        assert row.densities[0] == density if contents.columns == ("density",) else row.densities[0] <= density
        assert row.dense == 4 * torch.Size(row.shape).numel()
    assert contents.facts["scheduler"] == "jmwst" and contents.facts["density"] == "0.2"
    capsys.readouterr()
    assert main(["inspect", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(name) and f"({contents.size:,} bytes), " in out
    assert "conv2.weight" in out and "16x1x5x5" in out


def test_masks_and_values_of_a_flash_file(runs, folder):
    assert main(["export", str(runs["jmwst"]), "--to", "m.flash", "--values", "bf16"]) == 0
    contents = read_contents(folder / "m.flash")
    active = int(read_checkpoint(runs["jmwst"])["flash_pl"]["server"]["mask"].sum())
    layers = [row for row in contents.rows if row.densities[0] is not None]
    assert sum(row.values for row in layers) == 2 * active and all(row.mask > 0 for row in layers)
    assert contents.facts["mask"] == "positions" and contents.facts["values"] == "bf16"
    assert contents.size - contents.masks - contents.values < 600  # names, shapes, facts and checksums


def test_a_checkpoint_shows_every_tier(runs, folder, capsys):
    assert main(["inspect", str(runs["hetero"])]) == 0
    out = capsys.readouterr().out
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
        assert word in out
    contents = read_contents(runs["hetero"])
    assert contents.facts["round"] == "2" and all(row.name.count(".") == 1 for row in contents.rows)
    shares = [row.densities for row in contents.rows if row.densities[0] is not None]
    assert len(shares) == 4 and all(list(share) == sorted(share) for share in shares)
    assert read_contents(runs["jmwst"]).columns == ("density",)


def test_the_mask_of_a_dense_model_is_shared_by_all_layers(runs, folder, capsys):
    assert main(["export", str(runs["dense"]), "--to", "m.flash"]) == 0
    contents = read_contents(folder / "m.flash")
    assert contents.facts["density"] == read_contents(runs["dense"]).facts["density"] == "1"
    assert contents.shared_mask > 0 and contents.facts["mask"] == "all active"
    capsys.readouterr()
    assert main(["inspect", "m.flash"]) == 0 and f"masks {contents.shared_mask} B, " in capsys.readouterr().out


def test_bools_in_a_flash_file_are_bits(folder, capsys):
    tensors = {"fc.weight": torch.ones(2, 2), "seen": torch.arange(5001) % 3 == 0, "flag": torch.tensor(True)}
    model = SparseModel(tensors, {"fc.weight": torch.ones(2, 2, dtype=torch.bool)}, {})
    (folder / "m.flash").write_bytes(encode_flash(model))
    contents = read_contents(folder / "m.flash")
    assert {row.name: row.values for row in contents.rows} == {"fc.weight": 16, "seen": 626, "flag": 1}
    assert 0 < contents.size - contents.masks - contents.values < 200
    assert main(["inspect", "m.flash"]) == 0 and "other -" not in capsys.readouterr().out


def test_files_of_other_programs(folder, capsys):
    tensors = {"[red]\x1b[31m": torch.tensor([0.0, 1.0]), "half": torch.ones(2, 2, dtype=torch.bfloat16)}
    tensors |= {"count": torch.tensor(0), "empty": torch.empty(0, 3), "a.indices": torch.zeros(2)}
    tensors |= {"tiny": torch.ones(4).to(torch.float8_e4m3fn)}
    save_file(tensors, "x.safetensors", {"note": "x" * 1000})
    contents = read_contents(folder / "x.safetensors")
    shares = {row.name: row.densities[0] for row in contents.rows}
    assert shares == {"[red]\x1b[31m": 0.5, "half": 1.0, "count": 0.0, "empty": 0.0, "a.indices": 0.0, "tiny": 1.0}
    assert main(["inspect", "x.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "[red]\\x1b[31m" in out and "\x1b" not in out and "scalar" in out and "x" * 300 not in out
    save_file({}, "none.safetensors")
    assert main(["inspect", "none.safetensors"]) == 0 and "without tensors" in capsys.readouterr().out


def test_a_sparse_file_that_lacks_a_part_is_refused(folder):
    facts = {"layout": "sparse", "layer_density": '{"fc": 0.5}'}
    save_file({"fc.indices": torch.zeros(1, dtype=torch.int32)}, "x.safetensors", facts)
    with pytest.raises(ConfigError, match="x.safetensors.*'fc'.* indices, values, shape") as error:
        read_contents(folder / "x.safetensors")
    assert error.value.key == "file"


@pytest.mark.parametrize("listed", ['{"fc": 0.5}', "[1", "[1]", None])
def test_a_buffer_may_have_the_name_of_a_sparse_part(listed, folder):
    tensors = {"fc.indices": torch.tensor([1], dtype=torch.int32), "fc.values": torch.ones(1)}
    tensors |= {"fc.shape": torch.tensor([1, 2]), "pos.indices": torch.arange(3), "values": torch.ones(2)}
    save_file(tensors, "x.safetensors", {"layout": "sparse"} | ({"layer_density": listed} if listed else {}))
    shapes = {row.name: row.shape for row in read_contents(folder / "x.safetensors").rows}
    assert shapes == {"fc": (1, 2), "pos.indices": (3,), "values": (2,)}


PARTS = {
    "indices": torch.tensor([0, 3], dtype=torch.int32),
    "values": torch.ones(2),
    "shape": torch.tensor([2, 2]),
}
BAD_PARTS = {
    "a negative size": {"shape": torch.tensor([-2, -2])},
    "huge sizes": {"shape": torch.tensor([2**62, 2**62])},
    "huge sizes and none": {"shape": torch.tensor([2**62, 2**62, 0])},
    "sizes of another dtype": {"shape": torch.tensor([2.0, 2.0])},
    "too many dimensions": {"shape": torch.ones(1000, dtype=torch.int64)},
    "a matrix as shape": {"shape": torch.ones(2, 2, dtype=torch.int64)},
    "an index outside": {"indices": torch.tensor([0, 4], dtype=torch.int32)},
    "a negative index": {"indices": torch.tensor([-1, 3], dtype=torch.int32)},
    "an index twice": {"indices": torch.tensor([3, 3], dtype=torch.int32)},
    "indices of another dtype": {"indices": torch.tensor([0.0, 3.0])},
    "more values than indices": {"values": torch.ones(3)},
}


@pytest.mark.parametrize("change", BAD_PARTS.values(), ids=BAD_PARTS)
def test_parts_of_a_sparse_tensor_that_do_not_fit_are_refused(change, folder):
    save_file({f"fc.{part}": value for part, value in PARTS.items()}, "x.safetensors", {"layout": "sparse"})
    assert read_contents(folder / "x.safetensors").rows[0].shape == (2, 2)
    parts = {f"fc.{part}": value for part, value in (PARTS | change).items()}
    save_file(parts, "x.safetensors", {"layout": "sparse"})
    with pytest.raises(ConfigError, match="x.safetensors") as error:
        read_contents(folder / "x.safetensors")
    assert error.value.key == "file" and "'fc'" in str(error.value)


@pytest.mark.skipif(bool(missing_packages()), reason="onnx is not installed")
def test_an_onnx_file_reads_no_other_file(folder, monkeypatch):
    import onnx

    monkeypatch.chdir(folder)
    (folder / "secret.bin").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    (folder / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ConfigError, match="x.onnx.*another file"):
        read_contents(folder / "x.onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2**40], raw_data=bytes(16))
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    (folder / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ConfigError, match="x.onnx"):
        read_contents(folder / "x.onnx")


def test_a_table_with_very_many_tensors_is_cut(folder, capsys):
    save_file({f"t{i}": torch.zeros(1) for i in range(6000)}, "x.safetensors", {f"f{i}": "" for i in range(1000)})
    contents = read_contents(folder / "x.safetensors")
    assert len(contents.rows) == 6000
    assert contents_table(contents, folder / "x.safetensors").renderables[2].table(stacked=False).row_count < 5010


@pytest.mark.parametrize("width", [60, 200])
def test_names_and_shapes_are_whole_in_a_narrow_terminal(folder, width):
    tiers = tuple(f"d = 0.0{tier}" for tier in range(2))
    row = TensorRow("blocks.0.attention.weight", (512, 128, 3), (0.1, 0.3), None, None, 9999)
    console = Console(file=io.StringIO(), width=width)
    console.print(contents_table(Contents({"round": "1"}, tiers, (row,), 99999), folder / "x"))
    words = console.file.getvalue().split()
    assert {row.name, "512x128x3", "0.1000", "0.3000"} <= set(words)
    assert all(len(line) <= width for line in console.file.getvalue().splitlines()[1:])


def test_what_export_says_is_broken_between_words_in_a_terminal(runs, folder, monkeypatch, capsys):
    shown = []
    for in_terminal in (False, True):
        monkeypatch.setenv("COLUMNS", "30")
        monkeypatch.setattr("sys.stdout.isatty", lambda is_one=in_terminal: is_one, raising=False)
        assert main(["export", str(runs["jmwst"]), "--to", "m.safetensors"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0].split() == shown[1].split() and max(map(len, shown[1].splitlines())) <= 30
    assert len(shown[0].splitlines()) <= 3
