"""State that a step changes besides the tensors of its module is found, and such steps run themselves."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from flash_pl import models
from flash_pl.client import Classifier, federate
from flash_pl.client.python_state import python_state
from flash_pl.client.watch import StepWatch
from flash_pl.data import Synthetic
from flash_pl.sparsity import Layout
from tests.loops import test_captured as captured
from tests.loops.factor import Net, check


class PlainTensor(Net):
    def __init__(self):
        super().__init__()
        self.mean = [torch.ones(())]

    def factor(self):
        return self.mean[0].mul_(0.9).clone()


class HiddenTeacher(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(2, 1, bias=False)]

    def factor(self):
        self.hidden[0].weight.data.mul_(0.9)  # no version of the parameter tells
        return self.hidden[0].weight.detach().square().sum()


class HiddenGradients(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(2, 1, bias=False)]

    def factor(self):
        return 1 + self.hidden[0].weight.square().sum()

    def validation_step(self, batch, batch_idx):
        gradient = self.hidden[0].weight.grad
        self.log("gradient", torch.zeros(()) if gradient is None else gradient.sum())


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


class CannotBeRead(Net):
    def __init__(self):
        super().__init__()

        class Closed(dict):
            def items(self):
                raise RuntimeError("closed")

        self.closed = Closed()


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


EAGER = {  # a word of the reason
    PlainTensor: "self.mean",
    HiddenTeacher: "self.hidden",
    HiddenGradients: "self.hidden",
    HiddenNorm: "self.hidden",
    Torch: "self.own",
    Numpy: "self.generator",
    OldNumpy: "self.generator",
    Python: "self.generator",
    BoundMethod: "self.draw",
    Cycle: "cycle",
    Closure: "self.count",
    CountsInSlots: "Slots",
    CannotBeRead: "self.closed",
    ListOfTheClass: "ListOfTheClass.steps",
    NumberOfTheClass: "NumberOfTheClass.steps",
    ReadsAMetric: "torchmetric",
    ReadsGradients: "results",
}


@pytest.mark.parametrize("module", EAGER, ids=lambda cls: cls.__name__)
def test_steps_that_cannot_be_repeated(module):
    local = check(module)
    assert not local.counts["replayed"]
    assert len(local.told) == 1 and EAGER[module] in min(local.told), local.told


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
