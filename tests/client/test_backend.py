"""Plain SGD from sparse gradients, and layers that torch compiles."""

import functools

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl import PDST, FederatedTrainer
from flash_pl.client.plain_sgd import PlainSGD


def train(module, data, backend):
    """Train a module class with seeded weights; return the server's weights."""
    settings = {"density": 0.2, "rounds": 2, "cohort": 4, "seed": 1, "accelerator": "cpu", "backend": backend}
    torch.manual_seed(0)
    return FederatedTrainer(PDST(), **settings).fit(module(), data).server.weights


@pytest.mark.kernels
@pytest.mark.parametrize("weight_decay", [0.0, 5e-3])
def test_steps_without_dense_gradients_equal_the_optimizers(weight_decay, unaware, tiny_data):
    class Plain(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), torch.tensor(0.1), weight_decay=weight_decay)

    class Watching(Plain):
        def on_after_backward(self):
            assert self.net[0].weight.grad is not None

    weights = train(Plain, tiny_data, "sparse")
    for expected in (train(Watching, tiny_data, "sparse"), train(Plain, tiny_data, "dense")):
        torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.kernels
def test_weight_decay_counts_once_beside_a_penalty_on_the_weights(unaware, tiny_data):
    class Proximal(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1, weight_decay=0.5)

        def on_train_start(self):
            self.start = [parameter.detach().clone() for parameter in self.parameters()]

        def training_step(self, batch, batch_idx):
            pairs = zip(self.parameters(), self.start, strict=True)
            return super().training_step(batch, batch_idx) + 0.05 * sum((p - q).square().sum() for p, q in pairs)

    sparse, dense = (train(Proximal, tiny_data, backend) for backend in ("sparse", "dense"))
    torch.testing.assert_close(sparse, dense, rtol=1e-3, atol=1e-4)


@pytest.mark.kernels
def test_only_plain_sgd_without_hooks_is_taken_over():
    weights = [nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
    sgd = PlainSGD(weights[:1])
    for optimizer, taken in (
        (torch.optim.SGD(weights, 0.1, weight_decay=1e-3), True),
        (torch.optim.SGD(weights, 0.1, momentum=0.9), False),
        (torch.optim.SGD(weights, 0.1, maximize=True), False),
        (torch.optim.Adam(weights), False),
        (torch.optim.SGD(weights[1:], 0.1), False),
    ):
        sgd.take_over(optimizer)
        assert (sgd.sink(weights[0]) is not None) is taken and sgd.sink(weights[1]) is None
    optimizer = torch.optim.SGD(weights, 0.1)
    optimizer.register_step_pre_hook(lambda *arguments: None)
    sgd.take_over(optimizer)
    assert sgd.sink(weights[0]) is None
    sgd.take_over(torch.optim.SGD(weights, 0.1))
    assert sgd.sink(weights[0]) is not None
    sgd.release()
    assert sgd.sink(weights[0]) is None
    weights[0].register_hook(lambda gradient: gradient)
    sgd.take_over(torch.optim.SGD(weights, 0.1))
    assert sgd.sink(weights[0]) is None


class CallsItself(L.LightningModule):
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


class CallsPart(CallsItself):
    """Its training step calls a submodule."""

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.fixture
def frames(monkeypatch):
    """Torch's counters of traced frames. Torch runs the graphs itself: generating code would take half a minute."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("cls", [CallsItself, CallsPart])
def test_compiled_training_is_the_same_and_traced_once_per_mode(cls, tiny_data, frames):
    loops = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = cls()
        settings = {"compile": True} if compile else {"backend": "dense"}
        trainer = FederatedTrainer(PDST(), density=0.3, rounds=3, cohort=4, seed=1, accelerator="cpu", **settings)
        loops.append(trainer.fit(module, tiny_data))
        assert all(part._compiled_call_impl is None for part in module.modules())
    dense, compiled = loops
    assert torch.equal(dense.server.weights, compiled.server.weights)
    assert dense.metrics["val_acc"] == compiled.metrics["val_acc"]
    assert dense.metrics["flops"] == compiled.metrics["flops"] > 0
    assert frames["frames"]["ok"] >= 2 and not frames["graph_break"]  # training and evaluation
    assert frames["stats"]["unique_graphs"] <= 4  # each for two batch sizes
