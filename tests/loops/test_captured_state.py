"""What a step reads or changes besides the tensors of its module: such steps are found and run themselves."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from flash_pl import models
from flash_pl.client import Classifier, federate
from flash_pl.client.python_state import python_state
from flash_pl.client.watch import StepWatch
from flash_pl.data import Synthetic
from flash_pl.sparsity import Layout
from tests.loops import test_captured as captured


class Net(captured.Net):
    """Multiplies its loss by ``factor``, which subclasses change."""

    def factor(self):
        return 1

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.factor()


def check(make, **settings):
    return captured.check(make, **({"rounds": 2, "cohort": 2} | settings))


# Hooks between steps


class ChangesADictionary(Net):
    def __init__(self):
        super().__init__()
        self.settings = {"factor": 1.0}

    def factor(self):
        return self.settings["factor"]

    def on_after_batch_transfer(self, batch, index):
        self.settings["factor"] = 1.5 - self.settings["factor"]
        return batch


class ChangesALayer(Net):
    def __init__(self):
        super().__init__(dropout=0.5)

    def on_before_batch_transfer(self, batch, index):
        self.net[6].p = 0.6 - self.net[6].p
        return batch


class ChangesATensor(Net):
    def transfer_batch_to_device(self, batch, device, index):
        self.mixed = torch.rand(())
        return batch

    def factor(self):
        return self.mixed


class ChangesTheType(Net):
    def on_before_batch_transfer(self, batch, index):
        self.kind = (1, 1.0, True)[self.global_step % 3]
        return batch

    def factor(self):
        return 2 if isinstance(self.kind, float) else 1


class ChangesAtTheRate(Net):
    def __init__(self):
        super().__init__()
        self.smooth = nn.CrossEntropyLoss()

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]

    def lr_scheduler_step(self, scheduler, metric):
        self.smooth.label_smoothing = 0.2
        scheduler.step()

    def on_fit_start(self):
        self.smooth.label_smoothing = 0.0

    def training_step(self, batch, batch_idx):
        return self.smooth(self.net(batch[0]), batch[1])


class HasAHookAsAttribute(ChangesADictionary):
    on_after_batch_transfer = captured.Net.on_after_batch_transfer

    def __init__(self):
        super().__init__()
        self.on_after_batch_transfer = lambda batch, index: ChangesADictionary.on_after_batch_transfer(self, batch, 0)


class ForgetsMomentum(Net):
    def __init__(self):
        super().__init__(momentum=0.9)

    def on_after_batch_transfer(self, batch, index):
        if self.training and self.global_step % 4 == 3:
            self.optimizers().state.clear()
        return batch


class KeepsAGradient(Net):
    def on_after_batch_transfer(self, batch, index):
        if self.net[7].weight.grad is not None:
            self.kept = self.net[7].weight.grad
        return batch

    def factor(self):
        return 1 + 0.1 * (self.kept * self.net[7].weight).sum().tanh() if hasattr(self, "kept") else 1


# A branch that opens late


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


# State that a repeated step would change twice


class PlainTensor(Net):
    def __init__(self):
        super().__init__()
        self.mean = [torch.ones(())]

    def factor(self):
        return self.mean[0].mul_(0.9).clone()


class HiddenTeacher(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(1, 1, bias=False)]

    def factor(self):
        self.hidden[0].weight.data.mul_(0.9)  # no version of the parameter tells
        return self.hidden[0].weight.detach().square().sum()


class HiddenNorm(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.BatchNorm2d(1)]

    def training_step(self, batch, batch_idx):
        return self.loss((self.hidden[0](batch[0]), batch[1]))

    def validation_step(self, batch, batch_idx):
        self.log("batches", self.hidden[0].num_batches_tracked.float())


class Draws(Net):
    def __init__(self, generator, draw):
        super().__init__()
        self.generator, self.draw = generator, draw

    def factor(self):
        return 2 if self.draw(self.generator) < 0.3 else 1


class Torch(Net):
    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def factor(self):
        return torch.rand((), generator=self.own)


class Numpy(Draws):
    def __init__(self):
        super().__init__(np.random.default_rng(0), lambda generator: generator.random())


class OldNumpy(Draws):
    def __init__(self):
        super().__init__(np.random.RandomState(0), lambda generator: generator.rand())


class Python(Draws):
    def __init__(self):
        super().__init__(random.Random(0), random.Random.random)


class BoundMethod(Draws):
    def __init__(self):
        super().__init__(None, None)
        random_numbers = np.random.default_rng(0)
        self.draw = lambda _: random_numbers.random()


class Cycle(Net):
    def __init__(self):
        super().__init__()
        self.factors = itertools.cycle([1, 1, 1, 1, 1, 2])

    def factor(self):
        return next(self.factors)


class Closure(Net):
    def __init__(self):
        super().__init__()
        steps = 0

        def count():
            nonlocal steps
            steps += 1
            return 2 if steps > 12 else 1

        self.count = count

    def factor(self):
        return self.count()


class Slots:
    __slots__ = ("steps",)

    def __init__(self):
        self.steps = 0


class CountsInSlots(Net):
    def __init__(self):
        super().__init__()
        self.counter = Slots()

    def factor(self):
        self.counter.steps += 1
        return 2 if self.counter.steps > 12 else 1


class ListOfTheClass(Net):
    steps = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.steps.clear()

    def factor(self):
        self.steps.append(0)
        return 2 if len(self.steps) > 12 else 1


class NumberOfTheClass(Net):
    steps = 0

    def __init__(self):
        super().__init__()
        NumberOfTheClass.steps = 0

    def factor(self):
        NumberOfTheClass.steps += 1
        return 2 if self.steps > 12 else 1


class ReadsAMetric(Net):
    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def factor(self):
        return 1 + self.mean.weight

    def on_fit_start(self):
        self.mean.update(1.0, weight=torch.rand(()))


class ReadsGradients(Net):
    def factor(self):
        gradient = self.net[7].weight.grad
        return 1 if gradient is None else 1 + (gradient.detach() * self.net[7].weight).sum()


# Index, batch, operations, optimizer


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
    ChangesADictionary: "between",
    ChangesALayer: "between",
    ChangesATensor: "between",
    ChangesTheType: "between",
    ChangesAtTheRate: "between",
    HasAHookAsAttribute: "between",
    ForgetsMomentum: "between",
    KeepsAGradient: "between",
    PlainTensor: "self.mean",
    HiddenTeacher: "self.hidden",
    HiddenNorm: "self.hidden",
    Torch: "self.own",
    Numpy: "self.generator",
    OldNumpy: "self.generator",
    Python: "self.generator",
    BoundMethod: "self.draw",
    Cycle: "cycle",
    Closure: "self.count",
    CountsInSlots: "Slots",
    ListOfTheClass: "ListOfTheClass.steps",
    NumberOfTheClass: "NumberOfTheClass.steps",
    ReadsAMetric: "torchmetric",
    ReadsGradients: "results",
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


# State that changes between clients or epochs


class Changes(Net):
    """Two states in turn."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def on_fit_start(self):
        self.change()


class InABytearray(Changes):
    def __init__(self):
        super().__init__(bytearray(b"\1"))

    def change(self):
        self.held[0] ^= 3

    def factor(self):
        return self.held[0]


class InADeepDictionary(Changes):
    def __init__(self):
        super().__init__({"a": {"b": {"c": {"d": {"factor": 1}}}}})

    def change(self):
        self.held["a"]["b"]["c"]["d"]["factor"] ^= 3

    def factor(self):
        return self.held["a"]["b"]["c"]["d"]["factor"]


class InALongList(Changes):
    def __init__(self):
        super().__init__([1] * 10_001)

    def change(self):
        self.held[0] ^= 3

    def factor(self):
        return self.held[0]


class InAHiddenLayer(Changes):
    def __init__(self):
        super().__init__([nn.Dropout(0.5)])

    def change(self):
        self.held[0].train(not self.held[0].training)

    def factor(self):
        return self.held[0](torch.ones(()))


class InTheClass(Changes):
    number = 1

    def __init__(self):
        super().__init__(None)
        InTheClass.number = 1

    def change(self):
        InTheClass.number ^= 3

    def factor(self):
        return self.number


class AtTheEndOfAnEpoch(Changes):
    """By a learning-rate scheduler, which also drops the momentum."""

    def __init__(self):
        super().__init__({"factor": 1})
        self.sgd |= {"momentum": 0.9}

    def change(self):
        pass

    def factor(self):
        return self.held["factor"]

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()

        def at_epoch(epoch):
            self.held["factor"] = 1 + epoch % 2
            optimizer.state.clear()
            return 1.0

        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, at_epoch)]


STATES = [InABytearray, InADeepDictionary, InALongList, InAHiddenLayer, InTheClass, AtTheEndOfAnEpoch]


@pytest.mark.parametrize("module", STATES, ids=lambda cls: cls.__name__)
def test_each_state_has_its_captured_step(module):
    counts = check(module, rounds=3).counts
    assert counts["captured"] > 1 and counts["replayed"]


def test_few_states_are_remembered(monkeypatch):
    class Always(Net):
        clients = 0

        def on_fit_start(self):
            self.clients += 1
            self.last = torch.zeros(self.clients)

    monkeypatch.setattr("flash_pl.loops.captured.KEPT", 2)
    local = check(Always, local_epochs=1, rounds=3)
    assert len(local._numbers) == 2 and any("again" in reason for reason in local.told)
    assert len(local._watched) <= 4


# Steps that can be repeated


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


NETWORKS = {"VGG11", "CharLSTM", "CharTransformer", "LeNet5", "LeafCNN", "MNISTNet", "MobileNetV2", "ResNet18"}


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_state_of_shipped_networks_is_known(network):
    module = federate(Classifier)(getattr(models, network)(), classes=10)
    module.bind(Layout(module))
    state = python_state(module)
    assert state.problem is None and StepWatch(module, torch.device("cpu")).change() is None
    assert python_state(module).values == state.values


def test_steps_of_a_classifier_are_replayed():
    data = Synthetic(samples=60, test_samples=10, classes=10, shape=(1, 28, 28), clients=3, batch_size=4, seed=1)
    settings = {"density": 0.3, "rounds": 2, "cohort": 2, "backend": "dense", "accelerator": "cpu"}
    weights = []
    for trainer in (captured.FederatedTrainer, captured.RecordedSteps):
        torch.manual_seed(0)
        loop = trainer(captured.PDST(), **settings).fit(Classifier(models.LeNet5(), classes=10), data)
        weights.append(loop.server.weights)
    assert torch.equal(*weights) and loop.local.counts["replayed"]
