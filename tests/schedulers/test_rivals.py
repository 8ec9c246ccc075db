"""What single methods do, against their formulas."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl.report import Ballot
from flash_pl.schedulers import (
    FIARSE,
    NST,
    PDST,
    SSFL,
    FedRTS,
    HeteroFL,
    LastStep,
    SaliencyStage,
    SparsyFed,
    TopK,
    ZeroFL,
)
from flash_pl.schedulers.activations import keep_largest, pruned_activations
from flash_pl.schedulers.sparsyfed import power
from flash_pl.server import ServerState
from flash_pl.sparsity import Gradient, KeepLayers, Layout, Move, channel_mask, top_k, total_count, widest
from flash_pl.testing.setting import Network, train


class Watch:
    """Keeps reports and rows."""

    def __init__(self):
        self.reports, self.rows = [], []

    def on_client_end(self, loop, report):
        self.reports.append((report.tier, report.weights.clone(), report.mask.clone(), report.trained.clone()))

    def on_round_end(self, loop, row):
        self.rows.append(row)


def watched(scheduler, **settings):
    watch = Watch()
    return train(scheduler, 0.2, callbacks=[watch], **settings), watch


def test_steps_with_gradients_of_pruned_weights_are_counted_dense():
    """RigL takes one of them in a round, for its only move."""
    shares = []

    class Shares:
        def on_client_end(self, loop, report):
            shares.append((report.dense_gradients, loop.data.client_batches(report.client).samples))

    loop = train(NST(move=Move(growth=Gradient(), layers=KeepLayers())), 0.2, rounds=1, callbacks=[Shares()])
    assert all(share == 1 / math.ceil(samples / 8) for share, samples in shares)
    flops, layout = loop.accounts.bill.flops, loop.server.layout
    more = flops.forward(flops.dense) - flops.forward(layout.densities(loop.server.mask))
    dense = more * sum(share * samples for share, samples in shares)
    still = train(PDST(), 0.2, rounds=1)
    assert loop.metrics["flops"] == pytest.approx(still.metrics["flops"] + dense)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 5)])
def test_saved_activations_are_pruned_for_the_weight_alone(layer):
    module = nn.Module()
    module.layer = layer
    layout = Layout(module)

    class Client:
        pass

    client = Client()
    client.module, client.layout = module, layout
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    forward = F.linear if isinstance(layer, nn.Linear) else lambda x, w, b: F.conv2d(x, w, b, padding=1)
    with pruned_activations(client, torch.tensor([0.25])):
        y = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    weight = layer.weight.detach().clone().requires_grad_()
    x_again = x.detach().clone().requires_grad_()
    expected = forward(x_again, weight, layer.bias.detach())
    torch.testing.assert_close(y, expected)
    expected.backward(dy)
    torch.testing.assert_close(x.grad, x_again.grad)
    pruned = keep_largest(x.detach(), 0.25)
    assert int(pruned.count_nonzero()) == x.numel() // 4
    forward(pruned, weight_again := weight.detach().clone().requires_grad_(), None).backward(dy)
    torch.testing.assert_close(layer.weight.grad, weight_again.grad)
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_sparsyfed_steps_along_the_gradient_of_v():
    """One step by hand, with autograd through w = sign(v) |v|^beta."""
    scheduler = SparsyFed(activations=False)
    seen = {}

    class OneStep(SparsyFed):
        def on_dense_gradients(self, client, step):
            seen["v"], seen["raw"] = client.weights.clone(), client.gradients()
            super().on_dense_gradients(client, step)
            seen["scaled"] = client.gradients()

    train(OneStep(activations=False), 0.2, rounds=1)
    v = seen["v"].clone().requires_grad_()
    w = power(v, scheduler.beta)
    (w * seen["raw"]).sum().backward()
    torch.testing.assert_close(seen["scaled"], torch.where(v == 0, 0.0, v.grad), rtol=1e-4, atol=1e-7)


def test_sparsyfed_grows_by_the_union_only_and_topk_anywhere():
    for cls, grows in ((SparsyFed, False), (TopK, True)):
        outside = []

        class Looking(cls):
            def on_client_end(self, client, context, outside=outside):
                outside.append(int(client.weights[~self.support].count_nonzero()))
                return super().on_client_end(client, context)

        train(Looking(), 0.2)
        assert any(outside) is grows


def test_topk_computes_densely_and_zerofl_at_its_density():
    _, dense = watched(TopK())
    assert all(row["flops_ratio"] == 1 for row in dense.rows)
    loop, sparse = watched(ZeroFL(ratio=0.1))
    layout = loop.server.layout
    assert all(torch.allclose(trained, torch.full_like(trained, 0.2), atol=0.01) for _, _, _, trained in sparse.reports)
    sent = total_count(layout.sizes, 0.2) + round(0.1 * layout.maskable)
    assert all(int(mask.sum()) == sent for _, _, mask, _ in sparse.reports)
    assert sparse.rows[-1]["flops_ratio"] < 1


def test_ssfl_keeps_the_largest_mean_saliencies():
    """The first mask from the saliencies that clients found, by hand; then it never moves."""
    found = []

    class Collecting(SSFL):
        def initial_mask(self, layout, density, mean, generator):
            found.append(mean)
            return super().initial_mask(layout, density, mean, generator)

    loop, watch = watched(Collecting(SaliencyStage(init_fraction=1.0)))
    layout = loop.server.layout
    assert found[0].shape == (layout.maskable,) and (found[0] >= 0).all() and (found[0] > 0).any()
    expected = top_k(found[0], total_count(layout.sizes, 0.2))
    assert all(torch.equal(mask, expected) for _, _, mask, _ in watch.reports)
    assert watch.rows[-1]["bytes_up_total"] > 6 * 4 * layout.maskable  # six clients sent a number a weight


def test_channels_by_hand():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 10), nn.Linear(10, 6))
    layout = Layout(module)
    conv1, conv2, fc1, fc2 = (slot.view(channel_mask(layout, 0.5)) for slot in layout.layers)
    assert conv1.all((1, 2, 3)).tolist() == 4 * [True] + 4 * [False]
    assert conv2.any((2, 3)).nonzero().tolist() == [[o, i] for o in range(2) for i in range(4)]
    assert fc1.nonzero().tolist() == [[o, i] for o in range(5) for i in range(8)]  # two channels of four pixels
    assert fc2.nonzero().tolist() == [[o, i] for o in range(6) for i in range(5)]  # all classes
    for density in (0.05, 0.3, 0.9):
        held = int(channel_mask(layout, widest(layout, density)).sum())
        assert held <= density * layout.maskable or widest(layout, density) == 1 / 10
    assert widest(layout, 1.0) == 1


def test_heterofl_leaves_what_a_small_device_lacks():
    from flash_pl.sparsity import SparsityBudget, Tier

    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.2, 0.5)])
    loop, watch = watched(HeteroFL(), budget=budget)
    masks = {tier: mask for tier, _, mask, _ in watch.reports}
    assert len(masks) == 2 and not (masks[0] & ~masks[1]).any() and masks[0].sum() < masks[1].sum()
    assert all(torch.equal(mask, masks[tier]) for tier, _, mask, _ in watch.reports)


def test_fiarse_keeps_the_weights_that_nobody_holds():
    torch.manual_seed(5)
    first = {}

    class Remembering(FIARSE):
        def start(self, server, found, generator):
            super().start(server, found, generator)
            first["weights"] = server.weights.clone()

    loop, watch = watched(Remembering())
    layout = loop.server.layout
    never = ~torch.stack([mask for _, _, mask, _ in watch.reports]).any(0)
    assert never.sum() > 0.5 * layout.maskable
    now, before = loop.server.weights[: layout.maskable], first["weights"][: layout.maskable]
    assert torch.equal(now[never], before[never]) and before[never].all()
    assert torch.equal(loop.server.mask, top_k(now.abs(), total_count(layout.sizes, 0.2)))


def test_fedrts_believes_as_the_formula_says():
    layout = Layout(nn.Linear(4, 2, bias=False))
    weights = torch.tensor([5.0, 4, 3, 2, 0, 0, 0, 0])
    server = ServerState.start(layout, weights, 0.5)
    mask = weights != 0
    scheduler = FedRTS(gamma=0.25, rho=2.0, interval=LastStep(rounds=2))
    scheduler.start(server, None, torch.Generator().manual_seed(1))
    server.weights.copy_(weights)
    server.mask = mask
    tops = [[1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    grown = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 1, 0]]
    ballots = [
        Ballot(
            i, n, mask, None, None, {}, {"top": torch.tensor(tops[i]).bool(), "grown": torch.tensor(grown[i]).bool()}
        )
        for i, n in enumerate((1, 3))
    ]
    scheduler.on_aggregate(server, ballots, round=0)
    o = torch.tensor(
        [0.75 + 0.25 * 0.25, 0.75 + 0.25, 0.25 * 0.75, 0, 0.375 + 0.25, 0.375 + 0.0625, 0.375 + 0.1875, 0.375]
    )
    torch.testing.assert_close(scheduler.beliefs, 1 + 2 * torch.stack([o, 1 - o]).double())
    assert int(server.mask.sum()) == 4
    beliefs = scheduler.beliefs.clone()
    server.weights.copy_(weights)
    server.mask = mask
    scheduler.on_aggregate(server, ballots, round=1)  # only active weights are seen in a round without moves
    changed = (scheduler.beliefs != beliefs).any(0)
    assert torch.equal(changed, mask) and torch.equal(server.mask, mask)


def test_networks_of_the_setting_have_masks():
    assert Layout(Network(), exclude_first_last=True).maskable == 6 * 8 * 9 + 32 * 16
