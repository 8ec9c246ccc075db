"""STEAD's mask and rates, against their formulas."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from flash_pl.callbacks import Callback
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.errors import ConfigError
from flash_pl.schedulers import STEAD, Constant, Cosine, Linear
from flash_pl.server import FedAvgM, RoundAverage, ServerState
from flash_pl.sparsity import Gradient, Layout, Move
from flash_pl.testing.setting import train


class Watch(Callback):
    """Keeps the rates that the layers of every client had, and the server's mask after every round."""

    def __init__(self):
        self.rates, self.masks, self.rows = [], [], []

    def on_round_end(self, loop, row):
        self.masks.append(loop.server.mask.clone())
        self.rows.append(row)

    def on_client_end(self, loop, update):
        client = loop.client
        with client.rates.applied():
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
def test_every_layer_keeps_as_many_initial_weights_and_their_variance(density):
    layout, mask, before, after = first_state(density)
    counts, sizes = layout.counts(mask), layout.sizes
    assert int(counts.sum()) == round(density * int(sizes.sum()))
    assert torch.all((counts == sizes) | (counts >= counts.max() - 1))
    scales = layout.densities(mask) ** -0.5
    for old, new, kept, scale in zip(*map(layout.split, (before, after, mask)), scales.tolist(), strict=True):
        torch.testing.assert_close(new, old * kept * scale)
    assert torch.equal(before[layout.maskable :], after[layout.maskable :])


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
def test_a_layer_learns_at_the_rate_over_a_power_of_its_density(power):
    watch = Watch()
    loop = train(STEAD(power), 0.1, rounds=1, callbacks=[watch])
    rates = torch.tensor(watch.rates, dtype=torch.float64)
    densities = loop.server.layout.densities(loop.server.mask)
    assert len(rates) and densities.min() < densities.max()
    torch.testing.assert_close(rates * densities**power, torch.full_like(rates, 1.0))  # lr = 1


def test_only_the_server_moves_the_mask_and_layers_keep_their_sizes():
    watch = Watch()
    loop = train(STEAD(prune_rate=0.4, every=2, decay=Constant()), 0.1, rounds=5, callbacks=[watch])
    layout, masks = loop.server.layout, watch.masks
    moved = [not torch.equal(old, new) for old, new in pairwise(masks)]
    assert moved == [True, False, True, False]  # after the second round and the fourth
    for old, new in pairwise(masks):
        assert torch.equal(layout.counts(old), layout.counts(new))
    dropped = layout.counts(masks[0] & ~masks[1])
    limit = torch.minimum((0.4 * layout.counts(masks[0])).ceil().long(), layout.sizes - layout.counts(masks[0]))
    assert (dropped <= limit).all() and int(dropped.sum()) > 0
    assert all(row["mismatch_clients"] == 0 for row in watch.rows)


def learn_by(server, change):
    """A round in which the server's weights change."""
    server.weights[: server.layout.maskable] += change * server.mask


def test_weights_that_have_changed_least_since_they_entered_go_first():
    module = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 5))
    layout = Layout(module)
    server = ServerState.start(layout, layout.flatten_(module), density=0.5)
    draws = torch.Generator().manual_seed(0)
    scheduler = STEAD(prune_rate=0.4, every=1, decay=Constant())
    scheduler.start(server, None, draws)
    entered = server.weights[: layout.maskable].clone()
    for round in range(4):
        if round == 2:  # a resumed run
            scheduler, state = STEAD(prune_rate=0.4, every=1, decay=Constant()), scheduler.state_dict()
            scheduler.load_state_dict(state)
        learn_by(server, torch.rand(layout.maskable, generator=draws) - 0.5)
        before, mask = server.weights[: layout.maskable].clone(), server.mask
        scheduler.on_aggregate(server, [], round)
        kept = server.weights[: layout.maskable] != 0  # what is dropped may grow again, from 0
        for change, old, new in zip(*map(layout.split, ((before - entered).abs(), mask, kept)), strict=True):
            assert new.any() and (old & ~new).any()
            assert change[new].min() >= change[old & ~new].max()
        assert torch.equal(server.weights[: layout.maskable], before * kept) and (kept <= server.mask).all()
        assert torch.equal(layout.counts(server.mask), layout.counts(mask))
        entered *= kept


def test_moves_shrink_as_a_cosine_over_the_rounds():
    module = nn.Linear(100, 40, bias=False)
    layout = Layout(module)
    server = ServerState.start(layout, layout.flatten_(module), density=0.25)
    scheduler = STEAD(prune_rate=0.4, every=1, decay=Cosine(rounds=4))
    scheduler.start(server, None, torch.Generator().manual_seed(0))
    dropped = []
    for round in range(5):
        learn_by(server, torch.rand(layout.maskable, generator=torch.Generator().manual_seed(round)) + 0.5)
        scheduler.on_aggregate(server, [], round)
        dropped.append(1000 - int(server.weights.count_nonzero()))  # what has grown is 0
        server.weights[(server.weights == 0) & server.mask] = 1.0
    expected = [0.4 * (1 + math.cos(math.pi * time / 4)) / 2 * 1000 for time in (1, 2, 3)]
    assert dropped[:3] == pytest.approx(expected, abs=1.1) and dropped[3:] == [0, 0]


@pytest.mark.parametrize("still", [{"prune_rate": 0.0}, {"decay": Linear(rounds=1)}])
def test_a_mask_may_stay_from_the_start_or_from_some_round_on(still):
    watch, (_, first, _, _) = Watch(), first_state(0.1)
    train(STEAD(every=1, **still), 0.1, rounds=3, callbacks=[watch])
    assert all(torch.equal(first, mask) for mask in watch.masks)


def test_its_config_brings_momentum_and_the_mean_over_rounds():
    trainer = build_trainer(compose(read_config("stead")))
    assert isinstance(trainer.server_optimizer, FedAvgM) and trainer.server_optimizer.momentum == 0.5
    assert isinstance(trainer.round_average, RoundAverage)
    alone = build_trainer(compose(read_config("pdst"), ["scheduler=stead"]))
    assert alone.server_optimizer is None and alone.round_average is None
    without = build_trainer(compose(read_config("stead"), ["server_optimizer=null", "round_average=null"]))
    assert without.server_optimizer is None and without.round_average is None
    for name, value in vars(STEAD()).items():
        assert getattr(trainer.scheduler, name) == value


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ({"power": -0.1}, "-0.1"),
        ({"power": float("nan")}, "nan"),
        ({"prune_rate": 1.5}, "1.5"),
        ({"every": 0}, "0"),
        ({"move": Move(growth=Gradient())}, "gradients"),
    ],
)
def test_bad_settings_are_refused(setting, value):
    with pytest.raises(ConfigError, match=value) as error:
        STEAD(**setting)
    assert [error.value.key] == list(setting)
