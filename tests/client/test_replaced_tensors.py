"""A module that replaces its tensors while it trains: never trained in silence, never beyond their memory."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.data import Synthetic
from flash_pl.errors import ClientError, ModuleError

BACKENDS = ["dense", pytest.param("sparse", marks=pytest.mark.kernels)]


def layer(module):
    return module.model[1]


REPLACEMENTS = {
    "data": lambda m: setattr(layer(m).weight, "data", layer(m).weight.data.clone()),
    "transposed": lambda m: setattr(layer(m).weight, "data", layer(m).weight.data.t()),
    "half": lambda m: m.model.half(),
    "double": lambda m: setattr(layer(m).weight, "data", layer(m).weight.data.double()),
    "smaller": lambda m: setattr(layer(m).weight, "data", torch.zeros(16, 8)),
    "assigned": lambda m: m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True),
    "same memory": lambda m: setattr(layer(m), "weight", nn.Parameter(layer(m).weight.data)),
    "weight_norm": lambda m: parametrizations.weight_norm(layer(m)),
    "hidden": lambda m: layer(m).__dict__.update(weight=layer(m).weight.detach().clone()),
    "other layer": lambda m: setattr(m.model, "1", nn.Linear(16, 16)),
}


class Replaces(Classifier):
    """Replaces a tensor once, in ``hook``."""

    def __init__(self, replace, hook):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), classes=4)
        self.replace, self.hook, self.done = replace, hook, False

    def at(self, hook):
        if hook == self.hook and not self.done:
            self.done = True
            self.replace(self)

    def on_fit_start(self):
        self.at("on_fit_start")

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.at("training_step")  # between the forward and the backward pass
        return loss

    def on_after_backward(self):
        self.at("on_after_backward")  # between the backward pass and the step

    def on_train_end(self):
        self.at("on_train_end")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hook", ["on_fit_start", "training_step", "on_after_backward", "on_train_end"])
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_replaced_tensor_is_noticed(replacement, hook, backend):
    data = Synthetic(samples=24, classes=4, shape=(1, 4, 4), test_samples=8, clients=2)
    trainer = FederatedTrainer(PDST(), density=0.4, rounds=1, cohort=1, accelerator="cpu", backend=backend)
    with pytest.raises((ClientError, ModuleError)) as caught:
        trainer.fit(Replaces(REPLACEMENTS[replacement], hook), data)
    assert "\n" not in str(caught.value)


def test_an_optimizer_that_trains_what_is_not_sent():
    class Hidden(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD([*self.parameters(), self.hidden[0]], lr=0.1)

    module = Hidden(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), classes=4)
    module.hidden = [nn.Parameter(torch.zeros(3))]
    data = Synthetic(samples=24, classes=4, shape=(1, 4, 4), test_samples=8, clients=2)
    with pytest.raises(ModuleError, match=r"Hidden\.configure_optimizers: .*shape \[3\]"):
        FederatedTrainer(PDST(), rounds=1, cohort=1, accelerator="cpu").fit(module, data)
