"""Modules as users write them: their hooks, their clipping, their checkpoints, pickles and copies."""

import copy
import pickle
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.client import ClientModule, federate, layer_labels
from flash_pl.sparsity import SparsityBudget, Tier


def test_federating_twice_gives_the_same_class(unaware):
    client_class = federate(unaware)
    assert federate(client_class) is client_class is federate(unaware)
    assert issubclass(federate(L.LightningModule), ClientModule)


def test_a_training_step_without_batch_idx_may_return_a_dict(fit, unaware, tiny_data):
    seen = []

    class Terse(unaware):
        def training_step(self, batch):
            return {"loss": nn.functional.cross_entropy(self.net(batch[0]), batch[1]), "note": self.current_epoch}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if not self.trainer.sanity_checking:
                seen.append((outputs["note"], self.global_step))

    fit(Terse(), tiny_data, cohort=1, local_epochs=2)
    assert [note for note, _ in seen] == sorted(note for note, _ in seen) and {0, 1} == {note for note, _ in seen}
    assert [step for _, step in seen] == list(range(1, len(seen) + 1))


def test_a_module_sees_its_optimizer_and_lr_schedulers_as_in_lightning(fit, unaware, tiny_data):
    rates, clients = [], []

    class Asking(unaware):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [{"scheduler": StepLR(optimizer, 1, gamma=0.5), "interval": "step"}]

        def training_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                rates.append((self.optimizers().param_groups[0]["lr"], self.lr_schedulers().get_last_lr()[0]))
            return super().training_step(batch, batch_idx)

        def on_fit_start(self):
            clients.append([])

        def on_fit_end(self):
            clients[-1].append("end")

    fit(Asking(), tiny_data)
    assert clients.pop(0) == ["end"]  # the trial
    assert rates == 2 * [(0.1, 0.1), (0.05, 0.05), (0.025, 0.025)] and clients == [["end"], ["end"]]

    class Without(unaware):
        def on_train_start(self):
            assert self.lr_schedulers() is None

    fit(Without(), tiny_data)


def test_a_module_may_read_its_logger(fit, unaware, tiny_data):
    class Asking(unaware):
        def training_step(self, batch, batch_idx):
            assert self.logger is None and self.loggers == []
            return super().training_step(batch, batch_idx)

    fit(Asking(), tiny_data)


def test_a_modules_own_log_and_clipping_are_called(fit, unaware, tiny_data):
    clipped = []

    class Own(unaware):
        def log(self, name, value, *args, **kwargs):
            super().log(f"my_{name}", value, *args, **kwargs)

        def clip_gradients(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            clipped.append(gradient_clip_val)
            super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    loop = fit(Own(), tiny_data, gradient_clip_val=0.5)
    assert {"my_loss", "my_val_acc"} <= loop.metrics.keys() and set(clipped) == {0.5}


def test_evaluation_hooks_are_called(fit, unaware, tiny_data):
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
    assert seen and set(seen) <= {40, 8}  # all test samples; one batch when FLOPs are counted


def noisy(base):
    """A module that clips its gradients and then adds noise to all of them."""

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
def test_pruned_weights_are_reported_as_0_whatever_the_module_does(fit, kind, unaware, tiny_data):
    reports = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            outside = loop.client.arena[: loop.server.layout.maskable][~update.mask]
            reports.append(int(outside.count_nonzero()))

    fit(kind(unaware)(), tiny_data, callbacks=[Watch()])
    assert reports == [0, 0]


def test_a_module_that_adds_noise_to_gradients_keeps_pruned_weights_at_0(fit, unaware, tiny_data):
    seen = []

    class Looking(noisy(unaware)):
        def training_step(self, batch, batch_idx):
            seen.append(bool(self._client.weights[~self._client.mask].any()))
            return super().training_step(batch, batch_idx)

    fit(Looking(), tiny_data)
    assert len(seen) > 4 and not any(seen)


def test_tied_weights_are_saved_as_one(fit, tiny_data, unaware, tmp_path):
    class Tied(unaware):
        def __init__(self):
            super().__init__()
            first, second = nn.Linear(64, 64), nn.Linear(64, 64)
            second.weight = first.weight
            self.net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, 4))

    module = Tied()
    loop = fit(module, tiny_data, callbacks=[Checkpoint(tmp_path)])
    plain = Tied.load_from_checkpoint(tmp_path / "last.ckpt")
    images = tiny_data.val_dataloader().inputs
    assert torch.equal(plain.net(images), module.net(images))
    assert loop.round == 1


def test_a_checkpoint_has_the_modules_own_entries_and_hyperparameters(fit, unaware, tiny_data, tmp_path):
    class Module(L.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.save_hyperparameters(hparams)
            self.net, self.saved = unaware().net, 0

        training_step, validation_step = unaware.training_step, unaware.validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.hparams.lr)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["saved"] = self.saved + 1

        def on_load_checkpoint(self, checkpoint):
            self.saved = checkpoint["saved"]

    fit(Module({"lr": 0.1}), tiny_data, callbacks=[Checkpoint(tmp_path)])
    assert Module.load_from_checkpoint(tmp_path / "last.ckpt").saved == 1
    module = Module({"lr": 0.1})
    trainer = FederatedTrainer(PDST(), density=0.3, rounds=2, cohort=2, accelerator="cpu", callbacks=[])
    trainer.fit(module, tiny_data, ckpt_path=tmp_path / "last.ckpt")
    assert module.saved == 1


class Importable(Classifier):
    """A class at the top level of a file, where unpickling finds it."""


def test_a_fitted_module_can_be_pickled_and_copied(fit, tiny_data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    module = Importable(network, classes=4)
    fit(module, tiny_data)
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(again) is type(module) and isinstance(again, Importable)
        for parameter, copied in zip(module.parameters(), again.parameters(), strict=True):
            assert torch.equal(parameter, copied) and parameter.data_ptr() != copied.data_ptr()
        fit(again, tiny_data)


def test_a_layer_label_keeps_model_where_the_short_name_is_taken():
    names = ["model.conv.weight", "model.fc.weight", "fc.weight"]
    layout = SimpleNamespace(layers=[SimpleNamespace(name=name) for name in names])
    assert layer_labels(layout) == ["conv", "model.fc", "fc"]


def test_smaller_tiers_are_evaluated(fit, unaware, tiny_data):
    loop = fit(unaware(), tiny_data, density=0.4, budget=SparsityBudget([Tier(0.1, 0.5), Tier(0.4, 0.5)]))
    assert "val_acc_d0.1" in loop.metrics and loop.metrics["val_loss_d0.1"] != loop.metrics["val_loss"]
