"""A round: what is sent, averaged and evaluated."""

import random
import re
from dataclasses import replace
from itertools import combinations, product, starmap
from pathlib import Path
from statistics import fmean

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader

import flash_pl
from flash_pl import NST, PDST, SPDST, Classifier, ConfigError, Dense, FederatedTrainer, ModuleError, RoundDecay
from flash_pl.callbacks import Callback, History
from flash_pl.loops import Participant, server_model
from flash_pl.loops.round_metrics import logged_metrics
from flash_pl.schedulers import Sensitivity
from flash_pl.server import ClientUpdate, SampleWeightedSampler, UniformSampler
from flash_pl.server.votes import vote_share
from flash_pl.sparsity import AsDrawn, FirstMask, SparsityBudget, Tier, VariancePreserving, mismatch


def test_one_dense_round_is_federated_averaging_by_hand(unaware, tiny_data):
    """Two clients of different size, trained apart with plain PyTorch, then averaged by samples."""
    torch.manual_seed(3)
    module = unaware(momentum=0.0, weight_decay=0.0)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = FederatedTrainer(Dense(), density=1.0, rounds=1, cohort=2, seed=5, accelerator="cpu")
    loop = trainer.loop(module, tiny_data)
    cohort = [member.client for member in loop.plan.sample_cohort(0)]
    expected = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    for client in cohort:
        model = unaware()
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = tiny_data.client_batches(client)
        for images, labels in batches.shuffled(
            loop.plan.context(Participant(client, 0, 20, 20), len(batches), 0).generator("batches")
        ):
            loss = nn.functional.cross_entropy(model.net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            expected[name] += value * batches.samples / sum(tiny_data.client_sizes[c] for c in cohort)
    loop.run()
    for slot in loop.server.layout.slots:
        torch.testing.assert_close(slot.view(loop.server.weights), expected[slot.name].float(), rtol=1e-4, atol=1e-6)


def test_updates_weigh_as_the_sampler_asks(unaware, tiny_data):
    seen = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            seen.append((update.samples, update.weight))

    for sampler in (UniformSampler(), SampleWeightedSampler()):
        trainer = FederatedTrainer(
            PDST(), density=0.5, rounds=1, cohort=2, sampler=sampler, callbacks=[Watch()], accelerator="cpu"
        )
        trainer.fit(unaware(), tiny_data)
    assert all(weight == samples for samples, weight in seen[:2])
    assert [weight for _, weight in seen[2:]] == pytest.approx([1.0, 1.0])
    weighed = [replace(update(20, True), metrics={"a": 1.0}), replace(update(60, False), metrics={"a": 2.0})]
    assert logged_metrics(weighed) == {"a": 1.75} and vote_share(weighed).tolist() == [0.25]
    equal = [replace(one, weight=1.0) for one in weighed]
    assert logged_metrics(equal) == {"a": 1.5} and vote_share(equal).tolist() == [0.5]


def update(samples, active):
    densities = torch.ones(1, dtype=torch.float64)
    return ClientUpdate(0, samples, torch.tensor([active]), densities, densities)


def test_batch_norm_statistics_are_averaged(unaware, tiny_data):
    loop = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=4, accelerator="cpu").fit(unaware(), tiny_data)
    slots = {slot.name: slot for slot in loop.server.layout.slots}
    assert slots["net.1.running_mean"].view(loop.server.weights).abs().sum() > 0


def test_learning_rates_follow_the_round(unaware, tiny_data):
    rates = []

    class Spy(Callback):
        def on_client_end(self, loop, update):
            with loop.client.rates.applied():
                rates.append(loop.client.optimizer.param_groups[0]["lr"])

    trainer = FederatedTrainer(
        PDST(), rounds=3, cohort=1, density=0.5, decay=RoundDecay(0.01, 2), accelerator="cpu", callbacks=[Spy()]
    )
    trainer.fit(unaware(), tiny_data)
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_masked_and_union_models_are_told_apart(unaware, tiny_data):
    loop = FederatedTrainer(NST(), density=0.2, rounds=2, cohort=4, accelerator="cpu").fit(unaware(), tiny_data)
    assert loop.metrics["density"] == pytest.approx(0.2, abs=1e-3) and loop.metrics["density_union"] > 0.22
    loop.client.attach_()
    with loop.client.backend:  # other kernels round in another way
        masked = loop.evaluator.loop.run(loop.client, loop.server.masked(), tiny_data.val_dataloader())
        union = loop.evaluator.loop.run(loop.client, loop.server.union, tiny_data.val_dataloader())
    assert loop.metrics["val_loss"] == masked["val_loss"]
    assert loop.metrics["val_loss_union"] == union["val_loss"] != masked["val_loss"]


def test_every_layer_has_its_mismatches(unaware, tiny_data):
    """FLASH, "Measures": among the clients, between them and the server, and between its mask and the one before."""
    masks, servers = [], []

    class Look(Callback):
        def on_first_mask(self, loop):
            servers.append(loop.server.mask)

        def on_client_end(self, loop, update):
            masks.append(update.mask)

        def on_round_end(self, loop, row):
            servers.append(loop.server.mask)

    trainer = FederatedTrainer(NST(), density=0.2, rounds=1, cohort=3, accelerator="cpu", callbacks=[Look()])
    loop = trainer.fit(unaware(), tiny_data)
    before, after = servers
    pairs = {"mismatch_clients": combinations(masks, 2), "mismatch_server": product(masks, [after])}
    pairs["mismatch_temporal"] = [(after, before)]
    for name, compared in pairs.items():
        compared = list(compared)
        assert 0 < loop.metrics[name] == pytest.approx(fmean(starmap(mismatch, compared)))
        split = [zip(*map(loop.server.layout.split, pair), strict=True) for pair in compared]
        expected = [fmean(starmap(mismatch, parts)) for parts in zip(*split, strict=True)]
        assert loop.layer_mismatch[name] == pytest.approx(expected)


def test_the_model_of_a_loop_is_what_a_device_gets(unaware, tiny_data):
    module = unaware()
    loop = FederatedTrainer(NST(), density=0.2, rounds=2, cohort=3, accelerator="cpu").fit(module, tiny_data)
    model = server_model(loop)
    assert model.active == int(loop.server.mask.sum()) < int((loop.server.union != 0).sum())
    assert model.facts == {"scheduler": "NST", "density": f"{loop.metrics['density']:.4g}", "round": "2"}
    dense = FederatedTrainer(Dense(), density=0.2, rounds=1, cohort=1, accelerator="cpu").fit(unaware(), tiny_data)
    assert server_model(dense).facts["density"] == "1" and server_model(dense).density == 1.0
    assert all(tensor.is_contiguous() for tensor in [*model.tensors.values(), *model.masks.values()])
    for slot in loop.server.layout.slots:
        assert torch.equal(model.tensors[slot.name], slot.view(loop.server.masked()))
    assert all(not model.tensors[name][~mask].any() for name, mask in model.masks.items())
    unaware().load_state_dict(model.tensors)
    FederatedTrainer(PDST(), density=0.2, rounds=1, cohort=3, accelerator="cpu").fit(module, tiny_data)
    again = server_model(loop)  # although the module holds the other run's weights now
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in model.tensors.items())


def test_the_stages_share_initial_weights_but_no_trained_ones(unaware, tiny_data):
    """What stage 1 trains is thrown away: the server still has its initial weights when stage 2 begins."""
    torch.manual_seed(0)
    module = unaware()
    initial = {name: value.clone() for name, value in module.state_dict().items()}
    scheduler = SPDST(sensitivity=Sensitivity(init_fraction=0.5, epochs=2), first_mask=FirstMask(initialize=AsDrawn()))
    loop = FederatedTrainer(scheduler, density=0.2, rounds=1, cohort=1, accelerator="cpu").loop(module, tiny_data)
    loop.make_first_mask()
    kept = torch.ones_like(loop.server.weights)
    kept[: loop.server.layout.maskable] = loop.server.mask
    for slot in loop.server.layout.slots:
        assert torch.equal(slot.view(loop.server.weights), initial[slot.name] * slot.view(kept))
    densities = loop.server.layout.densities(loop.server.mask)
    assert densities.max() - densities.min() > 0.05


def test_stage_1_starts_from_weights_adapted_to_its_mask(unaware, tiny_data):
    loop = FederatedTrainer(SPDST(), density=0.25, rounds=1, cohort=1, accelerator="cpu").loop(unaware(), tiny_data)
    layout, drawn, received, train = loop.server.layout, loop.client.arena.clone(), [], loop.local.run

    def spy(client, scheduler, batches, context):
        received.append((client.arena.clone(), client.mask))
        return train(client, scheduler, batches, context)

    loop.local.run = spy
    loop.make_first_mask()
    weights, mask = received[0]
    assert layout.densities(mask).tolist() == pytest.approx([0.25, 0.25, 0.25], abs=1e-3)
    masks, scales = layout.split(mask), [1, 2, 2]  # a normalization follows the first layer
    for got, before, kept, scale in zip(layout.split(weights), layout.split(drawn), masks, scales, strict=True):
        torch.testing.assert_close(got, scale * before * kept, rtol=1e-3, atol=0)


def scales_of_initial_weights(loop) -> list[float]:
    """By how much the first mask has scaled the weights that it keeps, one factor for each layer."""
    before, layout = loop.server.weights.clone(), loop.server.layout
    loop.make_first_mask()
    after, scales = loop.server.weights, []
    for old, new in zip(layout.split(before), layout.split(after), strict=True):
        scale = new[new != 0] / old[new != 0]
        torch.testing.assert_close(scale, scale.mean().expand_as(scale))
        scales.append(float(scale.mean()))
    assert torch.equal(before[layout.maskable :], after[layout.maskable :])
    return scales


def test_initial_weights_are_scaled_where_no_normalization_follows(unaware, tiny_data):
    """``Unaware`` is a convolution, its norm and two linear layers; 1 / sqrt(d) is 2."""
    trainer = FederatedTrainer(PDST(), density=0.25, rounds=1, cohort=1, accelerator="cpu")
    assert isinstance(trainer.scheduler.first_mask.initialize, VariancePreserving)
    assert scales_of_initial_weights(trainer.loop(unaware(), tiny_data)) == pytest.approx([1, 2, 2])


def test_the_initial_weights_do_not_depend_on_the_evaluation(unaware, tiny_data):
    class Unevaluated(unaware):
        validation_step = L.LightningModule.validation_step

    trainer = FederatedTrainer(PDST(), density=0.25, rounds=1, cohort=1, accelerator="cpu")
    assert scales_of_initial_weights(trainer.loop(Unevaluated(), tiny_data)) == pytest.approx([1, 2, 2])


@pytest.mark.parametrize(("failing", "scales"), [(2, [1, 2, 2]), (3, [2, 2, 2])])
def test_a_client_that_cannot_be_trained_does_not_stop_the_trial(unaware, tiny_data, failing, scales):
    """The next client takes its place; after the third failure nothing is known of the layers."""

    class Failing(unaware):
        steps = 0

        def training_step(self, batch, batch_idx):
            Failing.steps += 1
            if Failing.steps <= failing:
                raise RuntimeError("damaged samples")
            return super().training_step(batch, batch_idx)

    trainer = FederatedTrainer(PDST(), density=0.25, rounds=1, cohort=1, accelerator="cpu")
    loop = trainer.loop(Failing(), tiny_data)
    assert scales_of_initial_weights(loop) == pytest.approx(scales)
    assert Failing.steps > failing or failing == 3


def test_the_trial_leaves_the_model_as_it_is(unaware, tiny_data):
    """The module, which has a batch norm, begins its first client with what it had before ``fit``."""
    seen = []

    class Spy(unaware):
        def on_train_start(self):
            seen.append({name: value.clone() for name, value in self.state_dict().items()})

    module = Spy()
    trainer = FederatedTrainer(PDST(), density=0.99, rounds=1, cohort=1, accelerator="cpu")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loop = trainer.loop(module, tiny_data)
    with trainer.running(loop):
        loop.make_first_mask()
    assert len(seen) >= 2
    torch.testing.assert_close(seen[0], before, rtol=0, atol=0)
    layout = loop.client.layout
    torch.testing.assert_close(loop.client.arena[layout.maskable :], loop.server.weights[layout.maskable :])
    assert seen[0].keys() == before.keys() and not torch.equal(seen[1]["net.0.weight"], before["net.0.weight"])


def test_clients_of_a_tier_get_its_density(unaware, tiny_data):
    seen = {}

    class Spy(Callback):
        def on_client_end(self, loop, update):
            seen[update.client] = float(update.mask.float().mean())

    tiers = [Tier(0.1, 0.5), Tier(0.2, 0.5)]
    trainer = FederatedTrainer(
        PDST(), density=0.2, rounds=1, cohort=8, budget=SparsityBudget(tiers), accelerator="cpu", callbacks=[Spy()]
    )
    loop = trainer.fit(unaware(), tiny_data)
    assert sorted(round(density, 2) for density in seen.values()) == [0.1] * 4 + [0.2] * 4
    assert all(round(seen[c], 2) == tiers[loop.plan.population.tiers[c]].density for c in seen)


def test_the_callers_random_state_is_left_alone(unaware, tiny_data):
    module = unaware()
    state, python, numpy = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(module, tiny_data)
    assert torch.equal(state, torch.random.get_rng_state())
    assert random.getstate() == python and (np.random.get_state()[1] == numpy).all()


def test_a_modules_own_draws_repeat_whatever_it_draws_with(unaware, tiny_data):
    class Noisy(unaware):
        def training_step(self, batch, batch_idx):
            scale = random.random() + np.random.rand() + float(torch.rand(()))
            return scale * super().training_step(batch, batch_idx)

    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        loop = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(Noisy(), tiny_data)
        weights.append(loop.server.weights)
    assert torch.equal(*weights)


def test_a_network_is_wrapped_into_a_classifier(tiny_data):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    trainer = FederatedTrainer(PDST(), density=0.5, rounds=4, cohort=8, local_epochs=3, accelerator="cpu")
    loop = trainer.fit(Classifier(network, classes=4), tiny_data)
    assert loop.metrics["val_acc"] > 0.5  # four classes, so 0.25 by chance
    assert trainer.validate(loop.client.module, tiny_data)["val_acc"] == loop.metrics["val_acc"]


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"density": 0.0}, "0.0"),
        ({"density": 1.2}, "1.2"),
        ({"density": 1e-5, "cohort": 2}, "1e-05 of 2404"),
        ({"gradient_clip_val": -1.0}, "-1.0"),
        ({"gradient_clip_val": float("nan")}, "nan"),
        ({"gradient_clip_val": "1"}, "'1'"),
        ({"gradient_clip_algorithm": "l2"}, "'l2'"),
        ({"timeout": 0}, "0"),
        ({"timeout": float("nan")}, "nan"),
        ({"num_nodes": 0}, "0"),
        ({"precision": 16}, "16"),
        ({"deterministic": "yes"}, "'yes'"),
        ({"compile": "no"}, "'no'"),
        ({"channels_last": 1}, "1"),
        ({"exclude": "net.0"}, "'net.0'"),
        ({"rounds": 0}, "0"),
        ({"callbacks": History()}, "History"),
        ({"callbacks": [History]}, "History"),
        ({"callbacks": [lambda loop, row: None]}, "function"),
        ({"callbacks": [EarlyStopping("val_acc")]}, "EarlyStopping"),
        ({"logger": "tensorbord"}, "'tensorbord'"),
        ({"cohort": 9}, "9 .*8"),
        ({"budget": SparsityBudget([Tier(0.1, 1.0)])}, "0.1 .*0.2"),
    ],
)
def test_impossible_settings_are_named(unaware, tiny_data, settings, value):
    with pytest.raises(ConfigError, match=value) as error:
        FederatedTrainer(PDST(), **({"density": 0.2, "accelerator": "cpu"} | settings)).fit(unaware(), tiny_data)
    assert error.value.key == next(iter(settings))


def test_a_network_alone_is_no_module(tiny_data):
    with pytest.raises(ModuleError, match="^Sequential is not a LightningModule; flash_pl.Classifier"):
        FederatedTrainer(PDST(), density=0.2, cohort=2, accelerator="cpu").fit(nn.Sequential(), tiny_data)


@pytest.mark.parametrize("data", [[], nn.Linear(1, 1), DataLoader([1])])
def test_data_without_clients_are_one_line(unaware, data):
    with pytest.raises(ConfigError, match=f"data: .*{type(data).__name__}"):
        FederatedTrainer(PDST(), density=0.2, cohort=2, accelerator="cpu").fit(unaware(), data)


def test_every_hook_of_a_callback_is_called():
    files = Path(flash_pl.__file__).parent.rglob("*.py")
    called = {name for path in files for name in re.findall(r'_hooks\([\w.,\s]*"(\w+)"', path.read_text())}
    assert called == {name for name in vars(Callback) if name.startswith("on_")}


def test_a_callback_may_end_the_run(unaware, tiny_data):
    class Stop(Callback):
        def on_round_end(self, loop, row):
            loop.should_stop = row["round"] == 2

    settings = {"density": 0.2, "rounds": 9, "cohort": 2, "accelerator": "cpu"}
    assert FederatedTrainer(PDST(), callbacks=[Stop()], **settings).fit(unaware(), tiny_data).round == 2
