"""What changes between steps, by a hook, between epochs or between clients."""

import pytest
import torch
from torch import nn

from tests.loops import test_captured as captured
from tests.loops.factor import Net, check


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


@pytest.mark.parametrize(
    "module",
    [
        ChangesADictionary,
        ChangesALayer,
        ChangesATensor,
        ChangesTheType,
        ChangesAtTheRate,
        HasAHookAsAttribute,
        ForgetsMomentum,
        KeepsAGradient,
    ],
    ids=lambda cls: cls.__name__,
)
def test_modules_with_hooks_between_steps_are_not_captured(module):
    local = check(module)
    assert not local.counts["replayed"] and "between" in min(local.told), local.told


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


class InATensor(Changes):
    def __init__(self):
        super().__init__(torch.ones(2))

    def change(self):
        self.held[0] = 3 - self.held[0]

    def factor(self):
        return self.held.tolist()[0]


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


STATES = [InABytearray, InADeepDictionary, InALongList, InATensor, InAHiddenLayer, InTheClass, AtTheEndOfAnEpoch]


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
