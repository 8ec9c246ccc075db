"""What single methods do, against their formulas."""

from contextlib import contextmanager
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl import NST
from flash_pl.callbacks import Callback
from flash_pl.client import Classifier, ClientContext, ClientState
from flash_pl.data import TensorBatches
from flash_pl.errors import ClientError, ConfigError
from flash_pl.kernels import SparsePattern, sparse_linear
from flash_pl.loops.first_stage import FirstBatches
from flash_pl.schedulers import (
    FIARSE,
    SSFL,
    AfterTraining,
    Constant,
    Cosine,
    EverySteps,
    FedDST,
    FedRTS,
    HeteroFL,
    LastStep,
    SaliencyStage,
    SparsyFed,
    TopK,
    ZeroFL,
)
from flash_pl.schedulers.magnitude_upload import keep_largest, pruned_activations, signed_power
from flash_pl.server import ServerState
from flash_pl.server.updates import ClientUpdate
from flash_pl.sparsity import (
    CriterionInput,
    FanInPreserving,
    FirstMask,
    Gradient,
    KeepLayers,
    Layout,
    Move,
    Saliency,
    SparsityBudget,
    Tier,
    channel_mask,
    largest_channel_ratio,
    top_k,
)
from flash_pl.testing.setting import Network, train
from flash_pl.trainer import FederatedTrainer

TWO_TIERS = SparsityBudget([Tier(0.1, 0.5), Tier(0.2, 0.5)])
RIGL = Move(growth=Gradient(), redistribution=KeepLayers(round_down=True), keep_regrown=True)


class Watch(Callback):
    """Keeps reports and rows."""

    def __init__(self):
        self.reports, self.rows = [], []

    def on_client_end(self, loop, update):
        self.reports.append(
            (update.tier, loop.client.arena.clone(), update.mask.clone(), update.trained_densities.clone())
        )

    def on_round_end(self, loop, row):
        self.rows.append(row)


def watched(scheduler, **settings):
    watch = Watch()
    return train(scheduler, 0.2, callbacks=[watch], **settings), watch


@pytest.mark.parametrize(
    "settings",
    [{"padding_mode": "circular"}, {"padding_mode": "reflect", "stride": 2}, {"padding": "same", "kernel_size": 2}],
)
def test_a_convolution_that_pads_keeps_the_largest_of_the_padded_input(settings):
    layer = nn.Conv2d(3, 4, **({"kernel_size": 3, "padding": 1} | settings))
    x, weight = torch.randn(2, 3, 6, 6), layer.weight.detach()
    mode = layer.padding_mode.replace("zeros", "constant")
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    free = [weight.clone().requires_grad_() for _ in range(2)]
    F.conv2d(keep_largest(padded, 0.25), free[0], None, layer.stride).square().sum().backward()
    module = nn.Module()
    module.layer = layer
    with pruned_activations(SimpleNamespace(module=module, layout=Layout(module)), torch.tensor([0.25])):
        y = layer(x)
    dy = 2 * F.conv2d(keep_largest(padded, 0.25), weight, None, layer.stride)
    y.backward(dy)
    torch.testing.assert_close(y, F.conv2d(padded, weight, layer.bias, layer.stride))
    torch.testing.assert_close(layer.weight.grad, free[0].grad)


def test_every_layer_that_shares_a_weight_prunes_its_activations_and_is_scaled():
    class Client:
        module = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
        context = ClientContext(0, 0, 1, 1, seed=0, tier=0)

    module = Client.module
    module[2].weight = module[1].weight
    Client.layout = Layout(module)
    x = torch.randn(5, 6)
    plain, handles = [layer(x) for layer in module], [set(layer._forward_pre_hooks) for layer in module]
    with pruned_activations(Client(), torch.full((3,), 0.5)):
        pruned = [bool(set(layer._forward_pre_hooks) - had) for layer, had in zip(module, handles, strict=True)]
    assert pruned == 4 * [True]
    scheduler = HeteroFL()
    scheduler.ratios = [Fraction(1, 2), Fraction(1)]
    with scheduler.training(Client()):
        for layer, expected in zip(module, [2, 2, 2, 1], strict=True):
            torch.testing.assert_close(layer(x), plain[list(module).index(layer)] * expected)


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


def gradient_of_input(layer, x, pruned, **autocast):
    class Client:
        pass

    client, module = Client(), nn.Module()
    module.layer = layer
    client.module, client.layout = module, Layout(module)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, **autocast):
        if pruned:
            with pruned_activations(client, torch.tensor([0.25])):
                y = layer(x)
        else:
            y = layer(x)
    (y.float() * torch.arange(float(y.shape[-1]))).sum().backward()
    return x.grad


def test_a_weight_with_as_many_elements_as_the_input_is_not_pruned_under_autocast():
    layer, x = nn.Linear(8, 4), torch.randn(4, 8)
    assert torch.equal(gradient_of_input(layer, x, True), gradient_of_input(layer, x, False))


@pytest.mark.kernels
def test_nor_are_the_active_weights_that_a_kernel_saves():
    class Sparse(nn.Linear):
        def forward(self, x):
            return sparse_linear(x, self.weight, self.bias, SparsePattern(active))

    active = torch.arange(128).view(8, 16) % 2 == 0
    layer, x = Sparse(16, 8), torch.randn(4, 16)  # 64 active weights, 64 inputs
    off = {"enabled": False}
    assert torch.equal(gradient_of_input(layer, x, True, **off), gradient_of_input(layer, x, False, **off))


@pytest.mark.parametrize("cls", [HeteroFL, ZeroFL, SparsyFed])
def test_methods_with_hooks_on_layers_are_not_compiled(cls):
    with pytest.raises(ConfigError, match="compile"):
        FederatedTrainer(cls(), accelerator="cpu", compile=True)


def test_sparsyfed_steps_along_the_gradient_of_v():
    """One step by hand, with autograd through w = sign(v) |v|^beta."""
    scheduler = SparsyFed(activations=False)
    seen = {}

    class OneStep(SparsyFed):
        def on_gradients(self, client, step):
            seen["v"], seen["raw"] = client.weights.clone(), client.gradients()
            super().on_gradients(client, step)
            seen["scaled"] = client.gradients()

    train(OneStep(activations=False), 0.2, rounds=1)
    v = seen["v"].clone().requires_grad_()
    w = signed_power(v, scheduler.beta)
    (w * seen["raw"]).sum().backward()
    torch.testing.assert_close(seen["scaled"], torch.where(v == 0, 0.0, v.grad), rtol=1e-4, atol=1e-7)


def test_sparsyfed_sends_the_largest_of_w():
    class Looking(SparsyFed):
        def on_client_end(self, client, context):
            w = signed_power(client.weights, self.beta)
            sent = super().on_client_end(client, context)
            kept = top_k(w.abs(), self.upload_costs[context.tier])
            assert torch.equal(client.weights, w * kept) and torch.equal(client.mask, kept)
            seen.append(client)
            return sent

    seen = []
    train(Looking(), 0.2, rounds=1)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("cls", "keywords", "rounds"), [(ZeroFL, {}, 2), (SparsyFed, {}, 1), (SparsyFed, {"activations": False}, 0)]
)
def test_layers_prune_the_inputs_that_they_save(cls, keywords, rounds):
    """In so many of two rounds; SparsyFed's first one is dense."""
    pruned = []

    class Looking(cls):
        @contextmanager
        def training(self, client):
            with super().training(client):
                parts = client.module.named_modules()
                pruned.append({f"{name}.weight" for name, part in parts if part._forward_pre_hooks})
                yield

    loop = train(Looking(**keywords), 0.2, rounds=2)
    layers = {slot.name for slot in loop.server.layout.layers}
    assert pruned == [set()] * 3 * (2 - rounds) + [layers] * 3 * rounds


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
    sent = round(0.2 * layout.maskable) + round(0.1 * layout.maskable)
    assert all(int(mask.sum()) == sent for _, _, mask, _ in sparse.reports)
    assert sparse.rows[-1]["flops_ratio"] < 1


@pytest.mark.parametrize("make", [TopK, SparsyFed, lambda: ZeroFL(ratio=0.1)])
def test_the_union_of_the_last_cohort_goes_down_with_tiers_too(make):
    loop, watch = watched(make(), budget=TWO_TIERS)
    layout = loop.server.layout
    sent = torch.stack([mask for _, _, mask, _ in watch.reports[-3:]]).any(0)
    assert torch.equal(loop.server.weights[: layout.maskable] != 0, sent) and 0.1 < sent.float().mean() < 0.5


@pytest.mark.parametrize("make", [TopK, SparsyFed, ZeroFL])
def test_what_a_client_starts_from_follows_the_server(make):
    layout = Layout(nn.Linear(8, 4, bias=False))
    server = ServerState.start(layout, torch.arange(1.0, 33.0), 0.25)
    scheduler = make()
    scheduler.start(server, None, torch.Generator())
    scheduler.on_round_start(server, scheduler.tier_masks(server, [1.0]), 0)
    server.weights[5:] = 0  # an aggregate; then the server nests its masks, and clients may be evaluated
    masks = scheduler.tier_masks(server, [1.0])
    assert torch.equal(scheduler.client_mask(masks[0], None, ClientContext(0, 1, 1, 1, 0)), server.weights != 0)


class Skipping(Classifier):
    """Makes nothing of one step of all clients but those in ``whole``."""

    step, whole = 0, ()

    def training_step(self, batch, batch_idx):
        if self.global_step == self.step and self._client.context.client not in self.whole:
            return None
        return super().training_step(batch, batch_idx)


def test_growth_is_not_by_the_gradients_of_another_client(monkeypatch):
    """Where a module skips the batch whose gradient a method waits for."""
    monkeypatch.setattr("flash_pl.testing.setting.Classifier", Skipping)
    seen = []

    class Looking(FedRTS):
        def on_aggregate(self, server, updates, round):
            seen.extend(updates)
            super().on_aggregate(server, updates, round)

    for Skipping.step in range(4):
        Skipping.whole = ()
        train(NST(move=RIGL), 0.2)
        Skipping.whole = (4,)  # the first to train
        train(Looking(interval=LastStep(rounds=2)), 0.2, rounds=1)
    counts = {(update.client, int(update.extra["grown"].sum())) for update in seen}
    assert (3, 0) in counts and all(count for client, count in counts if client == 4)
    Skipping.step, Skipping.whole = 0, ()
    with pytest.raises(ClientError, match="skipped the first batch"):
        train(SSFL(SaliencyStage(init_fraction=0.5)), 0.2)


def test_nor_by_the_gradient_of_a_move_before(monkeypatch):
    class SkippingSecond(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    monkeypatch.setattr("flash_pl.testing.setting.Classifier", SkippingSecond)
    moved, move = [], ClientState.move_mask_

    def seen(client, *masks):
        moved.append(client.step)
        move(client, *masks)

    monkeypatch.setattr(ClientState, "move_mask_", seen)
    train(NST(move=RIGL, interval=EverySteps(steps=1), decay=Constant()), 0.2, rounds=1, local_epochs=2)
    assert set(moved) == {1, 3, 4}  # three batches an epoch, no move after the last


def test_without_memory_an_infinite_gradient_is_forgotten():
    class Client:
        context = ClientContext(0, 0, 1, 9, seed=0)

        def gradients(self):
            return self.gradient.clone()

    scheduler, client = NST(move=RIGL, interval=EverySteps(steps=1)), Client()
    for step, client.gradient in enumerate(torch.tensor([[1.0, torch.inf], [1.0, 2.0]])):
        scheduler.on_dense_gradients(client, step)
    assert scheduler.gradient.tolist() == [1, 2]


def test_a_layer_without_free_places_is_not_moved():
    layout = Layout(nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)))
    mask = torch.arange(64) < 35  # full; three of 32
    moved = RIGL(layout, torch.rand(64) * mask, mask, 0.5, torch.Generator(), torch.rand(64))
    assert torch.equal(moved.mask[:32], mask[:32]) and moved.survivors[:32].all()
    assert int(moved.mask.sum()) == 35 and int(moved.survivors[32:].sum()) >= 2  # one of three is dropped


@pytest.mark.parametrize("make", [lambda: FedDST(interval=LastStep()), lambda: FedRTS(interval=LastStep())])
def test_dense_gradients_are_counted_and_leave_no_dense_evaluation(make):
    """As a step's last third is dense: f_D in place of f_S, once a client."""
    loop, watch = watched(make(), rounds=1)
    flops, sizes = loop.ledger.flops, loop.plan.population.samples
    clients = [member.client for member in loop.plan.sample_cohort(0)]
    steps = {client: len(loop.data.client_batches(client)) for client in clients}
    trained = watch.reports[0][-1]
    dense = sum(sizes[c] / steps[c] * (flops.forward(flops.dense) - flops.forward(trained)) for c in clients)
    sparse = sum(sizes[c] for c in clients) * flops.training(trained)
    assert watch.rows[0]["flops"] == pytest.approx(sparse + dense)
    assert not loop.client.backend.dense


def test_saliency_is_the_weight_times_its_gradient():
    layout = Layout(nn.Linear(2, 2, bias=False))
    seen = CriterionInput(layout, torch.tensor([1.0, -2.0, 0.0, 0.5]), torch.tensor([3.0, 1.0, 9.0, -4.0]))
    assert Saliency().scores(seen).tolist() == [3, 2, 0, 2]


def test_ssfl_keeps_the_largest_mean_saliencies():
    """The first mask from the saliencies that clients found, by hand; then it never moves."""
    found = []

    class Collecting(SSFL):
        def initial_mask(self, server, mean, generator):
            found.append(mean)
            return super().initial_mask(server, mean, generator)

    loop, watch = watched(Collecting(SaliencyStage(init_fraction=1.0)))
    layout = loop.server.layout
    assert found[0].shape == (layout.maskable,) and (found[0] >= 0).all() and (found[0] > 0).any()
    expected = top_k(found[0], round(0.2 * layout.maskable))
    assert all(torch.equal(mask, expected) for _, _, mask, _ in watch.reports)
    assert watch.rows[-1]["bytes_up_total"] > 6 * 4 * layout.maskable  # six clients sent a number a weight


def test_a_first_stage_of_some_batches_counts_the_samples_in_them():
    batches = TensorBatches(torch.zeros(45, 1, 2, 2), torch.zeros(45, dtype=torch.int64), batch_size=32)
    for few, samples in ((1, 32), (2, 45), (3, 45)):
        some = FirstBatches(batches, few)
        for _ in range(2):
            assert sum(len(labels) for _, labels in some.shuffled(torch.Generator())) == some.samples == samples


def test_channels_by_hand():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 10), nn.Linear(10, 6))
    layout = Layout(module)
    conv1, conv2, fc1, fc2 = (slot.view(channel_mask(layout, 0.5)) for slot in layout.layers)
    assert conv1.all((1, 2, 3)).tolist() == 4 * [True] + 4 * [False]
    assert conv2.any((2, 3)).nonzero().tolist() == [[o, i] for o in range(2) for i in range(4)]
    assert fc1.nonzero().tolist() == [[o, i] for o in range(5) for i in range(8)]  # two channels of four pixels
    assert fc2.nonzero().tolist() == [[o, i] for o in range(6) for i in range(5)]  # all classes
    for density in (0.05, 0.3, 0.9):
        held = int(channel_mask(layout, largest_channel_ratio(layout, density)).sum())
        assert held <= density * layout.maskable or largest_channel_ratio(layout, density) == Fraction(1, 10)
    assert largest_channel_ratio(layout, 1.0) == 1


@pytest.mark.parametrize("channels", range(1, 131))
def test_a_ratio_of_whole_channels_is_that_many(channels):
    layout = Layout(nn.Sequential(nn.Linear(1, channels), nn.Linear(channels, 1)))
    for density in (0.1, 0.37, 0.62, 0.93):
        ratio = largest_channel_ratio(layout, density)
        held = layout.layers[0].view(channel_mask(layout, ratio))
        assert int(held.count_nonzero()) == ratio * channels == max(1, int(density * channels))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.5, 0.6, 0.75, 1.0])
def test_channels_of_groups_stay_connected(groups, ratio):
    """A grouped convolution is a full one with holes: its mask is the other's where there are none."""
    before, after = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)
    grouped = Layout(nn.Sequential(before, nn.Conv2d(8, 16, 3, groups=groups), after))
    full = Layout(nn.Sequential(before, nn.Conv2d(8, 16, 3), after))
    found = grouped.layers[1].view(channel_mask(grouped, ratio))
    expected = full.layers[1].view(channel_mask(full, ratio))
    for output in range(16):
        start = output // (16 // groups) * (8 // groups)
        assert torch.equal(found[output], expected[output, start : start + 8 // groups])
        assert found[output].any() == expected[output].any()


def test_heterofl_leaves_what_a_small_device_lacks():
    loop, watch = watched(HeteroFL(), budget=TWO_TIERS)
    masks = {tier: mask for tier, _, mask, _ in watch.reports}
    assert len(masks) == 2 and not (masks[0] & ~masks[1]).any() and masks[0].sum() < masks[1].sum()
    assert all(torch.equal(mask, masks[tier]) for tier, _, mask, _ in watch.reports)


def test_heterofl_meets_every_density_from_below_or_refuses_it():
    loop, _ = watched(HeteroFL(), rounds=1, budget=SparsityBudget([Tier(0.065, 0.5), Tier(0.2, 0.5)]))
    assert loop.server.layout.maskable == 944
    small, large = (int(mask.count_nonzero()) for mask in loop.tier_masks)
    assert small == 9 * 6 + 4 <= 0.065 * 944 and small < large <= 0.2 * 944  # one channel of each layer
    with pytest.raises(ConfigError, match="9 weights.* 58") as error:
        train(HeteroFL(), 0.2, rounds=1, budget=SparsityBudget([Tier(0.01, 0.5), Tier(0.2, 0.5)]))
    assert error.value.key == "density"


def test_sparsyfed_keeps_one_percent_of_saved_inputs_at_least():
    for density, kept in ((0.001, 10), (0.02, 20)):
        layer = nn.Linear(1000, 3)
        client = SimpleNamespace(module=nn.Sequential(layer), densities=torch.tensor([density], dtype=torch.float64))
        client.layout = Layout(client.module)
        with SparsyFed().training(client):
            layer(torch.randn(1, 1000)).sum().backward()
        assert layer.weight.grad.count_nonzero(1).tolist() == [kept] * 3


def test_classes_stay_whatever_is_not_masked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 20, 3)
            self.fc1, self.fc2 = nn.Linear(20, 50), nn.Linear(50, 10)

    for exclude, bias in product((["conv2"], ["fc1"], ["conv1"]), (True, False)):
        net = Net()
        net.fc2.bias = net.fc2.bias if bias else None
        layout = Layout(net, exclude)
        assert layout.layers[-1].view(channel_mask(layout, 0.3)).any(1).all(), exclude


def test_weights_can_be_adapted_to_the_inputs_that_whole_channels_leave():
    """Not to the channels that are gone: each of those that stay sums as many inputs as a narrow network's."""
    layout = Layout(Network(), exclude_first_last=True)
    server = ServerState.start(layout, torch.ones(layout.size), 0.3)
    HeteroFL(FirstMask(initialize=FanInPreserving())).start(server, None, torch.Generator())
    for slot in layout.layers:
        mask = slot.view(server.mask).flatten(1)
        fed = mask.any(0).float().mean()
        weights = slot.view(server.weights).flatten(1)[mask]
        assert not mask.any(1).all() and bool(fed < 1) is (slot.name == "fc1.weight")
        torch.testing.assert_close(weights, (fed**-0.5).expand_as(weights))


def test_the_scaler_of_heterofl_leaves_classes_alone():
    class Client:
        module = Network()
        layout = Layout(module)
        context = ClientContext(0, 0, 1, 1, seed=0, tier=0)

    scheduler = HeteroFL()
    scheduler.ratios = [Fraction(1, 2), Fraction(1)]
    images = torch.randn(2, 1, 8, 8)
    plain = Client.module.conv1(images)
    with scheduler.training(Client()):
        scaled = [name for name, part in Client.module.named_modules() if part._forward_hooks]
        torch.testing.assert_close(Client.module.conv1(images), plain / 0.5)
    assert scaled == ["conv1", "conv2", "fc1"]


def test_fiarse_keeps_the_weights_that_nobody_holds():
    torch.manual_seed(5)
    first = {}

    class Remembering(FIARSE):
        def start(self, server, measured, generator):
            super().start(server, measured, generator)
            first["weights"] = server.weights.clone()

    loop, watch = watched(Remembering())
    layout = loop.server.layout
    never = ~torch.stack([mask for _, _, mask, _ in watch.reports]).any(0)
    assert never.sum() > 0.5 * layout.maskable
    now, before = loop.server.weights[: layout.maskable], first["weights"][: layout.maskable]
    assert torch.equal(now[never], before[never]) and before[never].all()
    assert torch.equal(loop.server.mask, top_k(now.abs(), round(0.2 * layout.maskable)))


@pytest.mark.parametrize("make", [FIARSE, HeteroFL])
def test_holders_of_a_weight_count_alike(make):
    """However many samples they have."""
    average = make().aggregator(2)
    average.reset(torch.zeros(2), 2, [9, 1])
    for client, (samples, weights) in enumerate([(9, [1.0, 1.0]), (1, [3.0, 0.0])]):
        mask = torch.tensor(weights) != 0
        average.add(ClientUpdate(client, samples, mask, torch.ones(1), torch.ones(1)), torch.tensor(weights), mask)
    torch.testing.assert_close(average.mean(), torch.tensor([2.0, 1.0]))


def test_fiarse_with_importance_steps_by_the_biased_gradient():
    class Looking(FIARSE):
        def on_gradients(self, client, step):
            before = client.gradients()
            super().on_gradients(client, step)
            if step == 0:
                held = client.weights.abs()[client.mask]
                factor = 1 + 2 * held.min() * held / (held + held.min()) ** 2
                torch.testing.assert_close(client.gradients()[client.mask], before[client.mask] * factor)
                factors.append(factor)

    factors = []
    train(Looking(importance=True), 0.2, rounds=1)
    assert len(factors) == 3 and all(1 < factor.min() and factor.max() == 1.5 for factor in factors)


def test_fedrts_believes_as_the_formula_says():
    layout = Layout(nn.Linear(4, 2, bias=False))
    weights = torch.tensor([5.0, 4, 3, 2, 0, 0, 0, 0])
    server = ServerState.start(layout, weights, 0.5)
    mask = weights != 0
    scheduler = FedRTS(gamma=0.25, rho=2.0, prune_rate=0.5, decay=Constant(), interval=LastStep(rounds=2))
    scheduler.start(server, None, torch.Generator().manual_seed(1))
    server.weights.copy_(weights)
    server.mask = mask
    tops = [[1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    grown = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 1, 0]]
    updates = [
        ClientUpdate(
            client=i,
            samples=n,
            mask=mask,
            densities=torch.ones(1),
            trained_densities=torch.ones(1),
            extra={"top": torch.tensor(tops[i]).bool(), "grown": torch.tensor(grown[i]).bool()},
        )
        for i, n in enumerate((1, 3))
    ]
    scheduler.on_aggregate(server, updates, round=0)
    o = torch.tensor(
        [0.75 + 0.25 * 0.25, 0.75 + 0.25, 0.25 * 0.75, 0, 0.375 + 0.25, 0.375 + 0.0625, 0.375 + 0.1875, 0.375]
    )
    torch.testing.assert_close(scheduler.posteriors.counts, 1 + 2 * torch.stack([o, 1 - o]).double())
    assert int(server.mask.sum()) == 4
    before = scheduler.posteriors.counts.clone()
    server.weights.copy_(weights)
    server.mask = mask
    scheduler.on_aggregate(server, updates, round=1)  # only active weights are seen in a round without moves
    changed = (scheduler.posteriors.counts != before).any(0)
    assert torch.equal(changed, mask) and torch.equal(server.mask, mask)


def test_feddst_keeps_what_only_devices_that_are_away_hold():
    """Cohorts of small devices alone, after a round in which masks move and after one in which they stay."""
    for interval in (LastStep(rounds=4), LastStep()):
        zeros = []

        class Look(Callback):
            def on_client_end(self, loop, update):
                assert update.tier == 0

            def on_round_end(self, loop, row, zeros=zeros):
                weights, small = loop.server.weights[: loop.server.layout.maskable], loop.tier_masks[0]
                zeros.append(int((weights[loop.server.mask & ~small] == 0).sum()))

        budget = SparsityBudget([Tier(0.05, 0.8), Tier(0.2, 0.2)])
        train(FedDST(interval=interval), 0.2, rounds=2, budget=budget, callbacks=[Look()])
        assert max(zeros) < 50  # of some 140: places for what has grown


@pytest.mark.parametrize("kind", [FedDST, FedRTS])
def test_masks_may_move_by_the_gradient_of_one_more_batch_after_training(kind):
    """The batch is another one, its gradient is that of the trained weights, and no step is taken with it."""
    seen = []

    def note(client, step):
        seen.append((client.arena.clone(), client.batch, client.gradients(), step == client.context.steps))

    class Looking(kind):
        def on_dense_gradients(self, client, step):
            note(client, step)
            super().on_dense_gradients(client, step)

        def on_gradients(self, client, step):
            note(client, step)

    make = {"interval": AfterTraining(), "decay": Constant()}
    loop, watch = watched(Looking(**make), rounds=1, backend="dense")
    plain, plain_watch = watched(kind(interval=LastStep(), decay=Constant()), rounds=1, backend="dense")
    *steps, (weights, (images, labels), gradient, after) = seen
    assert after and len(steps) > 1
    assert loop.metrics["flops"] > plain.metrics["flops"] and loop.metrics["train_loss"] == plain.metrics["train_loss"]
    module = Classifier(Network(), classes=4).to(memory_format=torch.channels_last)
    layout = Layout(module, exclude_first_last=True)
    layout.flatten_(module).copy_(weights)
    F.cross_entropy(module(images), labels).backward()
    expected = torch.cat([module.get_parameter(layer.name).grad.flatten() for layer in layout.layers])
    grown = torch.cat([layer.view(gradient).contiguous().flatten() for layer in layout.layers])
    torch.testing.assert_close(grown, expected)
    kept = watch.reports[0][2] & plain_watch.reports[0][2]  # in both masks at the end: trained, and not moved since
    size = layout.maskable
    assert torch.equal(watch.reports[0][1][:size][kept], plain_watch.reports[0][1][:size][kept])


def test_a_loss_that_is_not_finite_in_the_batch_after_training_is_a_failure():
    class Bad(FedDST):
        def wants_batch_after_training(self, client):
            client.arena[client.layout.maskable :].fill_(torch.nan)
            return True

    with pytest.raises(ClientError, match="training diverged: its loss is not finite"):
        train(Bad(interval=AfterTraining(), decay=Constant()), 0.2, rounds=1)


def test_fedrts_ranks_as_many_of_the_average_whoever_comes_first():
    found = []
    for order in (1, -1):

        class Looking(FedRTS):
            def on_aggregate(self, server, updates, round, order=order):
                assert len({update.tier for update in updates}) == 2
                super().on_aggregate(server, updates[::order], round)
                found.append(self.posteriors.counts.clone())

        train(Looking(interval=LastStep(), decay=Cosine(rounds=3)), 0.2, rounds=1, budget=TWO_TIERS)
    torch.testing.assert_close(*found)


def test_networks_of_the_setting_have_masks():
    assert Layout(Network(), exclude_first_last=True).maskable == 6 * 8 * 9 + 32 * 16
