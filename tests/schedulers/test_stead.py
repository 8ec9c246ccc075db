"""STEAD's mask and rates, against their formulas."""

import pytest
import torch

from flash_pl.config import build_trainer, compose, read_config
from flash_pl.errors import ConfigError
from flash_pl.schedulers import STEAD
from flash_pl.server import FedAvgM, RoundAverage
from flash_pl.sparsity import total_count
from flash_pl.testing.setting import train


class Watch:
    """Keeps the rates that the layers of every client had."""

    def __init__(self):
        self.rates = []

    def on_client_end(self, loop, report):
        client = loop.client
        groups = client.optimizer.param_groups
        rate = {weight: group["lr"] for group in groups for weight in group["params"]}
        weights = dict(client.module.named_parameters())
        self.rates.append([rate[weights[slot.name]] for slot in loop.server.layout.layers])


def first_state(density):
    """The layout, the first mask and the weights before and after it."""
    found = {}

    class Remembering(STEAD):
        def start(self, server, first_stage, generator):
            before = server.weights.clone()
            super().start(server, first_stage, generator)
            found.update(layout=server.layout, mask=server.mask.clone(), before=before, after=server.weights.clone())

    train(Remembering(), density, rounds=1)
    return found["layout"], found["mask"], found["before"], found["after"]


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_every_layer_keeps_as_many_of_its_largest_initial_weights_as_drawn(density):
    layout, mask, before, after = first_state(density)
    counts, sizes = layout.counts(mask), layout.sizes
    assert int(counts.sum()) == total_count(sizes, density)
    assert torch.all((counts == sizes) | (counts >= counts.max() - 1))
    for weights, kept in zip(layout.split(before), layout.split(mask), strict=True):
        if not kept.all():
            assert weights[kept].abs().min() >= weights[~kept].abs().max()
    head = slice(0, layout.maskable)
    assert torch.equal(after[head], before[head] * mask) and torch.equal(
        after[layout.maskable :], before[layout.maskable :]
    )


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
def test_a_layer_learns_at_the_rate_over_a_power_of_its_density(power):
    watch = Watch()
    loop = train(STEAD(power), 0.1, rounds=1, callbacks=[watch])
    rates = torch.tensor(watch.rates, dtype=torch.float64)
    densities = loop.server.layout.densities(loop.server.mask)
    assert len(rates) and densities.min() < densities.max()
    torch.testing.assert_close(rates * densities**power, torch.full_like(rates, 1.0))  # lr = 1


def test_its_config_brings_momentum_and_the_mean_over_rounds():
    trainer = build_trainer(compose(read_config("stead")))
    assert isinstance(trainer.server_optimizer, FedAvgM) and trainer.server_optimizer.momentum == 0.5
    assert isinstance(trainer.average, RoundAverage)
    without = build_trainer(compose(read_config("stead"), ["server_optimizer=null", "average=null"]))
    assert without.server_optimizer is None and without.average is None
    mask = trainer.scheduler.first_mask
    assert mask == STEAD().first_mask


@pytest.mark.parametrize("power", [-0.1, 1.5, float("nan")])
def test_a_power_outside_0_to_1_is_refused(power):
    with pytest.raises(ConfigError, match="power: .* is not allowed; expected a number in"):
        STEAD(power)
