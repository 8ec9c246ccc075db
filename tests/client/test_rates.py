"""Learning rates that hold during the optimizer's step only: the round's decay and the layers' factors."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from flash_pl import PDST, FederatedTrainer, RoundDecay
from flash_pl.client import ScaledRates

BASE = 0.1


def cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(t):
    """Torch's default cycle of 8 steps to 0.2, from 0.2 / 25 and to 0.2 / 25 / 10^4; its peak is at step 1.4."""
    return cosine(0.008, 0.2, t / 1.4) if t <= 1.4 else cosine(0.2, 8e-7, (t - 1.4) / 5.6)


LR_SCHEDULERS = {
    "none": (None, lambda t: BASE),
    "step": (lambda o: StepLR(o, 2, 0.5), lambda t: BASE * 0.5 ** (t // 2)),
    "exponential": (lambda o: ExponentialLR(o, 0.8), lambda t: BASE * 0.8**t),
    "lambda": (lambda o: LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: BASE / (1 + t)),
    "cosine": (lambda o: CosineAnnealingLR(o, 6, eta_min=0.01), lambda t: cosine(BASE, 0.01, t / 6)),
    "cycle": (
        lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
        lambda t: (0.01, 0.055, 0.1, 0.055)[t % 4],
    ),
    "one cycle": (lambda o: OneCycleLR(o, 0.2, total_steps=8, cycle_momentum=False), one_cycle),
    "warm-up": (
        lambda o: SequentialLR(o, [LinearLR(o, 0.5, total_iters=2), CosineAnnealingLR(o, 4, eta_min=0.02)], [2]),
        lambda t: (0.05, 0.075)[t] if t < 2 else cosine(BASE, 0.02, (t - 2) / 4),
    ),
}


@pytest.mark.parametrize("lr_scale", [1.0, 0.3])
@pytest.mark.parametrize("name", LR_SCHEDULERS)
def test_every_schedule_keeps_its_shape(name, lr_scale):
    """A step takes lr(t) * lr_scale * factor from a weight whose gradient is 1, and lr(t) is what the user sees."""
    make, expected = LR_SCHEDULERS[name]
    factors = [1.0, 3.0, 0.5]
    weights = [torch.zeros(1, dtype=torch.float64) for _ in factors]
    optimizer = SGD(weights, BASE)
    lr_scheduler = make(optimizer) if make else None
    rates = ScaledRates(optimizer, lr_scale, dict(zip(weights[1:], factors[1:], strict=True)))
    for step in range(7):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected(step)])
        for weight in weights:
            weight.zero_().grad = torch.ones_like(weight)
        with rates.applied():
            optimizer.step()
        taken = [-float(weight) for weight in weights]
        assert taken == pytest.approx([expected(step) * lr_scale * factor for factor in factors])
        if lr_scheduler:
            lr_scheduler.step()


@pytest.mark.parametrize("make", [lambda g: SGD(g, momentum=0.9), AdamW, Adam])
@pytest.mark.parametrize("tensor", [False, True])
def test_steps_have_the_bits_of_an_optimizer_with_these_rates(make, tensor):
    rate = torch.tensor(0.1) if tensor else 0.1

    def train(scaled):
        generator = torch.Generator().manual_seed(0)
        first, second, third = weights = [torch.randn(50, generator=generator) for _ in range(3)]
        groups = [{"params": weights[:2], "lr": rate}, {"params": weights[2:], "lr": 0.07}]
        if not scaled:
            parts = (first, rate * 0.3), (second, rate * 0.3 * 1.7), (third, 0.07 * 0.3)
            groups = [{"params": [weight], "lr": lr} for weight, lr in parts]
        optimizer = make(groups)
        rates = ScaledRates(optimizer, 0.3, {second: 1.7} if scaled else {}) if scaled else ScaledRates(optimizer)
        for _ in range(5):
            for weight in weights:
                weight.grad = torch.randn(50, generator=generator)
            with rates.applied():
                optimizer.step()
        return weights

    for scaled, expected in zip(train(True), train(False), strict=True):
        assert torch.equal(scaled, expected)
    assert float(rate) == pytest.approx(0.1)


def test_other_settings_that_a_schedule_changes_hold_in_the_step():
    """OneCycleLR changes the momentum too. All its rates are proportional to the largest."""
    ours, expected = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    optimizers = SGD([ours], 0.1, momentum=0.9), SGD([expected], 0.03, momentum=0.9)
    lr_schedulers = [OneCycleLR(o, lr, total_steps=8) for o, lr in zip(optimizers, (0.2, 0.06), strict=True)]
    scales = [ScaledRates(optimizers[0], 0.3), ScaledRates(optimizers[1])]
    for _ in range(7):
        ours.grad, expected.grad = ours.clone(), expected.clone()
        for rates, lr_scheduler in zip(scales, lr_schedulers, strict=True):
            with rates.applied():
                rates.optimizer.step()
            lr_scheduler.step()
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_all_parameters_may_have_factors_and_a_group_may_be_empty(make):
    net = nn.ModuleList([nn.Linear(3, 3, bias=False) for _ in range(3)])
    optimizer = make([{"params": list(net.parameters())}, {"params": []}], lr=0.1)
    before = [layer.weight.detach().clone() for layer in net]
    sum(layer.weight.sum() for layer in net).backward()
    with ScaledRates(optimizer, factors={layer.weight: 0.5 for layer in net}).applied():
        optimizer.step()
    for layer, old in zip(net, before, strict=True):
        torch.testing.assert_close(layer.weight, old - 0.05)


def test_without_scale_and_factors_the_optimizer_keeps_its_groups():
    weights = [torch.zeros(1) for _ in range(2)]
    optimizer = SGD(weights, 0.1)
    (group,) = optimizer.param_groups
    for factors in ({}, {weights[0]: 1.0}):
        with ScaledRates(optimizer, 1.0, factors).applied():
            assert optimizer.param_groups[0] is group and group["params"] == weights


def test_groups_that_join_later_are_scaled_too():
    first, second = torch.zeros(1), torch.zeros(1)
    optimizer = SGD([first], 0.1)
    rates = ScaledRates(optimizer, 0.5)
    optimizer.add_param_group({"params": [second], "lr": 0.4})
    with rates.applied():
        assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.2]


def test_groups_come_back_after_an_error():
    optimizer = SGD([torch.zeros(1)], 0.1)
    groups = list(optimizer.param_groups)
    with pytest.raises(RuntimeError), ScaledRates(optimizer, 0.5).applied():
        raise RuntimeError
    assert [id(group) for group in optimizer.param_groups] == [id(group) for group in groups]
    assert groups[0]["lr"] == 0.1


class Counting(SGD):
    """Writes into its groups during the step, as schedule-free optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["lr"] = 100.0
        return super().step(closure)


def test_settings_that_the_optimizer_writes_stay_but_not_rates():
    first, second = torch.zeros(1), torch.zeros(1)
    optimizer = Counting([first, second], 0.1)
    rates = ScaledRates(optimizer, 0.5, {second: 2.0})
    for _ in range(3):
        with rates.applied():
            optimizer.step()
    (group,) = optimizer.param_groups
    assert group["steps"] == 3 and group["lr"] == 0.1 and group["params"] == [first, second]


def test_an_optimizer_around_another_one_is_scaled():
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            super().__init__(optimizer.param_groups, optimizer.defaults)
            self.optimizer, self.param_groups = optimizer, optimizer.param_groups

        def step(self, closure=None):
            self.optimizer.step()

    weight = torch.zeros(1)
    optimizer = Wrapper(SGD([weight], 0.1))
    weight.grad = torch.ones(1)
    with ScaledRates(optimizer, 0.5).applied():
        optimizer.step()
    assert float(weight) == pytest.approx(-0.05)


def test_a_gradient_scaler_steps_at_the_scaled_rates():
    first, second = torch.zeros(1), torch.zeros(1)
    optimizer = SGD([first, second], 0.1)
    rates = ScaledRates(optimizer, 0.5, {second: 4.0})
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient, steps in ((8.0, 1), (math.inf, 1), (4.0, 2)):  # the scale is halved after an overflow
        scaler.scale(torch.zeros(()))  # the scaler makes its scale at the first loss
        first.grad, second.grad = torch.tensor([gradient]), torch.tensor([gradient])
        with rates.applied():
            scaler.step(optimizer)
        scaler.update()
        assert [float(first), float(second)] == pytest.approx([-0.05 * steps, -0.2 * steps])


class Falling(L.LightningModule):
    """Every weight has the gradient 1, so that a step changes it by the learning rate."""

    interval = "step"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 2, bias=False), nn.Linear(2, 1, bias=False))
        self.rates, self.seen = [], []

    def training_step(self, batch, batch_idx):
        return sum(layer.weight.sum() for layer in self.net)

    def on_train_batch_start(self, batch, batch_idx):
        self.before = [layer.weight.detach().clone() for layer in self.net]
        self.seen.append(self.optimizers().param_groups[0]["lr"])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        changes = zip(self.before, self.net, strict=True)
        self.rates.append([float((before - layer.weight).detach().mean()) for before, layer in changes])

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), BASE)
        lr_scheduler = CosineAnnealingLR(optimizer, 6, eta_min=0.01)
        return [optimizer], [{"scheduler": lr_scheduler, "interval": self.interval}]


class Faster(PDST):
    """The first layer learns at twice its rate, the others at theirs."""

    def layer_rates(self, client):
        return torch.tensor([2.0] + [1.0] * (len(client.layout.layers) - 1), dtype=torch.float64)


@pytest.mark.parametrize("backend", ["dense", "auto"])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_run_steps_at_rate_decay_and_factor(interval, backend, tiny_data):
    module = Falling()
    module.interval = interval
    trainer = FederatedTrainer(
        Faster(),
        density=1.0,
        rounds=2,
        cohort=2,
        local_epochs=2,
        decay=RoundDecay(0.01, 2),
        accelerator="cpu",
        backend=backend,
    )
    trainer.fit(module, tiny_data)
    steps = [t if interval == "step" else t // 3 for t in range(6)]  # 3 batches an epoch
    own = [cosine(BASE, 0.01, step / 6) for step in steps]
    assert module.seen == pytest.approx(4 * own)
    scaled = [rate * scale for scale in (1.0, 0.1) for rate in 2 * own]
    assert [rate for rate, _ in module.rates] == pytest.approx([2 * rate for rate in scaled], rel=1e-3)
    assert [rate for _, rate in module.rates] == pytest.approx(scaled, rel=1e-3)


class Scaled(PDST):
    """Doubles the gradients of the first layer."""

    def on_gradients(self, client, step):
        first = client.layout.layers[0]
        factors = torch.ones(client.layout.maskable)
        factors[: first.shape.numel()] = 2.0
        client.scale_gradients_(factors)


@pytest.mark.parametrize("backend", ["dense", "auto", pytest.param("sparse", marks=pytest.mark.kernels)])
def test_with_plain_sgd_a_rate_is_a_factor_of_the_gradient(backend, unaware, tiny_data):
    weights = []
    for scheduler in (Faster(), Scaled(), PDST()):
        trainer = FederatedTrainer(
            scheduler,
            density=0.3,
            rounds=2,
            cohort=3,
            seed=1,
            decay=RoundDecay(0.01, 4),
            accelerator="cpu",
            backend=backend,
        )
        torch.manual_seed(0)
        module = unaware(momentum=0.0, weight_decay=0.0)
        weights.append(trainer.fit(module, tiny_data).server.weights)
    faster, scaled, plain = weights
    torch.testing.assert_close(faster, scaled)
    assert not torch.equal(faster, plain)


def test_a_rate_that_is_the_modules_own_tensor_stays(fit, unaware, tiny_data):
    class Module(unaware):
        def configure_optimizers(self):
            self.rate = getattr(self, "rate", torch.tensor(0.1))
            return SGD(self.parameters(), self.rate)

    module = Module()
    fit(module, tiny_data, rounds=2, decay=RoundDecay(0.01, 2))
    assert float(module.rate) == pytest.approx(0.1)
