"""Runs whose density is a share of FLOPs, held against multiply-adds that are counted by hand."""

import json

import lightning as L
import pytest
import torch
from torch import nn

from flash_pl import JMWST, NST, PDST, SPDST, Classifier, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.cli import main
from flash_pl.data import Digits
from flash_pl.schedulers import (
    FIARSE,
    SSFL,
    STEAD,
    Cosine,
    FedDST,
    FedRTS,
    HeteroFL,
    LastStep,
    SaliencyStage,
    Sensitivity,
    SparsyFed,
    TopK,
    ZeroFL,
)
from flash_pl.sparsity import ERK, FirstMask, SparsityBudget, Tier

STAGE_1 = Sensitivity(init_fraction=0.2, epochs=2)
METHODS = {
    "pdst": PDST,
    "erk": lambda: PDST(FirstMask(ERK())),
    "spdst": lambda: SPDST(STAGE_1),
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "nst": NST,
    "stead": lambda: STEAD(every=1),
    "feddst": lambda: FedDST(interval=LastStep(rounds=1), decay=Cosine(rounds=3)),
    "fedrts": lambda: FedRTS(interval=LastStep(rounds=1), decay=Cosine(rounds=3)),
    "fiarse": FIARSE,
    "ssfl": lambda: SSFL(SaliencyStage(init_fraction=0.5)),
    "topk": TopK,
    "zerofl": ZeroFL,
    "sparsyfed": SparsyFed,
}
# Of 8x8 images: the convolutions have 6x6 and 4x4 outputs a channel, and use a weight once for each.
PRICES, SIZES = torch.tensor([36, 16, 1]), torch.tensor([1 * 8 * 9, 8 * 16 * 9, 256 * 10])


def network(flat=256):
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, 10)]
    return nn.Sequential(*layers)


def fit(make, *callbacks, density=0.2, ckpt_path=None, module=None, **settings):
    torch.manual_seed(5)
    settings = {"rounds": 2, "cohort": 3, "seed": 1, "density_of": "flops", "accelerator": "cpu"} | settings
    trainer = FederatedTrainer(make(), density=density, callbacks=list(callbacks), **settings)
    data = Digits(clients=30, batch_size=16, seed=1)
    return trainer.fit(module or Classifier(network(), classes=10, lr=0.05), data, ckpt_path=ckpt_path)


def share(layout, mask):
    """By hand: the multiply-adds of a mask over those of the dense layers."""
    assert layout.sizes.equal(SIZES)
    return float((layout.counts(mask) * PRICES).sum() / (SIZES * PRICES).sum())


SLACK = float(PRICES.sum() / (SIZES * PRICES).sum())  # a weight of each layer


class Rows(Callback):
    def __init__(self):
        self.rows, self.clients = [], []

    def on_client_end(self, loop, update):
        self.clients.append((update.tier, share(loop.server.layout, update.mask)))

    def on_round_end(self, loop, row):
        assert row["density_flops"] == pytest.approx(share(loop.server.layout, loop.server.mask))
        for smaller, larger in zip(loop.tier_masks, loop.tier_masks[1:], strict=False):
            assert bool((smaller <= larger).all())
        self.rows.append(row)


@pytest.mark.parametrize("name", METHODS)
def test_the_servers_mask_takes_the_share_of_the_multiply_adds(name):
    rows = Rows()
    loop = fit(METHODS[name], rows)
    assert [row["density_flops"] for row in rows.rows] == pytest.approx([0.2] * 2, abs=SLACK)
    assert rows.rows[-1]["flops_inference_ratio"] == pytest.approx(0.2, abs=SLACK)  # no other layer computes products
    if name not in ("topk", "zerofl", "sparsyfed"):
        assert [client for _, client in rows.clients] == pytest.approx([0.2] * 6, abs=2 * SLACK)
    if name not in ("pdst", "zerofl"):  # uniform densities are the same for both budgets
        assert abs(loop.metrics["density"] - 0.2) > 0.01


def test_a_narrow_network_stays_below_the_share():
    rows = Rows()
    fit(HeteroFL, rows, density=0.5)
    assert 0.3 < rows.rows[-1]["density_flops"] <= 0.5


@pytest.mark.parametrize("name", ["spdst", "jmwst", "nst", "stead", "fiarse"])
def test_tiers_afford_their_shares(name):
    rows, densities = Rows(), [0.1, 0.2, 0.4]
    budget = SparsityBudget([Tier(density, 1 / 3) for density in densities])
    fit(METHODS[name], rows, density=0.4, budget=budget, cohort=9)
    assert {tier for tier, _ in rows.clients} == {0, 1, 2}
    for tier, client in rows.clients:
        assert client == pytest.approx(densities[tier], abs=2 * SLACK)


@pytest.mark.parametrize("name", ["jmwst", "nst", "fiarse"])
def test_a_resumed_run_goes_on_with_the_costs_of_its_checkpoint(name, tmp_path, monkeypatch):
    whole = fit(METHODS[name], rounds=3)
    fit(METHODS[name], Checkpoint(tmp_path), rounds=2)
    with monkeypatch.context() as other:  # another version counts otherwise
        other.setattr("flash_pl.trainer.multiply_adds", lambda flops, layout: layout.sizes.double())
        resumed = fit(METHODS[name], ckpt_path=tmp_path / "last.ckpt", rounds=3)
    assert torch.equal(resumed.server.weights, whole.server.weights)
    assert torch.equal(resumed.server.mask, whole.server.mask)
    with pytest.raises(ConfigError) as error:
        fit(METHODS[name], ckpt_path=tmp_path / "last.ckpt", rounds=3, density_of="weights")
    assert error.value.key == "density_of"


class Unvalidated(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Unused(nn.Sequential):
    def forward(self, x):
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


def test_what_cannot_be_counted_is_refused():
    unused = Classifier(Unused(*network(), nn.Linear(10, 10)), classes=10, lr=0.05)
    for module in (Unvalidated(), unused):
        with pytest.raises(ConfigError) as error:
            fit(PDST, module=module)
        assert error.value.key == "density_of"
    assert "model.6.weight" in str(error.value)
    with pytest.raises(ConfigError) as error:
        fit(PDST, density_of="bytes")
    assert error.value.key == "density_of"
    with pytest.raises(ConfigError) as error:
        fit(PDST, density=1e-4)
    assert error.value.key == "density"


def test_the_terminal_says_what_a_density_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["pdst", "data=digits", "rounds=1", "local_epochs=1", "density=0.1", "density_of=flops"]
    tiny += ["scheduler.first_mask.distribution=erk", "trainer.accelerator=cpu", "trainer.threads=1"]
    assert main(["fit", *tiny, "--dry-run"]) == 0
    assert "density 0.1 of the maskable layers' FLOPs" in capsys.readouterr().out
    assert main(["fit", *tiny, "run_dir=runs/flops", "logger=false"]) == 0
    out, err = capsys.readouterr()
    assert "density_flops" in err and "of the FLOPs (target 0.1)" in out
    result = json.loads((tmp_path / "runs" / "flops" / "result.json").read_text())
    assert result["density_of"] == "flops" and result["target_density"] == 0.1
    assert result["density_flops"] == pytest.approx(0.1, abs=0.01) and result["density"] != pytest.approx(0.1, abs=0.01)
    assert main(["fit", *tiny, "density_of=weights", "run_dir=runs/weights", "logger=false"]) == 0
    assert main(["compare", "runs"]) == 0
    assert "density_of" in capsys.readouterr().out
    assert main(["fit", *tiny, "density_of=bytes"]) == 2
    assert "density_of: 'bytes' is not one of weights, flops" in capsys.readouterr().err
