"""Index, batch, operations and logs of a step, and branches that open late."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.loops import test_captured as captured
from tests.loops.factor import Net, check


class IndexInATensor(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * torch.clamp(torch.tensor(batch_idx) / 3, max=1)


class IndexOfASlice(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (1 + sum([1, 1, 1][:batch_idx]))


class IndexOfARange(Net):
    def training_step(self, *arguments):
        return self.loss(arguments[0]) * (1 + len(range(arguments[1])[:2]))


class IndexInAFunction(Net):
    def training_step(self, batch, batch_idx):
        return (lambda: self.loss(batch) * (1 + (torch.ones(()) * batch_idx).clamp(max=2)))()


class PenalizesGradients(Net):
    def training_step(self, batch, batch_idx):
        images = batch[0].requires_grad_()
        loss = self.loss((images, batch[1]))
        return loss + torch.autograd.grad(loss, images, create_graph=True)[0].square().sum()


class ChangesTheBatch(Net):
    def training_step(self, batch, batch_idx):
        batch[0].mul_(0.5)
        return self.loss(batch)


class Counts(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * torch.bincount(batch[1]).float().mean()


class Runs(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * torch.unique_consecutive(batch[1]).float().mean()


class Repeats(Net):
    def training_step(self, batch, batch_idx):
        images, labels = (torch.repeat_interleave(part, batch[1] % 2 + 1, 0) for part in batch)
        return self.loss((images, labels))


class OwnOptimizer(Net):
    def configure_optimizers(self):
        return type("Own", (torch.optim.SGD,), {})(self.parameters(), lr=0.05)


EAGER = {  # a word of the reason
    IndexInATensor: "index",
    IndexOfASlice: "index",
    IndexOfARange: "index",
    IndexInAFunction: "index",
    PenalizesGradients: "batch",
    ChangesTheBatch: "batch",
    Counts: "bincount",
    Runs: "unique_consecutive",
    Repeats: "repeat_interleave",
    OwnOptimizer: "own",
}


@pytest.mark.parametrize("module", EAGER, ids=lambda cls: cls.__name__)
def test_steps_that_cannot_be_repeated(module):
    local = check(module)
    assert not local.counts["replayed"]
    assert len(local.told) == 1 and EAGER[module] in min(local.told), local.told


class Late(Net):
    """From the third client on steps do something else."""

    clients = 0

    def on_fit_start(self):
        self.clients = min(3, self.clients + 1)

    def factor(self):
        return self.late() if self.clients == 3 else 1


class AsksLate(Late):
    def late(self):
        return 1 + self.current_epoch


class DrawsLate(Late):
    def late(self):
        return 2 if np.random.rand() < 0.2 else 1


class CountsLate(Late):
    def __init__(self):
        super().__init__()
        self.state = {"steps": 0}

    def late(self):
        self.state["steps"] += 1
        return 1 + self.state["steps"] % 4


class LogsLate(Late):
    def late(self):
        self.log("late", 1.0)
        return 1


CALLS = []  # a step must not have such variables; here it makes a branch that opens while the step is captured


class Surprises(Net):
    def __init__(self):
        super().__init__()
        CALLS.clear()

    def factor(self):
        if self._client.context.purpose == "round":
            CALLS.append(0)
        if len(CALLS) == 5:  # after two watched steps, one more and the smaller last batch
            self.surprise()
        return 1


class AsksWhileCaptured(Surprises):
    def surprise(self):
        self.global_step  # noqa: B018


class LogsWhileCaptured(Surprises):
    def surprise(self):
        self.log("loss", 0.0, batch_size=0)


class ChangesWhileCaptured(Surprises):
    def surprise(self):
        self.surprised = True


SOMETIMES = {
    AsksLate: "current_epoch",
    DrawsLate: "random",
    CountsLate: "self.state",
    LogsLate: "late",
    AsksWhileCaptured: "global_step",
    LogsWhileCaptured: "loss",
    ChangesWhileCaptured: "self.surprised",
}


@pytest.mark.parametrize("module", SOMETIMES, ids=lambda cls: cls.__name__)
def test_branches_that_open_late_are_seen(module):
    local = check(module, cohort=3)
    assert any(SOMETIMES[module] in reason for reason in local.told), local.told


class LogsItsTensors(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.log("scale", self.scale)
        self.log("smallest", self.scale, reduce_fx="min")
        self.log("largest", self.scale, reduce_fx="max")
        self.log("largest_copy", self.scale * 1, reduce_fx="max")
        self.log("steps", self.steps, batch_size=self.steps + 1)
        self.steps.add_(1)
        return F.cross_entropy(self.net(batch[0]) * self.scale, batch[1]) + self.scale


class LogsNaN(Net):
    def factor(self):
        self.log("nothing", self.net[7].bias.sum().detach() * torch.nan)
        return 1


def test_logged_parameters_have_their_values_before_the_step():
    assert check(LogsItsTensors).counts["replayed"]
    rows = captured.run(LogsItsTensors, captured.PDST(), captured.FederatedTrainer)[1]
    assert all(row["largest"] == row["largest_copy"] > row["smallest"] for row in rows)


def test_nan_is_equal_to_nan(monkeypatch):
    monkeypatch.setattr(captured, "run", lambda *given, run=captured.run, **more: without_nan(*run(*given, **more)))
    assert check(LogsNaN).counts["replayed"]


def without_nan(tensors, rows, loop):
    assert all(np.isnan(row["nothing"]) for row in rows)
    return tensors, [{name: value for name, value in row.items() if name != "nothing"} for row in rows], loop
