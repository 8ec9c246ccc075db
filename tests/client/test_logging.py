"""Values that a module logs, and their means."""

import functools
import math
import pickle
import re
from dataclasses import dataclass

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision, MulticlassRecall

from flash_pl.callbacks import Callback, History
from flash_pl.client import Meter, reduce_clients, unsynchronized_metrics
from flash_pl.data import Shuffled, Synthetic
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.loops import EvaluationSchedule


def test_the_meter_weighs_by_samples_and_sums_in_single_precision():
    meter = Meter()
    batch = (torch.zeros(3, 2), torch.zeros(3))
    meter.log(batch, "a", torch.tensor(1.0))
    meter.log(batch, "a", torch.tensor(5.0), batch_size=1)
    for _ in range(1000):
        meter.log(None, "b", torch.tensor(1.0, dtype=torch.bfloat16))
    meter.log(None, "c", torch.tensor(1.0 + 1e-12, dtype=torch.float64))
    assert meter.compute() == {"a": 2.0, "b": 1.0, "c": 1.0 + 1e-12}


def stock_trainer(**settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet, **settings)


FORMS = {
    "mean": lambda log, x: log("value", x),
    "name": lambda log, x: log(name="value", value=x, on_epoch=True, on_step=False),
    "positional_sum": lambda log, x: log("value", x, False, True, False, True, "sum"),
    "keyword_sum": lambda log, x: log("value", x, reduce_fx=torch.sum, on_epoch=True),
    "builtin_sum": lambda log, x: log("value", x, reduce_fx=sum, on_epoch=True),
    "min": lambda log, x: log("value", x, reduce_fx="min", prog_bar=True, on_epoch=True),
    "max": lambda log, x: log("value", x, False, None, None, True, torch.max),
    "upper_case": lambda log, x: log("value", x, reduce_fx="MAX", on_epoch=True),
    "avg": lambda log, x: log("value", x, reduce_fx="avg", on_epoch=True),
    "batch_size": lambda log, x: log("value", x, batch_size=1 + int(x), on_epoch=True),
    "positional_batch_size": lambda log, x: log(
        "value", x, False, None, False, True, "mean", False, False, None, True, 1 + int(x)
    ),
    "tensor_batch_size": lambda log, x: log("value", x, on_epoch=True, batch_size=torch.tensor(2 + int(x))),
    "batch_size_0": lambda log, x: log("value", x, on_epoch=True, batch_size=0),
    "step_and_epoch": lambda log, x: log("value", x, on_step=True, on_epoch=True, logger=False, sync_dist=True),
    "tensor": lambda log, x: log("value", torch.tensor([[x]]), on_epoch=True),
    "double": lambda log, x: log("value", torch.tensor(x, dtype=torch.float64), on_epoch=True),
    "half": lambda log, x: log("value", torch.tensor(x, dtype=torch.bfloat16), on_epoch=True),
    "integer": lambda log, x: log("value", torch.tensor(int(x)), on_epoch=True),
    "boolean": lambda log, x: log("value", x > 1, on_epoch=True),
    "nan": lambda log, x: log("value", math.nan if x == 1 else x, on_epoch=True, reduce_fx="max"),
    "nan_mean": lambda log, x: log("value", torch.tensor(math.nan if x == 1 else x), on_epoch=True),
    "infinity": lambda log, x: log("value", math.inf if x == 1 else x, on_epoch=True),
    "some_batches": lambda log, x: log("value", x, on_epoch=True) if x > 1 else None,
    "twice_a_batch": lambda log, x: [log("value", x + i, on_epoch=True) for i in range(3)],
    "rank_zero": lambda log, x: log("value", x, on_epoch=True, rank_zero_only=True, enable_graph=True),
}
DICT_FORMS = {
    "dict": lambda log_dict, x: log_dict({"value": x, "other": 2 * x}),
    "dict_sum": lambda log_dict, x: log_dict({"value": x}, False, True, False, True, "sum"),
    "dict_rank_zero": lambda log_dict, x: log_dict(
        {"value": x}, False, None, False, True, "max", False, False, None, True, None, True
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [*FORMS, *DICT_FORMS])
def test_an_evaluation_logs_what_the_trainer_logs(form, fit, unaware, tiny_data):
    class Logging(unaware):
        def validation_step(self, batch, batch_idx):
            if form in FORMS:
                FORMS[form](self.log, float(batch_idx))
            else:
                DICT_FORMS[form](self.log_dict, float(batch_idx))

    tiny_data.eval_batch_size = 12  # 40 samples: the last batch has 4
    trainer = stock_trainer()
    trainer.validate(Logging(), tiny_data, verbose=False)
    metrics = fit(Logging(), tiny_data).metrics
    expected = {name: float(value) for name, value in trainer.callback_metrics.items() if name in ("value", "other")}
    assert "value" in expected
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["mean", "positional_sum", "min", "max", "batch_size", "nan", "twice_a_batch"])
def test_a_client_logs_what_the_trainer_logs(form, fit, unaware, tiny_data):
    class Logging(unaware):
        def training_step(self, batch, batch_idx):
            FORMS[form](functools.partial(self.log, **({"on_epoch": True} if form == "mean" else {})), float(batch_idx))
            return super().training_step(batch, batch_idx)

    updates = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            updates.append(update)

    fit(Logging(), tiny_data, callbacks=[Watch()])
    tiny_data.setup()
    for update in updates:
        loader = Shuffled(tiny_data.client_batches(update.client), torch.Generator())
        trainer = stock_trainer(max_epochs=1)
        trainer.fit(Logging(), loader)
        expected = float(trainer.callback_metrics["value"])
        assert update.metrics["value"] == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "min", "max"])
def test_the_clients_of_a_round_are_reduced_as_their_batches_are(reduction, fit, unaware):
    data = Synthetic(samples=165, test_samples=40, classes=4, shape=(1, 8, 8), clients=8, batch_size=8)
    logged = []

    class Logging(unaware):
        def training_step(self, batch, batch_idx):
            value = self._client.context.client + 0.1 * batch_idx
            if not self.trainer.sanity_checking:
                logged.append((value, len(batch[1])))
            self.log("value", value, reduce_fx=reduction)
            return super().training_step(batch, batch_idx)

    metrics = fit(Logging(), data, cohort=8).metrics
    values, sizes = zip(*logged, strict=True)
    mean = sum(value * size for value, size in logged) / sum(sizes)
    expected = {"mean": mean, "sum": sum(values), "min": min(values), "max": max(values)}
    assert metrics["value"] == pytest.approx(expected[reduction])


def test_the_clients_nan_stays_in_a_minimum():
    assert math.isnan(reduce_clients("min", [1.0, math.nan], [1, 1]))
    assert math.isnan(reduce_clients("min", [math.nan, 1.0], [1, 1]))


@pytest.mark.filterwarnings("ignore")
def test_of_a_name_in_two_hooks_the_later_one_counts_as_in_the_trainer(fit, unaware, tiny_data):
    class Logging(unaware):
        def validation_step(self, batch, batch_idx):
            self.log("value", 1.0)

        def on_validation_epoch_end(self):
            self.log("value", 5.0)

    expected = stock_trainer().validate(Logging(), tiny_data, verbose=False)[0]["value"]
    assert fit(Logging(), tiny_data).metrics["value"] == expected == 5.0


@pytest.mark.filterwarnings("ignore")
def test_a_collection_of_torchmetrics_is_logged_as_by_the_trainer(fit, unaware, tiny_data):
    class Logging(unaware):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            parts = [MulticlassAccuracy(4, average="micro"), MulticlassPrecision(4), MulticlassRecall(4)]
            self.scores = MetricCollection(parts, prefix="val_")

        def validation_step(self, batch, batch_idx):
            self.scores.update(torch.randn(len(batch[1]), 4, generator=torch.manual_seed(batch_idx)), batch[1])
            self.log_dict(self.scores)

    tiny_data.eval_batch_size = 12
    (expected,) = stock_trainer().validate(Logging(), tiny_data, verbose=False)
    metrics = fit(Logging(), tiny_data, rounds=2).metrics
    assert len(expected) == 3 and {name: metrics[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda self: self.log("note", 1.0, reduce_fx=torch.median), "reduce_fx is median; give mean, sum, min or max"),
        (lambda self: self.log("note", 1.0, False, None, None, None, lambda x: x[0]), "reduce_fx is <lambda>"),
        (lambda self: self.log("note", 1.0, reduce_fx="last"), "reduce_fx is 'last'"),
        (lambda self: self.log("note", 1.0, False, True, False, False), "on_step=False and on_epoch=False"),
        (lambda self: self.log("note", MulticlassAccuracy(4)), "MulticlassAccuracy is not an attribute"),
        (lambda self: [self.log("note", 1.0, reduce_fx=kind) for kind in ("sum", "max")], "use two names"),
    ],
)
def test_what_cannot_be_logged_is_refused_in_one_sentence(form, words, fit, unaware, tiny_data):
    class Logging(unaware):
        def training_step(self, batch, batch_idx):
            form(self)
            return super().training_step(batch, batch_idx)

    with pytest.raises(ModuleError, match=rf"^log\('note'\).*{re.escape(words)}"):
        fit(Logging(), tiny_data)


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


def sharing(base, *more):
    """A module whose training logs ``acc`` as its validation does, and ``more``."""

    class Sharing(base):
        def training_step(self, batch, batch_idx):
            for name in ("acc", *more):
                self.log(name, 7.0)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            self.log("acc", 3.0)

    return Sharing()


def test_a_name_of_validation_gets_a_prefix_in_training(fit, unaware, tiny_data):
    """In every round, with and without an evaluation."""
    history = History()
    fit(sharing(unaware), tiny_data, rounds=3, evaluate=EvaluationSchedule(eval_every=2), callbacks=[history])
    assert history["train_acc"] == [7.0] * 3
    assert history["acc"] == pytest.approx([math.nan, 3.0, 3.0], nan_ok=True)


def test_a_name_that_has_the_prefix_already_is_refused(fit, unaware, tiny_data):
    with pytest.raises(ConfigError, match="train_acc") as error:
        fit(sharing(unaware, "train_acc"), tiny_data)
    assert error.value.key == "log"


@dataclass
class Pair:
    images: torch.Tensor
    labels: torch.Tensor


class Plain:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels


BATCHES = {
    "dataclass": Pair,
    "object": Plain,
    "dict_of_lists": lambda images, labels: {"images": list(images), "labels": labels.tolist()},
}


def on_plain_objects(base, make, **given):
    """A module that works on batches of another class."""

    class Other(base):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return make(*batch)

        def _tensors(self, batch):
            if isinstance(batch, dict):
                return torch.stack(batch["images"]), torch.tensor(batch["labels"])
            return batch.images, batch.labels

        def training_step(self, batch, batch_idx):
            loss = nn.functional.cross_entropy(self.net(self._tensors(batch)[0]), self._tensors(batch)[1])
            sizes = {"batch_size": len(self._tensors(batch)[1])} if given else {}
            self.log("loss", loss, **sizes)
            return loss

        def validation_step(self, batch, batch_idx):
            images, labels = self._tensors(batch)
            correct = (self.net(images).argmax(1) == labels).float()
            self.log("val_acc", correct.mean(), **({"batch_size": len(labels)} if given else {}))
            self.log("correct", correct.sum(), reduce_fx="sum")

    torch.manual_seed(0)
    return Other()


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_may_be_plain_objects_with_a_batch_size(kind, fit, unaware, tiny_data):
    tiny_data.eval_batch_size = 12
    metrics = fit(on_plain_objects(unaware, BATCHES[kind], given=True), tiny_data).metrics
    torch.manual_seed(0)
    expected = fit(unaware(), tiny_data).metrics
    for name in ("loss", "val_acc", "flops", "flops_inference"):
        assert metrics[name] == expected[name], name
    assert metrics["correct"] == pytest.approx(40 * metrics["val_acc"])


def test_a_batch_without_a_known_size_is_refused_with_the_remedy(fit, unaware, tiny_data):
    with pytest.raises(ModuleError, match="Plain .*batch_size="):
        fit(on_plain_objects(unaware, Plain), tiny_data)


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
