"""The optimizers that a module may return, and gradient clipping."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from flash_pl import PDST, FederatedTrainer, RoundDecay
from flash_pl.client import GradientClipping, configure_optimizer
from flash_pl.errors import ConfigError, ModuleError


def module_with(make):
    """A module whose ``configure_optimizers`` returns ``make(optimizer)``."""

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def configure_optimizers(self):
            return make(SGD(self.parameters(), 0.4))

    return Module()


FORMS = {
    "optimizer": (lambda o: o, 0),
    "list": (lambda o: [o], 0),
    "pair": (lambda o: ([o], [StepLR(o, 1)]), 1),
    "pair without a list": (lambda o: ([o], StepLR(o, 1)), 1),
    "dict": (lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 1)}, 1),
    "nested": (lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": StepLR(o, 1), "interval": "step"}}, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_lightning_are_read(form):
    make, count = FORMS[form]
    optimizer, lr_schedulers = configure_optimizer(module_with(make))
    assert optimizer.param_groups[0]["lr"] == 0.4
    assert len(lr_schedulers) == count
    for schedule in lr_schedulers:
        assert schedule.interval == ("step" if form == "nested" else "epoch") and schedule.frequency == 1
        optimizer.step()
        schedule.lr_scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)


def test_several_optimizers_and_plateaus_are_refused():
    with pytest.raises(ModuleError, match="exactly one optimizer"):
        configure_optimizer(module_with(lambda o: [o, o]))
    with pytest.raises(ModuleError, match="ReduceLROnPlateau"):
        configure_optimizer(module_with(lambda o: {"optimizer": o, "lr_scheduler": ReduceLROnPlateau(o)}))


def test_an_interval_is_epoch_or_step(fit, unaware, tiny_data):
    class Module(unaware):
        interval = "epoch"

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), 0.1)
            return [optimizer], {"scheduler": StepLR(optimizer, 1), "interval": self.interval}

    module = Module()
    fit(module, tiny_data)
    module.interval = "batch"
    with pytest.raises(ModuleError, match="epoch or step, not 'batch'"):
        fit(module, tiny_data)


def seeded(cls):
    torch.manual_seed(0)
    return cls()


def test_clipping_as_in_the_trainer(fit, unaware, tiny_data):
    off, none = (fit(seeded(unaware), tiny_data, gradient_clip_val=value) for value in (0.0, None))
    assert torch.equal(off.server.weights, none.server.weights)
    for algorithm in ("norm", "value"):
        clipped = fit(seeded(unaware), tiny_data, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
        assert not torch.equal(clipped.server.weights, none.server.weights)


class Faster(PDST):
    """The first layer learns twice as fast."""

    def layer_rates(self, client):
        return torch.tensor([2.0] + [1.0] * (len(client.layout.layers) - 1), dtype=torch.float64)


def test_the_norm_is_that_of_all_gradients_whatever_their_rates(unaware, tiny_data):
    norms = []

    class Watching(unaware):
        def configure_gradient_clipping(self, optimizer, *args, **kwargs):
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            (group,) = optimizer.param_groups
            assert len(group["params"]) == len(list(self.parameters()))
            if self._client.context.purpose == "round":
                norms.append(float(torch.cat([p.grad.flatten() for p in self.parameters()]).norm()))

    settings = {"density": 0.3, "rounds": 1, "cohort": 2, "accelerator": "cpu", "decay": RoundDecay(0.01, 4)}
    FederatedTrainer(Faster(), gradient_clip_val=1e-3, **settings).fit(Watching(), tiny_data)
    assert norms == pytest.approx(len(norms) * [1e-3], rel=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "settings"),
    [
        ("gradient_clip_algorithm", "'nrom'", {"algorithm": "nrom"}),
        ("gradient_clip_val", "-1", {"value": -1}),
        ("gradient_clip_val", "nan", {"value": math.nan}),
        ("gradient_clip_val", "inf", {"value": math.inf}),
        ("gradient_clip_val", "'1'", {"value": "1"}),
    ],
)
def test_other_clipping_is_refused(key, value, settings):
    with pytest.raises(ConfigError) as error:
        GradientClipping(**settings)
    assert error.value.key == key and value in str(error.value)
