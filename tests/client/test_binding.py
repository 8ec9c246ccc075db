"""How a module becomes a client, which modules are refused, and what a stock Trainer finds afterward."""

import lightning as L
import pytest
import torch
from torch import nn

from flash_pl import JMWST, NST, PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.client import Binding
from flash_pl.data import Shuffled, Synthetic
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.schedulers import SparsyFed
from flash_pl.sparsity import Layout


def test_a_module_is_set_up_before_its_layers_are_made(fit, unaware, tiny_data):
    class Module(unaware):
        def setup(self, stage):
            self.width = 4

        def configure_model(self):
            self.net[6] = nn.Linear(16, self.width)

    assert fit(Module(), tiny_data).round == 1


def test_frozen_weights_are_not_masked(unaware):
    module = unaware()
    module.net[4].weight.requires_grad_(False)
    assert [layer.name for layer in Layout(module).layers] == ["net.0.weight", "net.6.weight"]


def test_after_fit_a_stock_trainer_can_validate_the_module(fit, unaware, tiny_data):
    module = unaware()
    loop = fit(module, tiny_data, rounds=2)
    stock = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    metrics = stock.validate(module, datamodule=tiny_data, verbose=False)[0]
    assert metrics["val_acc"] == pytest.approx(loop.metrics["val_acc"])


@pytest.mark.parametrize("scheduler", [NST, JMWST, SparsyFed])
def test_a_stock_trainer_trains_on_under_the_servers_mask(scheduler, unaware, tiny_data):
    """After ``fit``, whichever client trained last, after ``validate``, and after an interrupted run."""
    settings = {"density": 0.3, "rounds": 2, "cohort": 3, "accelerator": "cpu"}

    def train_on(module):
        stock = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_epochs=1
        )
        stock.fit(module, Shuffled(tiny_data.client_batches(0), torch.Generator()))

    module = unaware()
    loop = FederatedTrainer(scheduler(), **settings).fit(module, tiny_data)
    train_on(module)
    for layer in loop.server.layout.layers:
        weight = module.get_parameter(layer.name)
        assert torch.equal(weight != 0, layer.view(loop.server.mask))
        assert not torch.equal(weight, layer.view(loop.server.masked()))

    FederatedTrainer(scheduler(), **settings).validate(module, tiny_data)
    train_on(module)

    class Interrupt(Callback):
        def on_client_end(self, loop, update):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FederatedTrainer(scheduler(), callbacks=[Interrupt()], **settings).fit(module, tiny_data)
    train_on(module)


def test_a_checkpoint_of_another_layout_is_refused(fit, unaware, tiny_data, tmp_path):
    fit(unaware(), tiny_data, callbacks=[Checkpoint(tmp_path)])
    for change in ({"channels_last": False}, {"exclude": ["net.0"]}):
        trainer = FederatedTrainer(PDST(), density=0.3, cohort=2, accelerator="cpu", **change)
        with pytest.raises(ConfigError, match=r"\d+ values") as error:
            trainer.validate(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")
        assert error.value.key == "model"


def test_a_module_without_a_training_step_is_refused(fit, tiny_data):
    class Misspelt(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(64, 4)

        def trainingstep(self, batch, batch_idx):
            return self.net(batch[0].flatten(1)).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.raises(ModuleError, match="^Misspelt .*training_step"):
        fit(Misspelt(), tiny_data)


def test_hooks_of_lightnings_trainer_alone_are_refused(fit, unaware, tiny_data):
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


def test_an_attribute_error_in_configure_optimizers_is_the_users_own(fit, unaware, tiny_data):
    class Mistaken(unaware):
        def configure_optimizers(self):
            return self.nothing

    with pytest.raises(AttributeError, match="nothing"):
        fit(Mistaken(), tiny_data)


def cached_optimizer(module):
    if not hasattr(module, "cache"):
        module.cache = torch.optim.SGD(module.parameters(), 0.1)
    return module.cache


def optimizer_of_cached_groups(module):
    if not hasattr(module, "cache"):
        module.cache = [{"params": list(module.parameters()), "lr": 0.1}]
    return torch.optim.SGD(module.cache)


def optimizer_of_one_layer(module):
    return torch.optim.SGD(module.net[6].parameters(), 0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (cached_optimizer, "new optimizer"),
        (optimizer_of_cached_groups, "new parameter groups"),
        (optimizer_of_one_layer, "no optimizer trains net.0.weight"),
    ],
)
def test_optimizers_that_clients_cannot_use_are_refused(fit, make, words, unaware, tiny_data):
    class Module(unaware):
        def configure_optimizers(self):
            return make(self)

    with pytest.raises(ModuleError, match=f"^Module.configure_optimizers.*{words}"):
        fit(Module(), tiny_data)


def test_buffers_that_are_not_persistent_are_not_averaged(fit, unaware, tiny_data):
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


def seeded(cls):
    torch.manual_seed(0)
    return cls()


def test_without_compiled_kernels_torch_computes_all_layers(monkeypatch, fit, unaware, tiny_data):
    dense = fit(seeded(unaware), tiny_data, backend="dense").server.weights
    monkeypatch.setattr("flash_pl.client.binding.available", lambda: False)
    assert torch.equal(fit(seeded(unaware), tiny_data, backend="auto").server.weights, dense)
    with pytest.raises(ConfigError, match="'sparse' .*compiled kernels.* auto or dense") as error:
        fit(unaware(), tiny_data, backend="sparse")
    assert error.value.key == "backend"


def test_an_unknown_backend_is_refused(fit, unaware, tiny_data):
    with pytest.raises(ConfigError, match="'fast' .* auto, dense, sparse") as error:
        fit(unaware(), tiny_data, backend="fast")
    assert error.value.key == "backend"


@pytest.mark.kernels
def test_sparse_kernels_cannot_be_compiled(fit, unaware, tiny_data):
    with pytest.raises(ConfigError, match="'sparse' .*compile.* auto or dense") as error:
        fit(unaware(), tiny_data, backend="sparse", compile=True)
    assert error.value.key == "backend"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [("exclude", "fc", "'fc'"), ("exclude", None, "null"), ("compile", "yes", "'yes'"), ("channels_last", 1, "1")],
)
def test_settings_of_another_type_are_refused(key, value, shown):
    with pytest.raises(ConfigError, match=f"^{key}: {shown} is not") as error:
        Binding(**{key: value})
    assert error.value.key == key
