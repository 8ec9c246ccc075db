"""Modules as users write them: what they may do, and what must not leak between clients."""

import copy
import pickle
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from torchmetrics.classification import MulticlassAccuracy

from flash_pl import JMWST, NST, PDST, Classifier, ConfigError, FederatedTrainer, RoundDecay
from flash_pl.callbacks import Checkpoint
from flash_pl.client import Meter, configure, layer_labels
from flash_pl.data import Shuffled, Synthetic
from flash_pl.errors import ModuleError
from flash_pl.schedulers import SparsyFed
from flash_pl.sparsity import Layout, SparsityBudget, Tier


def fit(module, data, **settings):
    settings = {"density": 0.3, "rounds": 1, "cohort": 2, "accelerator": "cpu"} | settings
    return FederatedTrainer(PDST(), **settings).fit(module, data)


SCHEDULES = {
    "step": lambda o: StepLR(o, 2),
    "cosine": lambda o: CosineAnnealingLR(o, 10, eta_min=0.01),
    "one cycle": lambda o: OneCycleLR(o, 0.3, total_steps=12),
    "warm-up": lambda o: SequentialLR(o, [LinearLR(o, 0.5, total_iters=3), CosineAnnealingLR(o, 9)], [3]),
    "lambdas": lambda o: SequentialLR(o, [LambdaLR(o, lambda t: 1.0), LambdaLR(o, lambda t: 0.5**t)], [4]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rounds_decay_scales_every_rate_of_a_schedule(name):
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            return [optimizer], [{"scheduler": SCHEDULES[name](optimizer), "interval": "step"}]

    def rates(scale):
        optimizer, (schedule,) = configure(Module(), scale)
        seen = []
        for _ in range(10):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.scheduler.step()
        return seen

    assert rates(0.01) == pytest.approx([0.01 * rate for rate in rates(1.0)], rel=1e-6)


def test_a_module_without_batch_idx_that_returns_a_dict(unaware, tiny_data):
    seen = []

    class Terse(unaware):
        def training_step(self, batch):
            return {"loss": nn.functional.cross_entropy(self.net(batch[0]), batch[1]), "note": self.current_epoch}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen.append((outputs["note"], self.global_step))

    fit(Terse(), tiny_data, cohort=1, local_epochs=2)
    assert [note for note, _ in seen] == sorted(note for note, _ in seen) and {0, 1} == {note for note, _ in seen}
    assert [step for _, step in seen] == list(range(1, len(seen) + 1))


def test_a_layer_in_eval_mode_stays_in_it(unaware, tiny_data):
    module = unaware()
    module.net[1].eval()
    statistics = module.net[1].running_mean.clone()
    fit(module, tiny_data)
    assert torch.equal(module.net[1].running_mean, statistics) and not module.net[1].training and module.net[0].training


def test_counters_do_not_pass_from_client_to_client(unaware, tiny_data):
    counts = []

    class Spy:
        def on_client_end(self, loop, update):
            counts.append(int(loop.client.module.net[1].num_batches_tracked))

    fit(unaware(), tiny_data, cohort=3, callbacks=[Spy()])
    assert counts == [3, 3, 3]


def test_nothing_passes_from_client_to_client(unaware, tiny_data):
    """Gradients, frozen weights and the modes of layers are as they were for every client."""
    seen = []

    class Switches(unaware):
        def on_train_start(self):
            flags = [parameter.requires_grad for parameter in self.parameters()]
            modes = [part.training for part in self.modules()]
            seen.append((flags, modes, [parameter.grad for parameter in self.parameters()]))

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[6].bias.requires_grad_(False)
                self.net[1].eval()

    fit(Switches(), tiny_data, cohort=3, local_epochs=2)
    assert len(seen) == 3 and all(every == seen[0] for every in seen)
    assert all(grad is None for grad in seen[0][2])


def test_frozen_weights_are_not_masked(unaware):
    module = unaware()
    module.net[4].weight.requires_grad_(False)
    assert [layer.name for layer in Layout(module).layers] == ["net.0.weight", "net.6.weight"]


def test_after_fit_the_module_works_in_a_stock_trainer(unaware, tiny_data):
    module = unaware()
    loop = fit(module, tiny_data, rounds=2)
    stock = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    metrics = stock.validate(module, datamodule=tiny_data, verbose=False)[0]
    assert metrics["val_acc"] == pytest.approx(loop.metrics["val_acc"])


@pytest.mark.parametrize("method", [NST, JMWST, SparsyFed])
def test_a_stock_trainer_goes_on_under_the_servers_mask(method, unaware, tiny_data):
    """Whoever has trained last; also where a run was broken off, and after ``validate``."""
    settings = {"density": 0.3, "rounds": 2, "cohort": 3, "accelerator": "cpu"}

    def go_on(module):
        stock = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=1
        )
        stock.fit(module, Shuffled(tiny_data.client_batches(0), torch.Generator()))

    module = unaware()
    loop = FederatedTrainer(method(), **settings).fit(module, tiny_data)
    go_on(module)
    weights, mask = loop.client.weights, loop.server.mask
    assert torch.equal(weights != 0, mask) and not torch.equal(weights, loop.server.masked()[: len(weights)])

    FederatedTrainer(method(), **settings).validate(module, tiny_data)
    go_on(module)

    class Broken:
        def on_client_end(self, loop, update):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FederatedTrainer(method(), callbacks=[Broken()], **settings).fit(module, tiny_data)
    go_on(module)


def noisy(base):
    """A module that adds noise to all gradients after it has clipped them."""

    class Noisy(base):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, 1.0, "norm")
            for parameter in self.parameters():
                parameter.grad.add_(0.1)

    return Noisy


def restless(base):
    """A module that changes all weights after every step."""

    class Restless(base):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.add_(0.01)

    return Restless


@pytest.mark.parametrize("kind", [noisy, restless])
def test_what_a_module_does_to_pruned_weights_is_not_reported(kind, unaware, tiny_data):
    reports = []

    class Watch:
        def on_client_end(self, loop, update):
            outside = loop.client.arena[: loop.server.layout.maskable][~update.mask]
            reports.append(int(outside.count_nonzero()))

    fit(kind(unaware)(), tiny_data, callbacks=[Watch()])
    assert reports == [0, 0]


def test_a_module_that_adds_noise_computes_under_its_mask(unaware, tiny_data):
    seen = []

    class Looking(noisy(unaware)):
        def training_step(self, batch, batch_idx):
            seen.append(bool(self._client.weights[~self._client.mask].any()))
            return super().training_step(batch, batch_idx)

    fit(Looking(), tiny_data)
    assert len(seen) > 4 and not any(seen)


def test_what_is_logged_between_batches_weighs_the_same_whoever_trained_before(unaware):
    data = Synthetic(samples=165, test_samples=40, classes=4, shape=(1, 8, 8), clients=8, batch_size=8)

    class Logging(unaware):
        def on_train_epoch_start(self):
            self.log("epoch_start", float(self.current_epoch))

        def on_train_epoch_end(self):
            self.log("epoch_end", float(self.current_epoch))

    seen = []

    class Watch:
        def on_client_end(self, loop, update):
            seen.append((update.metrics["epoch_start"], update.metrics["epoch_end"]))

    fit(Logging(), data, cohort=8, local_epochs=3, callbacks=[Watch()])
    assert len({samples % 8 for samples in data.client_sizes}) > 1, "last batches of several sizes"
    assert seen == 8 * [(1.0, 1.0)]


def test_tied_weights_are_saved_as_one(tiny_data, unaware, tmp_path):
    class Tied(unaware):
        def __init__(self):
            super().__init__()
            first, second = nn.Linear(64, 64), nn.Linear(64, 64)
            second.weight = first.weight
            self.net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, 4))

    module = Tied()
    loop = fit(module, tiny_data, callbacks=[Checkpoint(tmp_path)])
    plain = Tied.load_from_checkpoint(tmp_path / "last.ckpt")
    images = tiny_data.val_dataloader().images
    assert torch.equal(plain.net(images), module.net(images))
    assert loop.round == 1


def test_layers_that_differ_by_the_name_of_the_network_alone_keep_it():
    names = ["model.conv.weight", "model.fc.weight", "fc.weight"]
    layout = SimpleNamespace(layers=[SimpleNamespace(name=name) for name in names])
    assert layer_labels(layout) == ["conv", "model.fc", "fc"]


def test_a_checkpoint_of_another_layout_is_refused(unaware, tiny_data, tmp_path):
    fit(unaware(), tiny_data, callbacks=[Checkpoint(tmp_path)])
    for change in ({"channels_last": False}, {"exclude": ["net.0"]}):
        trainer = FederatedTrainer(PDST(), density=0.3, cohort=2, accelerator="cpu", **change)
        with pytest.raises(ConfigError, match=r"^model: '\d+ values .* same model, excluded layers and memory"):
            trainer.validate(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")


def test_smaller_tiers_are_evaluated_too(unaware, tiny_data):
    loop = fit(unaware(), tiny_data, density=0.4, budget=SparsityBudget([Tier(0.1, 0.5), Tier(0.4, 0.5)]))
    assert "val_acc_d0.1" in loop.metrics and loop.metrics["val_loss_d0.1"] != loop.metrics["val_loss"]


def test_a_name_for_two_things_is_refused(unaware, tiny_data):
    class Vague(unaware):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("val_loss", loss)
            return loss

    with pytest.raises(ConfigError, match="val_loss.*do not share"):
        fit(Vague(), tiny_data)


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
@pytest.mark.parametrize("name", ["round", "seconds", "seconds_train", "failed", "density", "participants", "flops"])
def test_a_name_of_the_rounds_own_is_refused(name, step, unaware, tiny_data):
    class Vague(unaware):
        pass

    def logging(self, batch, batch_idx):
        self.log(name, 123.0)
        return getattr(unaware, step)(self, batch, batch_idx)

    setattr(Vague, step, logging)
    with pytest.raises(ConfigError, match=rf"log: \['{name}'.* is not allowed; .*do not share"):
        fit(Vague(), tiny_data)


def test_clipping_as_in_the_trainer(unaware, tiny_data):
    off, none = fit(seeded(unaware), tiny_data, gradient_clip_val=0.0), fit(seeded(unaware), tiny_data)
    assert torch.equal(off.server.weights, none.server.weights)
    for algorithm in ("norm", "value"):
        clipped = fit(seeded(unaware), tiny_data, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
        assert not torch.equal(clipped.server.weights, none.server.weights)
    for settings in ({"gradient_clip_algorithm": "nrom"}, {"precision": "bf16-true"}):
        with pytest.raises(ConfigError, match="is not allowed"):
            fit(unaware(), tiny_data, **settings)


def seeded(cls):
    torch.manual_seed(0)
    return cls()


def test_the_meter_weighs_by_samples_and_sums_in_single_precision():
    meter = Meter()
    meter.update("a", torch.tensor(1.0), 3)
    meter.update("a", torch.tensor(5.0), 1)
    for _ in range(1000):
        meter.update("b", torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert meter.compute() == {"a": 2.0, "b": 1.0}


def clamping(base):
    class Module(base):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            for parameter in self.parameters():
                parameter.data = parameter.data.clamp(-1, 1)

    return Module(), "net.0.weight"


def averaging(base):
    class Module(base):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean_loss", torch.zeros(1))

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.mean_loss = 0.9 * self.mean_loss + 0.1 * loss.detach()
            return loss

    return Module(), "mean_loss"


def counting(base):
    class Module(base):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

        def validation_step(self, batch, batch_idx):
            self.steps = self.steps + 1
            super().validation_step(batch, batch_idx)

    return Module(), "steps"


@pytest.mark.parametrize("kind", [clamping, averaging, counting])
def test_a_tensor_in_the_place_of_another_is_refused(kind, unaware, tiny_data):
    """It would be no part of the arena: nobody would send, average or evaluate it."""
    module, name = kind(unaware)
    with pytest.raises(ModuleError, match=rf"^{name} is not the tensor any more .* in place"):
        fit(module, tiny_data)


def test_the_optimizer_and_its_schedule_can_be_asked_as_in_lightning(unaware, tiny_data):
    rates, clients = [], []

    class Asking(unaware):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [{"scheduler": StepLR(optimizer, 1, gamma=0.5), "interval": "step"}]

        def training_step(self, batch, batch_idx):
            rates.append((self.optimizers().param_groups[0]["lr"], self.lr_schedulers().get_last_lr()[0]))
            return super().training_step(batch, batch_idx)

        def on_fit_start(self):
            clients.append([])

        def on_fit_end(self):
            clients[-1].append("end")

    fit(Asking(), tiny_data)
    assert rates == 2 * [(0.1, 0.1), (0.05, 0.05), (0.025, 0.025)] and clients == [["end"], ["end"]]
    none = fit(unaware(), tiny_data)
    assert none.client.module.lr_schedulers() is None


def test_hooks_around_an_evaluation_are_called(unaware, tiny_data):
    seen = []

    class Collecting(unaware):
        def on_validation_start(self):
            self.sizes = []

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.sizes.append(len(batch[1]))

        def on_validation_end(self):
            seen.append(sum(self.sizes))

    fit(Collecting(), tiny_data)
    assert seen and set(seen) <= {40, 8}  # FLOPs are counted on one batch


@pytest.mark.parametrize(
    "value, what",
    [(torch.ones(4), r"a tensor of shape \[4\]"), ("fine", "str"), ({"a": 1.0}, "dict"), (None, "NoneType")],
)
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_what_is_no_number_cannot_be_logged(step, value, what, unaware, tiny_data):
    class Logging(unaware):
        pass

    def logging(self, batch, batch_idx):
        self.log("note", value)
        return getattr(unaware, step)(self, batch, batch_idx)

    setattr(Logging, step, logging)
    with pytest.raises(ModuleError, match=rf"^log\('note'\): {what} is no number"):
        fit(Logging(), tiny_data)


def test_a_schedule_that_asks_for_a_trainer_is_refused_before_the_first_client(unaware, tiny_data):
    class Asking(unaware):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [OneCycleLR(optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches)]

    class Mistaken(unaware):
        def configure_optimizers(self):
            return self.nothing

    with pytest.raises(ModuleError, match=r"^Asking.configure_optimizers asks for self\.trainer"):
        fit(Asking(), tiny_data)
    with pytest.raises(AttributeError, match="nothing"):
        fit(Mistaken(), tiny_data)


def test_a_metric_may_be_called_in_a_step(unaware, tiny_data):
    """Lightning's own form; the metric changes its hash with its state."""

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


def test_a_modules_own_log_and_clipping_are_called(unaware, tiny_data):
    clipped = []

    class Own(unaware):
        def log(self, name, value, *args, **kwargs):
            super().log(f"my_{name}", value, *args, **kwargs)

        def clip_gradients(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            clipped.append(gradient_clip_val)
            super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    loop = fit(Own(), tiny_data, gradient_clip_val=0.5)
    assert {"my_loss", "my_val_acc"} <= loop.metrics.keys() and set(clipped) == {0.5}


def cached(module):
    if not hasattr(module, "kept"):
        module.kept = torch.optim.SGD(module.parameters(), 0.1)
    return module.kept


def with_cached_groups(module):
    if not hasattr(module, "kept"):
        module.kept = [{"params": list(module.parameters()), "lr": 0.1}]
    return torch.optim.SGD(module.kept)


def of_a_part(module):
    return torch.optim.SGD(module.net[6].parameters(), 0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (cached, "of its own"),
        (with_cached_groups, "groups of its own"),
        (of_a_part, "no optimizer trains net.0.weight"),
    ],
)
def test_optimizers_that_no_client_can_have_are_refused(make, words, unaware, tiny_data):
    class Module(unaware):
        def configure_optimizers(self):
            return make(self)

    with pytest.raises(ModuleError, match=f"^Module.configure_optimizers: .*{words}"):
        fit(Module(), tiny_data)


def test_a_rate_that_is_the_modules_own_tensor_stays(unaware, tiny_data):
    class Module(unaware):
        def configure_optimizers(self):
            self.rate = getattr(self, "rate", torch.tensor(0.1))
            return torch.optim.SGD(self.parameters(), self.rate)

    module = Module()
    fit(module, tiny_data, rounds=2, decay=RoundDecay(0.01, 2))
    assert float(module.rate) == pytest.approx(0.1)


def test_a_schedule_beside_a_list_of_optimizers_and_its_interval(unaware, tiny_data):
    class Module(unaware):
        entry = "epoch"

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return [optimizer], {"scheduler": StepLR(optimizer, 1), "interval": self.entry}

    module = Module()
    fit(module, tiny_data)
    module.entry = "batch"
    with pytest.raises(ModuleError, match="interval is epoch or step, not 'batch'"):
        fit(module, tiny_data)


def test_what_only_a_trainer_has_is_refused(unaware, tiny_data):
    class Module(unaware):
        def configure_callbacks(self):
            return []

    class Data(Synthetic):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    with pytest.raises(ModuleError, match="Module: configure_callbacks"):
        fit(Module(), tiny_data)
    with pytest.raises(ModuleError, match="Data.on_after_batch_transfer is not called"):
        fit(unaware(), Data(samples=40, test_samples=20, clients=4, classes=4, shape=(1, 8, 8)))


def test_a_module_is_set_up_before_its_layers_are_made(unaware, tiny_data):
    class Module(unaware):
        def setup(self, stage):
            self.width = 4

        def configure_model(self):
            self.net[6] = nn.Linear(16, self.width)

    assert fit(Module(), tiny_data).round == 1


def test_buffers_that_are_not_saved_are_not_averaged(unaware, tiny_data):
    class Causal(unaware):
        persistent = False

        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1), persistent=self.persistent)

    class Saved(Causal):
        persistent = True

    module = Causal()
    loop = fit(module, tiny_data)
    assert "mask" not in {slot.name for slot in loop.server.layout.slots} and module.mask[0, 1] == -torch.inf
    with pytest.raises(ModuleError, match="mask is not finite and cannot be averaged"):
        fit(Saved(), tiny_data)


class Importable(Classifier):
    """At the top level, where a pickle finds it."""


def test_a_fitted_module_can_be_pickled_and_copied(tiny_data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    module = Importable(network, classes=4)
    fit(module, tiny_data)
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(again) is type(module) and isinstance(again, Importable)
        for one, other in zip(module.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
        fit(again, tiny_data)


def test_a_checkpoint_is_the_modules_too(unaware, tiny_data, tmp_path):
    """What it adds comes back, and hyperparameters that it takes as one argument."""

    class Module(L.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.net, self.words = unaware().net, 0

        training_step, validation_step = unaware.training_step, unaware.validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.lr)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["words"] = self.words + 1

        def on_load_checkpoint(self, checkpoint):
            self.words = checkpoint["words"]

    fit(Module({"lr": 0.1}), tiny_data, callbacks=[Checkpoint(tmp_path)])
    assert Module.load_from_checkpoint(tmp_path / "last.ckpt").words == 1
    module = Module({"lr": 0.1})
    trainer = FederatedTrainer(PDST(), density=0.3, rounds=2, cohort=2, accelerator="cpu", callbacks=[])
    trainer.fit(module, tiny_data, ckpt_path=tmp_path / "last.ckpt")
    assert module.words == 1


def test_a_module_may_ask_for_its_logger(unaware, tiny_data):
    class Asking(unaware):
        def training_step(self, batch, batch_idx):
            assert self.logger is None and self.loggers == []
            return super().training_step(batch, batch_idx)

    fit(Asking(), tiny_data)


def test_a_module_without_a_training_step_is_refused(tiny_data):
    class Misspelt(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(64, 4)

        def trainingstep(self, batch, batch_idx):
            return self.net(batch[0].flatten(1)).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.raises(ModuleError, match="Misspelt: it has no training_step"):
        fit(Misspelt(), tiny_data)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("density", "0.1", "a number"),
        ("density", True, "a number"),
        ("seed", 1.5, "an integer of at least 0"),
        ("seed", None, "an integer of at least 0"),
        ("timeout", "10", "a number"),
        ("sampler", "uniform", "an object of class ClientSampler"),
        ("average", "polynomial", "an object of class RoundAverage"),
        ("decay", 0.5, "an object of class RoundDecay"),
        ("server_optimizer", "momentum", "an object of class ServerOptimizer"),
        ("aggregator", "masked", "an object of class FedAvg"),
        ("budget", 0.1, "an object of class SparsityBudget"),
        ("evaluate", 5, "an object of class EvaluationSchedule"),
        ("faults", "skip", "an object of class FaultPolicy"),
        ("wire", "fp16", "an object of class WireFormat"),
        ("fleet", "mixed", "an object of class Fleet"),
    ],
)
def test_a_setting_of_another_kind_is_refused_at_once(key, value, allowed):
    with pytest.raises(ConfigError, match=f"{key}: .* is not allowed; expected {allowed}"):
        FederatedTrainer(PDST(), **{"accelerator": "cpu"} | {key: value})
