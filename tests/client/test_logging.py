"""Values that a module logs, and their means."""

import pickle

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from flash_pl.callbacks import Callback
from flash_pl.client import Meter, unsynchronized_metrics
from flash_pl.data import Synthetic
from flash_pl.errors import ConfigError, ModuleError


def test_the_meter_weighs_by_samples_and_sums_in_single_precision():
    meter = Meter()
    meter.update("a", torch.tensor(1.0), 3)
    meter.update("a", torch.tensor(5.0), 1)
    for _ in range(1000):
        meter.update("b", torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert meter.compute() == {"a": 2.0, "b": 1.0}


def test_metrics_do_not_look_for_other_processes_meanwhile():
    module = nn.ModuleList([MulticlassAccuracy(num_classes=4)])
    before = module[0].distributed_available_fn
    with unsynchronized_metrics(module):
        assert not module[0].distributed_available_fn()
        pickle.loads(pickle.dumps(module))
    assert module[0].distributed_available_fn is before


def test_a_torchmetric_may_be_called_and_logged_in_a_step(fit, unaware, tiny_data):
    """This is Lightning's own form. The hash of a torchmetric changes with its state."""

    class Called(unaware):
        def __init__(self):
            super().__init__()
            self.accuracy = MulticlassAccuracy(num_classes=4, average="micro")

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.accuracy(self.net(batch[0]), batch[1])
            self.log("val_called", self.accuracy)

    loop = fit(Called(), tiny_data)
    assert loop.metrics["val_called"] == pytest.approx(loop.metrics["val_acc"])


def test_values_logged_between_batches_have_the_same_weight_for_every_client(fit, unaware):
    data = Synthetic(samples=165, test_samples=40, classes=4, shape=(1, 8, 8), clients=8, batch_size=8)

    class Logging(unaware):
        def on_train_epoch_start(self):
            self.log("epoch_start", float(self.current_epoch))

        def on_train_epoch_end(self):
            self.log("epoch_end", float(self.current_epoch))

    seen = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            seen.append((update.metrics["epoch_start"], update.metrics["epoch_end"]))

    fit(Logging(), data, cohort=8, local_epochs=3, callbacks=[Watch()])
    assert len({samples % 8 for samples in data.client_sizes}) > 1, "last batches of several sizes"
    assert seen == 8 * [(1.0, 1.0)]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.ones(4), r"a tensor of shape \[4\]"), ("fine", "str"), ({"a": 1.0}, "dict"), (None, "NoneType")],
)
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_only_numbers_can_be_logged(fit, step, value, kind, unaware, tiny_data):
    class Logging(unaware):
        pass

    def logging(self, batch, batch_idx):
        self.log("note", value)
        return getattr(unaware, step)(self, batch, batch_idx)

    setattr(Logging, step, logging)
    with pytest.raises(ModuleError, match=rf"^log\('note'\): {kind} is not a number"):
        fit(Logging(), tiny_data)


def test_a_name_that_training_and_validation_share_is_refused(fit, unaware, tiny_data):
    class Vague(unaware):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("val_loss", loss)
            return loss

    with pytest.raises(ConfigError, match="val_loss") as error:
        fit(Vague(), tiny_data)
    assert error.value.key == "log"


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
@pytest.mark.parametrize("name", ["round", "seconds", "seconds_train", "failed", "density", "participants", "flops"])
def test_a_name_that_the_round_logs_itself_is_refused(fit, name, step, unaware, tiny_data):
    class Vague(unaware):
        pass

    def logging(self, batch, batch_idx):
        self.log(name, 123.0)
        return getattr(unaware, step)(self, batch, batch_idx)

    setattr(Vague, step, logging)
    with pytest.raises(ConfigError, match=rf"\b{name}\b") as error:
        fit(Vague(), tiny_data)
    assert error.value.key == "log"
