"""Dense layers that torch compiles: the same training, no graph breaks, no trace left behind."""

import functools

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl import FederatedTrainer
from flash_pl.errors import ConfigError
from flash_pl.kernels import available
from flash_pl.schedulers import PDST


class BySelf(L.LightningModule):
    """Its steps call the module itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 4))

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, _):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByPart(BySelf):
    """Its steps call a part."""

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.fixture
def frames(monkeypatch):
    """What torch has traced; graphs run by torch itself, since code would take half a minute to be made."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("cls", [BySelf, ByPart])
def test_training_is_the_same_and_traced_once_a_mode(cls, tiny_data, frames):
    servers = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = cls()
        settings = {"compile": True} if compile else {"backend": "dense"}
        trainer = FederatedTrainer(PDST(), density=0.3, rounds=3, cohort=4, seed=1, accelerator="cpu", **settings)
        servers.append(trainer.fit(module, tiny_data))
        assert all(part._compiled_call_impl is None for part in module.modules())
    dense, compiled = servers
    assert torch.equal(dense.server.weights, compiled.server.weights)
    assert dense.metrics["val_acc"] == compiled.metrics["val_acc"]
    assert dense.metrics["flops"] == compiled.metrics["flops"] > 0
    assert frames["frames"]["ok"] >= 2 and not frames["graph_break"]  # training, evaluation; another batch size
    assert frames["stats"]["unique_graphs"] <= 4


@pytest.mark.skipif(not available(), reason="installed without a compiler")
def test_sparse_kernels_cannot_be_compiled(tiny_data):
    trainer = FederatedTrainer(PDST(), cohort=4, accelerator="cpu", backend="sparse", compile=True)
    with pytest.raises(ConfigError, match="backend: 'sparse' is not allowed; expected auto or dense together with"):
        trainer.fit(BySelf(), tiny_data)
