"""Runs whose steps are recorded and repeated have the bits of runs whose steps are not; what cannot be is found."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from flash_pl import JMWST, NST, PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, History
from flash_pl.data import Synthetic
from flash_pl.loops import RoundDecay
from flash_pl.schedulers import FIARSE, STEAD, Cosine, FedDST, LastStep, SparsyFed
from flash_pl.testing.variants import RecordedSteps


class Net(L.LightningModule):
    """Logs its loss; subclasses change one thing."""

    def __init__(self, norm: bool = True, dropout: float = 0.0, **sgd):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4) if norm else nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 16),
            nn.Dropout(dropout),
            nn.Linear(16, 4),
        )
        self.sgd = {"lr": 0.05} | sgd

    def loss(self, batch):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), **self.sgd)


def run(make, scheduler, trainer_class, rounds=3, callback=None, **settings):
    """The server's tensors and the rows of a run, and its loop."""
    torch.manual_seed(0)
    history = History()
    data = Synthetic(samples=150, test_samples=8, classes=4, shape=(1, 8, 8), clients=5, batch_size=8, seed=1)
    settings = {"density": 0.3, "cohort": 3, "local_epochs": 2, "backend": "dense", "accelerator": "cpu"} | settings
    callbacks = [history, *([callback()] if callback else [])]
    loop = trainer_class(scheduler, rounds=rounds, seed=1, callbacks=callbacks, **settings).fit(make(), data)
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in history.rows]
    return [loop.server.weights, loop.server.mask, loop.server.union], rows, loop


def check(make, scheduler=PDST, **settings):
    """Compare both; return the loop with recorded steps."""
    expected, rows, _ = run(make, scheduler(), FederatedTrainer, **settings)
    tensors, recorded_rows, loop = run(make, scheduler(), RecordedSteps, **settings)
    assert all(map(torch.equal, tensors, expected)) and recorded_rows == rows
    return loop.local


def moving():
    scheduler = JMWST()
    scheduler.first_stage = None
    return scheduler


MODULES = {
    "batch norm": Net,
    "group norm": lambda: Net(norm=False),
    "momentum": lambda: Net(momentum=0.9, weight_decay=1e-3),
    "dropout": lambda: Net(dropout=0.5),
}


@pytest.mark.parametrize("scheduler", [PDST, *(pytest.param(s, marks=pytest.mark.slow) for s in (moving, STEAD, NST))])
@pytest.mark.parametrize("module", MODULES)
def test_most_steps_are_replayed_with_the_same_bits(module, scheduler):
    counts = check(MODULES[module], scheduler).counts
    assert counts["captured"] and counts["replayed"] > counts["eager"] + counts["watched"] + counts["captured"]


SETTINGS = {
    "clipped by norm": {"gradient_clip_val": 0.5},
    "clipped by value": {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    "decay": {"decay": RoundDecay(ratio=0.5)},
    "full": {"density": 1.0},
    "bf16": {"precision": "bf16-mixed"},
    "even batches": {"local_epochs": 3},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_the_trainer(settings):
    assert check(Net, **settings).counts["replayed"]


class Schedule(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Anneals(Net):
    """What the step reads changes between clients, in an attribute and in a layer."""

    scale = 1.0

    def on_fit_start(self):
        self.scale = self.scale * 0.5 if self.scale > 0.1 else 1.0
        self.net[6].p = 0.1 * self.scale

    def training_step(self, batch, batch_idx):
        return self.scale * self.loss(batch)


class Unfreezes(Net):
    """The first layer gets its momentum from every second client."""

    def __init__(self):
        super().__init__(momentum=0.9)
        self.clients = [0]

    def on_fit_start(self):
        self.clients[0] ^= 1
        self.net[0].requires_grad_(bool(self.clients[0]))


class InPlace(Net):
    """Keeps a mean in a buffer, in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(loss.detach(), alpha=0.1)
        return loss + 0.1 * self.mean


class Logs(Net):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.log_dict({"size": images.abs().mean(), "worst": images.max()}, reduce_fx="max")
        return {"loss": self.loss((images, labels)), "more": images.sum()}


@pytest.mark.parametrize("module", [Schedule, Anneals, Unfreezes, InPlace, Logs], ids=lambda cls: cls.__name__)
def test_modules_whose_steps_are_replayed(module):
    assert check(module).counts["replayed"]


class Counts(Net):
    seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return self.loss(batch) * (1 + 0.01 * (self.seen % 3))


class CountsInside(Net):
    def __init__(self):
        super().__init__()
        self.state = {"steps": [0]}

    def training_step(self, batch, batch_idx):
        self.state["steps"][0] += 1
        return self.loss(batch) * (1 + 0.01 * (self.state["steps"][0] % 3))


class Appends(Net):
    def __init__(self):
        super().__init__()
        self.losses = []

    def training_step(self, batch, batch_idx):
        self.losses.append(loss := self.loss(batch))
        return loss


class Index(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (2 if batch_idx % 2 else 1)


class ScheduleOfSteps(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Epoch(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * (2 if self.current_epoch else 1)


class GlobalStep(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) / (1 + self.global_step)


class Waits(Net):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        return 2 * loss if loss.item() > 1 else loss


class ByMask(Net):
    def training_step(self, batch, batch_idx):
        return self.loss((batch[0][batch[1] >= 0], batch[1]))


class NumpyDraws(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * float(np.random.rand())


class PythonDraws(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * random.random()


class LogsANumber(Net):
    def training_step(self, batch, batch_idx):
        self.log("rate", 0.1)
        return self.loss(batch)


class LogsAMetric(Net):
    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=4)

    def training_step(self, batch, batch_idx):
        self.accuracy.update(self.net(batch[0]), batch[1])
        self.log("acc", self.accuracy)
        return self.loss(batch)


class Skips(Net):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 1 else self.loss(batch)


class GradientHook(Net):
    def on_after_backward(self):
        self.net[0].weight.grad.mul_(2)


class LayerHook(Net):
    def __init__(self):
        super().__init__()
        seen = []
        self.net[0].register_forward_hook(lambda layer, inputs, output: seen.append(0) or output * (1 + len(seen) % 2))


class OptimizerHook(Net):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(lambda *arguments: None)
        return optimizer


class PlainAdam(Net):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


EAGER = {
    Counts: "training_step changes self.seen",
    CountsInside: "training_step changes self.state",
    Appends: "training_step changes self.losses",
    Index: "training_step uses the index of the batch",
    ScheduleOfSteps: "the learning rate changes at every step",
    Epoch: "training_step asks for current_epoch",
    GlobalStep: "training_step asks for global_step",
    Waits: "training_step waits for the device (_local_scalar_dense)",
    ByMask: "training_step waits for the device (index)",
    NumpyDraws: "training_step draws random numbers on the host",
    PythonDraws: "training_step draws random numbers on the host",
    LogsANumber: "training_step logs rate, which is no tensor",
    LogsAMetric: "training_step changes self.accuracy",
    Skips: "training_step uses the index of the batch",
    GradientHook: "a hook of the module could read or change gradients",
    LayerHook: "layers or parameters have hooks",
    OptimizerHook: "the optimizer has hooks",
    PlainAdam: "Adam needs the host",
}


@pytest.mark.parametrize("module", EAGER, ids=lambda cls: cls.__name__)
def test_steps_that_cannot_be_repeated_are_found_and_the_run_says_why(module):
    local = check(module)
    assert not local.counts["replayed"]
    assert any(reason.startswith(EAGER[module]) for reason in local.told), local.told


class Annealing(Callback):
    """Changes the module after each round."""

    def on_round_end(self, loop, row):
        loop.client.module.scale *= 0.5


def test_a_callback_may_change_what_steps_read():
    class Scaled(Net):
        scale = 1.0

        def training_step(self, batch, batch_idx):
            return self.scale * self.loss(batch)

    counts = check(Scaled, callback=Annealing).counts
    assert counts["captured"] == 6 and counts["replayed"] > 18 and counts["watched"] == 12


SCHEDULERS = {
    SparsyFed: "SparsyFed changes what a step computes",
    lambda: FIARSE(importance=True): "FIARSE looks at the gradients of every step",
}


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["sparsyfed", "fiarse"])
def test_schedulers_that_take_part_in_every_step(scheduler):
    local = check(Net, scheduler)
    assert not local.counts["replayed"] and local.told == {SCHEDULERS[scheduler]}


@pytest.mark.parametrize("module", ["batch norm", "momentum"])
def test_steps_with_dense_gradients_run_themselves_and_the_others_are_replayed(module):
    counts = check(MODULES[module], lambda: FedDST(interval=LastStep(), decay=Cosine(rounds=3))).counts
    assert counts["eager"] >= 9 and counts["replayed"] > 9


class Broken(RecordedSteps):
    """Captures that fail although nothing was found."""

    def make_local_loop(self):
        local = super().make_local_loop()
        local.recorder = type("Failing", (local.recorder,), {"record": fail})
        return local


def fail(recorder, step):
    from flash_pl.client.recorder import NotRepeatable

    step()
    raise NotRepeatable("the driver says no")


@pytest.mark.filterwarnings("ignore:no more steps are captured")
def test_a_capture_that_fails_leaves_no_trace_and_is_the_last_one():
    expected, rows, _ = run(MODULES["momentum"], PDST(), FederatedTrainer)
    tensors, recorded_rows, loop = run(MODULES["momentum"], PDST(), Broken)
    assert all(map(torch.equal, tensors, expected)) and recorded_rows == rows
    assert loop.local.told == {"a capture has failed: the driver says no"} and not loop.local.counts["captured"]


class StopsAfterOne(Callback):
    def on_round_end(self, loop, row):
        loop.should_stop = loop.round == 1


def test_a_loop_may_run_again_after_the_module_was_the_users():
    class Buffered(InPlace):
        def __init__(self):
            super().__init__()
            self.register_buffer("step", torch.zeros(()), persistent=False)  # not in the arena

        def training_step(self, batch, batch_idx):
            self.step.add_(1)
            return self.loss(batch) / self.step

    servers = []
    for trainer_class in (FederatedTrainer, RecordedSteps):
        torch.manual_seed(0)
        data = Synthetic(samples=60, test_samples=8, classes=4, shape=(1, 8, 8), clients=3, batch_size=4, seed=1)
        settings = {"density": 0.3, "cohort": 2, "rounds": 3, "backend": "dense", "accelerator": "cpu"}
        trainer = trainer_class(PDST(), callbacks=[StopsAfterOne()], **settings)
        loop = trainer.loop(Buffered(), data)
        trainer.run(loop)
        assert loop.round == 1
        loop.should_stop = False
        trainer.run(loop)
        servers.append((loop.round, loop.server.weights))
    assert servers[0][0] == servers[1][0] == 3 and torch.equal(servers[0][1], servers[1][1])
    assert loop.local.counts["captured"] == 2  # a graph knows the old place of the buffer; the recorder here does not


def test_few_captured_steps_are_kept(monkeypatch):
    monkeypatch.setattr("flash_pl.loops.captured.KEPT", 2)
    local = check(Net, decay=RoundDecay(ratio=0.5))
    assert len(local._captured) == 2


@pytest.mark.parametrize(
    ("graphs", "problem"), [(True, "this process computes on cpu; set graphs=auto"), ("on", "'on' is not auto, true")]
)
def test_the_option_is_checked(graphs, problem):
    with pytest.raises(ConfigError, match=f"graphs: .*{problem}"):
        FederatedTrainer(PDST(), graphs=graphs, accelerator="cpu")


def test_loggers_are_asked_for():
    class Logging(Net):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) if self.logger is None else None

    assert check(Logging).told == {"training_step asks for logger"}
