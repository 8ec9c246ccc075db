"""Gradients that a module reads, hooks or differentiates again are those of dense layers, with every backend."""

import copy
import warnings

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl import Classifier
from flash_pl.callbacks import Callback

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:.*sees the gradients of pruned weights"),
]


class Net(L.LightningModule):
    """Layers of every kind that the kernels compute, and plain SGD, whose steps ``PlainSGD`` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Tanh(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(64, 4)
        )
        self.seen: list[float] = []

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, weight_decay=1e-3)

    def all_seen(self) -> Tensor:
        return torch.tensor(self.seen)

    def norm(self) -> float:
        return sum(float(parameter.grad.norm()) for parameter in self.parameters() if parameter.grad is not None)


class Reading(Net):
    def training_step(self, batch, batch_idx):
        self.seen.append(self.norm())
        return self.loss(batch)


class ReadingInTheNetwork(Net):
    """A submodule reads the gradient, in its own ``forward``."""

    def __init__(self):
        super().__init__()
        module = [self]

        class Looking(nn.Tanh):
            def forward(self, x):
                module[0].seen.append(module[0].norm())
                return super().forward(x)

        self.net[2] = Looking()


class ReadingAndKeeping(Net):
    """The gradient that was read is an ordinary tensor, which the next step does not change."""

    def training_step(self, batch, batch_idx):
        if self.seen and hasattr(self, "kept"):
            self.seen.append(sum(float(gradient.norm()) for gradient in self.kept))
        self.seen.append(self.norm())
        self.kept = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        return self.loss(batch)


class Changing(Net):
    """Sets, scales and deletes gradients between the steps."""

    def training_step(self, batch, batch_idx):
        weight = self.net[0].weight
        if weight.grad is not None:
            weight.grad.mul_(2)
            self.seen.append(self.norm())
            weight.grad = torch.ones_like(weight)
            self.seen.append(self.norm())
            del weight.grad
            self.seen.append(self.norm())
        return self.loss(batch)


class OwnBackward(Net):
    """A backward pass of its own inside of the step, twice through one graph."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.zero_grad()
        loss.backward(retain_graph=True)
        self.seen.append(self.norm())
        loss.backward(retain_graph=True)
        self.seen.append(self.norm())
        return loss


class OwnGradients(Net):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        gradients = torch.autograd.grad(loss, list(self.parameters()), retain_graph=True)
        self.seen.extend(float(gradient.norm()) for gradient in gradients)
        return loss


class Adversarial(Net):
    def training_step(self, batch, batch_idx):
        images = batch[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss((images, batch[1])), images)
        self.seen.append(float(gradient.norm()))
        return self.loss(((images + 0.1 * gradient).detach(), batch[1]))


class InputPenalty(Net):
    def training_step(self, batch, batch_idx):
        images = batch[0].clone().requires_grad_()
        loss = self.loss((images, batch[1]))
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        penalty = gradient.square().sum()
        self.seen.append(float(penalty.detach()))
        return loss + 0.1 * penalty


class WeightPenalty(Net):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        gradients = torch.autograd.grad(loss, list(self.parameters()), create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        self.seen.append(float(penalty.detach()))
        return loss + 1e-6 * penalty


class Functional(Net):
    """The gradient norm of every sample by ``torch.func``, and a directional derivative."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        parts = copy.deepcopy(self.net).eval()
        weights = {name: value.detach() for name, value in parts.named_parameters()}

        def loss(weights, image, label):
            return F.cross_entropy(torch.func.functional_call(parts, weights, (image[None],)), label[None])

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
        self.seen.extend(float(gradient.norm()) for gradient in gradients.values())
        own = {name: value.detach() for name, value in self.net[-1].named_parameters()}
        features = self.net[:-1](images).detach()
        summed = torch.func.grad(lambda w: torch.func.functional_call(self.net[-1], w, (features,)).square().mean())(
            own
        )
        self.seen.extend(float(gradient.norm()) for gradient in summed.values())
        return self.loss(batch)


class Hooked(Net):
    """Backends may reach the parameters in another order."""

    def all_seen(self):
        return super().all_seen().sort().values


class HookedAtTheStart(Hooked):
    def on_train_start(self):
        self.handles = [
            parameter.register_hook(lambda gradient: self.seen.append(float(gradient.norm())))
            for parameter in self.parameters()
        ]

    def on_train_end(self):
        for handle in self.handles:
            handle.remove()


class HookedInTheStep(Hooked):
    """Hooks that are registered before or after the forward pass, and change gradients."""

    before = True

    def training_step(self, batch, batch_idx):
        loss = None if self.before else self.loss(batch)
        for handle in getattr(self, "handles", ()):
            handle.remove()
        self.handles = [parameter.register_hook(self.halve) for parameter in self.parameters()]
        return self.loss(batch) if loss is None else loss

    def halve(self, gradient):
        self.seen.append(float(gradient.norm()))
        return gradient / 2

    def on_train_end(self):
        for handle in self.handles:
            handle.remove()


class HookedAfterForward(HookedInTheStep):
    before = False


class Accumulated(Hooked):
    def on_before_backward(self, loss):
        look = lambda weight: self.seen.append(float(weight.grad.norm()))  # noqa: E731
        self.handles = [weight.register_post_accumulate_grad_hook(look) for weight in self.parameters()]

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for handle in self.handles:
            handle.remove()


class AfterBackward(Net):
    def on_after_backward(self):
        self.seen.append(self.norm())


class BeforeStep(Net):
    def on_before_optimizer_step(self, optimizer):
        self.seen.append(self.norm())


class OwnBackwardHook(Net):
    def backward(self, loss):
        loss.backward()
        self.seen.append(self.norm())


class Clipping(Net):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.seen.append(self.norm())
        self.clip_gradients(optimizer, 0.1, "norm")
        self.seen.append(self.norm())


class OptimizerHook(Net):
    """A hook of the optimizer that is registered in the first step."""

    def training_step(self, batch, batch_idx):
        if not batch_idx:
            self.optimizers().register_step_pre_hook(lambda *arguments: self.seen.append(self.norm()))
        return self.loss(batch)


class AtTheEnd(Net):
    def on_train_end(self):
        self.seen.append(self.norm())


MODULES = [
    Reading, ReadingInTheNetwork, ReadingAndKeeping, Changing, OwnBackward, OwnGradients, Adversarial, InputPenalty,
    WeightPenalty, Functional, HookedAtTheStart, HookedInTheStep, HookedAfterForward, Accumulated, AfterBackward,
    BeforeStep, OwnBackwardHook, Clipping, OptimizerHook, AtTheEnd,
]  # fmt: skip


@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", MODULES)
def test_every_backend_shows_the_same_gradients(cls, momentum, fit, tiny_data):
    class Module(cls):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05, momentum, weight_decay=1e-3)

    results = {}
    for backend in ("dense", "auto", "sparse"):
        torch.manual_seed(0)
        module = Module()
        loop = fit(module, tiny_data, density=0.2, rounds=2, local_epochs=2, backend=backend)
        results[backend] = module.all_seen(), loop.server.weights, loop.metrics["flops"]
        assert all(type(parameter) is nn.Parameter for parameter in module.parameters())
    seen, weights, flops = results.pop("dense")
    assert seen.any()
    for backend, (others, other_weights, other_flops) in results.items():
        torch.testing.assert_close(others, seen, rtol=2e-3, atol=1e-4, msg=lambda text, b=backend: f"{b}: {text}")
        torch.testing.assert_close(other_weights, weights, rtol=2e-3, atol=1e-4)
        assert other_flops == flops


def test_the_module_says_once_that_torch_computes_its_layers(fit, tiny_data):
    for cls, words in ((AfterBackward, "AfterBackward.on_after_backward"), (HookedAtTheStart, "a hook on the grad")):
        for backend, expected in (("sparse", 1), ("dense", 0)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                fit(cls(), tiny_data, rounds=2, backend=backend)
            assert sum(words in str(warning.message) for warning in caught) == expected


def test_the_shipped_classifier_steps_without_dense_gradients(fit, tiny_data):
    """Its gradients stay in the sinks until somebody reads them."""
    dense = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            sgd, weight = loop.client.backend.sgd, loop.client.module.model[1].weight
            dense.append((sgd.sink(weight).gradient is not None, weight.grad is not None, sgd.sink(weight).gradient))

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 4))
    fit(Classifier(network, classes=4), tiny_data, backend="sparse", density=0.1, callbacks=[Watch()])
    assert dense == [(True, True, None)] * 2
