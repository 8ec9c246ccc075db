"""The model of each device tier, read from a checkpoint."""

import json

import pytest
import torch

from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.config import build_data, build_module, compose
from flash_pl.errors import ConfigError
from flash_pl.export import SavedRun, build_network
from flash_pl.sparsity import Layout, nested_masks


def network(checkpoint):
    config = compose(read_checkpoint(checkpoint)["flash_pl"]["extra"]["config"])
    data = build_data(config)
    data.setup("fit")
    return build_module(config, data).get_submodule("model").eval(), data


def accuracy(net, data) -> float:
    with torch.no_grad():
        hits = [(net(images).argmax(1) == labels).float() for images, labels in data.val_dataloader()]
    return float(torch.cat(hits).mean())


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_tier_without_nested_layers_gets_its_evaluated_model(runs):
    """FIARSE's tiers are not nested layer by layer."""
    net, data = network(runs["fiarse"])
    for tier in json.loads((runs["fiarse"].parents[1] / "result.json").read_text())["tiers"]:
        model = SavedRun(runs["fiarse"]).model(tier["density"])
        net.load_state_dict(model.tensors)
        assert accuracy(net, data) == pytest.approx(tier["accuracy"])


def test_a_tier_gets_its_evaluated_model(runs):
    server = read_checkpoint(runs["hetero"])["flash_pl"]["server"]
    layout = Layout.from_specification(server["layout"])
    tiers = json.loads((runs["hetero"].parents[1] / "result.json").read_text())["tiers"]
    masks = nested_masks(layout, server["mask"], server["weights"], [tier["density"] / 0.2 for tier in tiers])
    net, data = network(runs["hetero"])
    active = []
    for tier, mask in zip(tiers, masks, strict=True):
        model = SavedRun(runs["hetero"]).model(tier["density"])
        weights = server["weights"].clone()
        weights[: layout.maskable] *= mask
        expected = {slot.name.removeprefix("model."): slot.view(weights) for slot in layout.slots}
        assert equal(model.tensors, expected) and model.facts["density"] == f"{model.density:.4g}"
        net.load_state_dict(model.tensors)
        assert accuracy(net, data) == pytest.approx(tier["accuracy"])
        active.append(model.active)
    assert active == [int(mask.sum()) for mask in masks] and active[0] < active[1] < active[2]
    assert SavedRun(runs["hetero"]).model().active == active[2]


def test_a_density_without_a_tier_is_refused(runs):
    with pytest.raises(ConfigError, match="0.3 .* 0.1, 0.15, 0.2") as error:
        SavedRun(runs["hetero"]).model(0.3)
    assert error.value.key == "density"


def test_inputs_for_a_network_of_text_are_its_own_characters(tmp_path):
    """Gaussian noise in the shape of the data would be no input of an embedding."""
    (tmp_path / "a.txt").write_text("banana " * 30)
    run = ["data=text", f"data.files={tmp_path}/a.txt", "data.window=8", "cohort=1", "rounds=1", "density=0.5"]
    run += ["model.dim=6", "model.depth=1", "trainer.accelerator=cpu", "trainer.progress=false"]
    assert main(["fit", "pdst", *run, f"run_dir={tmp_path / 'run'}"]) == 0
    saved = SavedRun(tmp_path / "run" / "checkpoints" / "last.ckpt")
    net, inputs = build_network(saved, saved.model(), samples=5)
    assert inputs.shape == (5, 8) and inputs.dtype == torch.int64 and 0 < int(inputs.max()) < 5
    assert net(inputs).shape == (5, 8, 5)
