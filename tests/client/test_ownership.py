"""After a run a module is the user's again, however the run has ended."""

import io
from dataclasses import replace

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from flash_pl import NST, PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.data import Shuffled
from flash_pl.errors import ConfigError, ModuleError, RunError

safetensors = pytest.importorskip("safetensors.torch")


class Ordinary(L.LightningModule):
    """A convolution, batch normalization, tied layers, a frozen layer and one in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.still = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8).eval()
        self.first, self.second, self.head = nn.Linear(288, 288), nn.Linear(288, 288), nn.Linear(288, 4)
        self.second.weight = self.first.weight
        self.conv.bias.requires_grad_(False)
        self.note = ["mine"]

    def forward(self, images):
        features = self.still(self.norm(self.conv(images))).flatten(1)
        return self.head(self.second(self.first(features).relu()))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


class Failing(Ordinary):
    def training_step(self, batch, batch_idx):
        self.conv.eval()
        self.head.requires_grad_(False)
        if batch_idx:
            raise RuntimeError("broken")
        return super().training_step(batch, batch_idx)


class Refused(Ordinary):
    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), 0.01)


class Untried(Ordinary):
    def validation_step(self, batch, batch_idx):
        raise RuntimeError("broken")


def settings(**more):
    return {"density": 0.3, "rounds": 2, "cohort": 2, "seed": 1, "accelerator": "cpu"} | more


def fit(module, data, scheduler=None, **more):
    return FederatedTrainer(scheduler or PDST(), **settings(**more)).fit(module, data)


def facts(module):
    """What a run must leave as it was."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    modes = {name: part.training for name, part in module.named_modules()}
    trained = {name: value.requires_grad for name, value in module.named_parameters()}
    strides = {name: (value.stride(), type(value), value.device) for name, value in tensors.items()}
    return modes, trained, strides, [*module.state_dict()], {name: id(value) for name, value in tensors.items()}


def check_own(module):
    """Every tensor has memory of its own, and the state dict can be saved."""
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert getattr(tensor, "grad", None) is None
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    state = {name: value for name, value in module.state_dict().items() if name != "second.weight"}  # it is tied
    safetensors.save(state)
    file = io.BytesIO()
    torch.save(module.conv.state_dict(), file)
    assert len(file.getvalue()) < 3000 + 4 * sum(value.numel() for value in module.conv.parameters())
    assert module.second.weight is module.first.weight and module.note == ["mine"]
    assert module._fabric is None and module._trainer is None and getattr(module, "_client", None) is None
    assert isinstance(module, Ordinary) and type(module).__name__ in ("Ordinary", "Failing", "Refused", "Untried")


@pytest.mark.parametrize("backend", ["auto", pytest.param("sparse", marks=pytest.mark.kernels), "dense"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_after_fit_tensors_are_as_before(channels_last, backend, tiny_data):
    module = Ordinary()
    before = facts(module)
    loop = fit(module, tiny_data, channels_last=channels_last, backend=backend)
    assert facts(module) == before
    check_own(module)
    layout, arena = loop.server.layout, loop.server.weights.clone()
    arena[: layout.maskable] *= loop.server.mask
    for slot in layout.slots:
        assert torch.equal(module.state_dict()[slot.name], slot.view(arena)), slot.name


def test_a_module_that_is_channels_last_stays_so(tiny_data):
    module = Ordinary().to(memory_format=torch.channels_last)
    before = facts(module)
    fit(module, tiny_data, channels_last=False)
    assert facts(module) == before


class Interrupt(Callback):
    def on_client_end(self, loop, update):
        if loop.round:
            raise KeyboardInterrupt


ENDS = [
    (Failing, {}, RunError),
    (Refused, {}, ModuleError),
    (Untried, {}, ModuleError),
    (Ordinary, {"callbacks": [Interrupt()]}, KeyboardInterrupt),
    (Ordinary, {"exclude": ["nothing"]}, ConfigError),
    (Ordinary, {"density": 1e-9}, ConfigError),
    (Ordinary, {"cohort": 100}, ConfigError),
]


@pytest.mark.parametrize(("cls", "more", "error"), ENDS)
def test_a_run_that_fails_or_is_refused_gives_the_module_back(cls, more, error, tiny_data):
    module = cls()
    before, weights = facts(module), parameters_to_vector(module.parameters())
    with pytest.raises(error):
        fit(module, tiny_data, **more)
    assert facts(module) == before
    check_own(module)
    if error in (ConfigError, ModuleError):
        assert torch.equal(parameters_to_vector(module.parameters()), weights)


def test_an_interrupted_run_leaves_the_server_of_the_last_whole_round(tiny_data):
    module, expected = Ordinary(), Ordinary()
    expected.load_state_dict(module.state_dict())
    with pytest.raises(KeyboardInterrupt):
        fit(module, tiny_data, NST(), callbacks=[Interrupt()])
    fit(expected, tiny_data, NST(), rounds=1)
    assert torch.equal(parameters_to_vector(module.parameters()), parameters_to_vector(expected.parameters()))


def test_a_resume_that_is_refused_gives_the_module_back(tiny_data, tmp_path):
    fit(Ordinary(), tiny_data, callbacks=[Checkpoint(tmp_path)])
    module = Ordinary()
    before = facts(module)
    with pytest.raises(ConfigError):
        FederatedTrainer(PDST(), **settings(density=0.2)).fit(module, tiny_data, ckpt_path=tmp_path / "last.ckpt")
    assert facts(module) == before
    check_own(module)


@pytest.mark.filterwarnings("ignore")
def test_the_mask_stays_through_validations_and_further_training(tiny_data, tmp_path):
    """``fit``, ``validate``, a stock Trainer, a copy of the module, and ``fit`` again, one after the other."""
    module = Ordinary()
    loop = fit(module, tiny_data, NST(), callbacks=[Checkpoint(tmp_path)])
    trainer = FederatedTrainer(NST(), **settings(callbacks=[Checkpoint(tmp_path)]))
    assert trainer.validate(module, tiny_data)["val_acc"] == loop.metrics["val_acc"]
    other = Ordinary()
    assert trainer.validate(other, tiny_data, ckpt_path="last")["val_acc"] == loop.metrics["val_acc"]
    for trained in (module, other):
        check_own(trained)
        before = parameters_to_vector(trained.parameters())
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        stock = L.Trainer(accelerator="cpu", logger=False, max_epochs=1, **quiet)
        stock.fit(trained, Shuffled(tiny_data.client_batches(0), torch.Generator()))
        assert not torch.equal(parameters_to_vector(trained.parameters()), before)
        for layer in loop.server.layout.layers:
            active = layer.view(loop.server.mask)
            assert not trained.get_parameter(layer.name)[~active].any() and active.any()
    assert fit(module, tiny_data).round == 2
    fit(module, tiny_data, density=1.0)
    assert not module._kept


def test_a_loop_can_run_again(tiny_data):
    module, whole = Ordinary(), Ordinary()
    whole.load_state_dict(module.state_dict())
    trainer = FederatedTrainer(NST(), **settings(rounds=3))
    loop = trainer.loop(module, tiny_data)
    plan, loop.plan = loop.plan, replace(loop.plan, rounds=1)
    trainer.run(loop)
    loop.plan = plan
    trainer.run(loop)
    check_own(module)
    fit(whole, tiny_data, NST(), rounds=3)
    assert torch.equal(parameters_to_vector(module.parameters()), parameters_to_vector(whole.parameters()))


class Volumes(L.LightningModule):
    def __init__(self, lazy=False):
        super().__init__()
        last = nn.LazyLinear(4) if lazy else nn.Linear(4 * 36, 4)
        self.net = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, (1, 3, 3)), nn.Flatten(), last)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("channels_last", [True, False])
def test_tensors_of_five_dimensions_train_and_lazy_layers_are_refused(channels_last, tiny_data):
    torch.manual_seed(0)
    loop = fit(Volumes(), tiny_data, channels_last=channels_last)
    torch.manual_seed(0)
    plain = fit(Volumes(), tiny_data, channels_last=False)
    assert torch.equal(loop.server.weights, plain.server.weights)
    module = Volumes(lazy=True)
    with pytest.raises(ModuleError, match=r"net\.3\.weight has no shape yet"):
        fit(module, tiny_data, channels_last=channels_last)
    module.net(torch.zeros(1, 1, 8, 8))
    fit(module, tiny_data, channels_last=channels_last)
