"""Every form that configure_optimizers may return, and what is refused."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from flash_pl.client import configure
from flash_pl.errors import ModuleError


def module(make):
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def configure_optimizers(self):
            return make(torch.optim.SGD(self.parameters(), 0.4))

    return Module()


FORMS = {
    "optimizer": (lambda o: o, 0),
    "list": (lambda o: [o], 0),
    "pair": (lambda o: ([o], [StepLR(o, 1)]), 1),
    "dict": (lambda o: {"optimizer": o, "lr_scheduler": StepLR(o, 1)}, 1),
    "nested": (lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": StepLR(o, 1), "interval": "step"}}, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_lightnings_forms_are_read_and_scaled(form):
    make, count = FORMS[form]
    optimizer, schedules = configure(module(make), lr_scale=0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert len(schedules) == count
    for schedule in schedules:
        optimizer.step()
        schedule.scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    if form == "nested":
        assert schedules[0].interval == "step"


def test_several_optimizers_and_plateaus_are_refused():
    with pytest.raises(ModuleError, match="exactly one optimizer"):
        configure(module(lambda o: [o, o]))
    with pytest.raises(ModuleError, match="ReduceLROnPlateau"):
        configure(module(lambda o: {"optimizer": o, "lr_scheduler": ReduceLROnPlateau(o)}))
