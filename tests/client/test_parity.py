"""The local loop and the stock Trainer: the same hooks in the same order, the same bits."""

import itertools

import lightning as L
import pytest
import torch
from lightning.fabric import Fabric

from flash_pl.client import ClientContext, GradientClipping, federate
from flash_pl.data import TensorBatches
from flash_pl.errors import ModuleError
from flash_pl.loops import LocalLoop
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import generator
from flash_pl.sparsity import ExactDraw, Layout, Uniform

HOOKS = [
    "configure_optimizers",
    "on_train_start",
    "on_train_epoch_start",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_train_batch_start",
    "training_step",
    "on_before_zero_grad",
    "optimizer_zero_grad",
    "on_before_backward",
    "backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
]


class FixedOrder(TensorBatches):
    """TensorBatches that both trainers see in the same order."""

    def shuffled(self, generator):
        return iter(self)


def batches() -> FixedOrder:
    g = generator(0, "parity")
    return FixedOrder(torch.randn(44, 1, 8, 8, generator=g), torch.randint(0, 4, (44,), generator=g), batch_size=8)


def traced(cls):
    """The class with a list of the hooks that were called."""
    order: list[str] = []

    def wrap(name):
        def hook(self, *args, **kwargs):
            order.append(name)
            return getattr(super(Traced, self), name)(*args, **kwargs)

        return hook

    Traced = type("Traced", (cls,), {name: wrap(name) for name in HOOKS})
    return Traced, order


def bound(cls, density):
    """A client of the class with seeded weights under a seeded mask."""
    torch.manual_seed(0)
    module = cls()
    layout = Layout(module)
    client = module.bind(layout, SparseScheduler())
    mask = ExactDraw()(layout, client.arena, Uniform()(layout, density), generator(0, "mask"))
    client.receive(client.arena.clone(), mask)
    return client


def train_with_trainer(client, epochs, clip, precision):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=clip,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(client.module, torch.utils.data.DataLoader(list(batches()), batch_size=None))
    return client


def train_with_local_loop(client, epochs, clip, precision):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    client.module.fabric = fabric
    data = batches()
    LocalLoop(fabric, GradientClipping(clip)).run(
        client, SparseScheduler(), data, ClientContext(0, 0, epochs, len(data), seed=0)
    )
    return client


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("density", "epochs", "clip", "precision"),
    [(0.3, 2, 0.5, "32-true"), (1.0, 1, None, "32-true"), (0.3, 1, None, "32-true"), (0.3, 1, 0.5, "bf16-mixed")],
)
def test_same_bits_and_hooks_as_the_trainer(unaware, density, epochs, clip, precision):
    (one, trainers), (two, ours) = (traced(federate(unaware)) for _ in range(2))
    a = train_with_trainer(bound(one, density), epochs, clip, precision)
    b = train_with_local_loop(bound(two, density), epochs, clip, precision)
    assert torch.equal(a.arena, b.arena)
    assert ours == trainers
    for client in (a, b):
        assert not client.weights[~client.mask].any()


@pytest.mark.filterwarnings("ignore")
def test_a_bound_dense_client_trains_as_the_plain_module(unaware):
    torch.manual_seed(0)
    plain = unaware()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(plain, torch.utils.data.DataLoader(list(batches()), batch_size=None))
    client = train_with_local_loop(bound(federate(unaware), 1.0), 2, None, "32-true")
    for name, value in plain.state_dict().items():
        assert torch.equal(value, client.module.state_dict()[name]), name


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero_also_after_a_move(unaware, name):
    class Moving(SparseScheduler):
        def on_batch_end(self, client, step):
            mask = ExactDraw()(
                client.layout, client.arena, Uniform()(client.layout, 0.3), client.context.generator(f"{step}")
            )
            client.move_mask_(mask, client.mask & mask)

    cls = type("Optimized", (unaware,), {"configure_optimizers": lambda self: OPTIMIZERS[name](self.parameters())})
    client = bound(federate(cls), 0.3)
    fabric = Fabric(accelerator="cpu", devices=1)
    client.module.fabric = fabric
    data = batches()
    update = LocalLoop(fabric).run(client, Moving(), data, ClientContext(0, 0, 2, len(data), seed=0))
    assert not client.arena[: client.layout.maskable][~update.mask].any()
    assert update.metrics["loss"] > 0
    for parameter, layer in zip(client._parameters, client.layout.layers, strict=True):
        for value in itertools.chain(client.optimizer.state[parameter].values()):
            if value is not None and value.shape == parameter.shape:
                assert not value[~layer.view(client.mask)].any()


def test_what_would_step_past_the_mask_is_refused(unaware):
    class Manual(unaware):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    class Stepper(unaware):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)

    for cls, words in [(Manual, "manual optimization"), (Stepper, "overridden optimizer_step")]:
        module = federate(cls)()
        with pytest.raises(ModuleError, match=words):
            module.bind(Layout(module), SparseScheduler())
