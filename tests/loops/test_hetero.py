"""Rounds in which clients have different budgets, and clients that are evaluated one by one."""

import pytest
import torch

from flash_pl import JMWST, NST, PDST, SPDST, ConfigError, Dense, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.client import ClientState
from flash_pl.costs import Device, Fleet
from flash_pl.schedulers import Sensitivity, SparsyFed, TopK
from flash_pl.server import AvailabilitySampler, ClientSampler, MaskedAverage
from flash_pl.sparsity import PositionBudget, SparsityBudget, Tier

TIERS = [Tier(0.1, 0.5), Tier(0.2, 0.25), Tier(0.4, 0.25)]
STAGE_1 = Sensitivity(init_fraction=0.25, epochs=2)
METHODS = {
    "pdst": PDST,
    "spdst": lambda: SPDST(sensitivity=STAGE_1),
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "nst": NST,
}


class Watch(Callback):
    """Holds every report against the client's tier and every round against the nesting of its masks."""

    def __init__(self) -> None:
        self.rows, self.largest, self.tiers = [], [], {}

    def on_run_start(self, loop):
        self.initial = loop.server.weights.clone()

    def on_client_end(self, loop, update):
        layout, tier = loop.server.layout, loop.plan.budget.tiers[update.tier]
        assert int(update.mask.sum()) == round(tier.density / 0.4 * round(0.4 * layout.maskable)), (
            "a client trains exactly what its tier affords"
        )
        assert not loop.client.arena[: layout.maskable][~update.mask].any()
        self.tiers.setdefault(update.client, set()).add(update.tier)

    def on_round_end(self, loop, row):
        for smaller, larger in zip(loop.tier_masks, loop.tier_masks[1:], strict=False):
            assert bool((smaller <= larger).all())
        assert loop.tier_masks[-1] is loop.server.mask
        self.rows.append(row)
        self.largest.append(loop.server.mask.clone())


def run(method, unaware, data, **settings):
    torch.manual_seed(7)
    watch = Watch()
    settings = {"budget": SparsityBudget(TIERS), "rounds": 3, "cohort": 8} | settings
    trainer = FederatedTrainer(METHODS[method](), density=0.4, seed=1, accelerator="cpu", callbacks=[watch], **settings)
    return trainer.fit(unaware(), data), watch


def test_dense_training_has_every_weight_on_every_device(unaware, tiny_data):
    class Spy(Callback):
        def on_client_end(self, loop, update):
            reports.append((update.tier, bool(update.mask.all())))

    reports = []
    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.4, 0.5)])
    trainer = FederatedTrainer(
        Dense(), density=0.4, rounds=1, cohort=8, accelerator="cpu", callbacks=[Spy()], budget=budget
    )
    trainer.fit(unaware(), tiny_data)
    assert {tier for tier, _ in reports} == {0, 1} and all(whole for _, whole in reports)


@pytest.mark.parametrize("method", METHODS)
def test_clients_train_what_their_tier_affords(method, unaware, tiny_data):
    loop, watch = run(method, unaware, tiny_data)
    assert isinstance(loop.aggregator, MaskedAverage)
    assert all(tiers == {loop.plan.population.tiers[client]} for client, tiers in watch.tiers.items())
    fixed = all(torch.equal(mask, watch.largest[0]) for mask in watch.largest)
    assert fixed == (method in ("pdst", "spdst"))
    row = watch.rows[-1]
    for tier in TIERS:
        assert f"val_acc_d{tier.density:g}" in row and f"mismatch_server_d{tier.density:g}" in row
    assert row["val_loss_d0.4"] == row["val_loss"] and row["val_loss_d0.1"] != row["val_loss"]
    assert (row["mismatch_clients_d0.1"] > 0) == (method in ("jmwst", "nst"))
    assert row["mismatch_clients"] > row["mismatch_clients_d0.1"]


class Reference(Callback):
    """Computes every round's aggregate anew from what clients got and sent, and follows the unanimous drops."""

    def __init__(self) -> None:
        self.offered, self.reports = torch.empty(0), []
        self.dropped = self.not_offered = self.late = 0

    def on_first_mask(self, loop):
        self.before = loop.server.weights.clone()

    def on_client_end(self, loop, update):
        self.reports.append((update.samples, loop.client.weights.double(), update.mask, self.offered))

    def on_round_end(self, loop, row):
        self.late += row.get("late", 0)
        if not self.reports:
            return
        layout, union = loop.server.layout, loop.server.union[: loop.server.layout.maskable]
        samples, weights, masks, offered = zip(*self.reports, strict=True)
        held = sum(n * mask.double() for n, mask in zip(samples, masks, strict=True))
        mean = sum(n * w for n, w in zip(samples, weights, strict=True)) / held
        offered = torch.stack(offered).any(0)
        kept = self.before[: layout.maskable].double()
        expected = torch.where(held > 0, mean, torch.where(offered, 0.0, kept))
        torch.testing.assert_close(union.double(), expected, rtol=1e-6, atol=1e-7)

        dropped = offered & (held == 0)
        for gone, now, votes, mask in zip(*map(layout.split, (dropped, union, held, loop.server.mask)), strict=True):
            others = int(((now != 0) | (votes > 0)).count_nonzero())  # they rank before a 0 that nobody voted for
            assert int((mask & gone).count_nonzero()) <= max(0, int(mask.count_nonzero()) - others)
        self.dropped += int(dropped.count_nonzero())
        self.not_offered += int((~offered & (held == 0) & (kept != 0)).count_nonzero())
        self.before, self.reports = loop.server.weights.clone(), []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_offered_and_is_in_no_report_becomes_0(method, late, unaware, tiny_data, monkeypatch):
    """A weight that nobody was offered, or only clients that are late, keeps the server's value."""
    reference, receive = Reference(), ClientState.receive

    def remember(client, weights, mask):
        reference.offered = mask.clone()
        receive(client, weights, mask)

    monkeypatch.setattr(ClientState, "receive", remember)
    fleet = Fleet([Device("slow", 1, 1, 1, 0.25), Device("fast", 1e9, 1e9, 1e12, 0.75)], deadline=5.0) if late else None
    torch.manual_seed(7)
    trainer = FederatedTrainer(
        METHODS[method](),
        density=0.4,
        rounds=6,
        cohort=2,
        seed=1,
        accelerator="cpu",
        callbacks=[reference],
        budget=SparsityBudget(TIERS),
        fleet=fleet,
    )
    trainer.fit(unaware(), tiny_data)
    assert (reference.late > 0) == late
    assert reference.not_offered > 0 and (reference.dropped > 0) == (method in ("jmwst", "nst"))


def test_tiers_by_position_are_all_equal_in_round_0(unaware, tiny_data):
    budget = PositionBudget(TIERS)
    seen = []

    class Spy(Callback):
        def on_client_end(self, loop, update):
            seen.append(update.tier)

    trainer = FederatedTrainer(
        PDST(), density=0.4, rounds=2, cohort=4, accelerator="cpu", callbacks=[Spy()], budget=budget
    )
    trainer.fit(unaware(), tiny_data)
    assert seen == [2, 2, 2, 2, 0, 0, 1, 2]


def test_a_mask_of_another_tier_is_not_taken_up_again(unaware, tiny_data):
    """By position a client's tier changes; NST's clients then start from their new tier's part of the shared mask."""
    budget, seen = PositionBudget(TIERS), []

    class Spy(Callback):
        def on_client_end(self, loop, update):
            afforded = round(TIERS[update.tier].density * loop.server.layout.maskable)
            assert int(update.mask.sum()) == afforded
            again = loop.ledger.link.masks.get(update.client)
            seen.append(again is not None and int(again.sum()) == afforded)

    trainer = FederatedTrainer(
        NST(), density=0.4, rounds=6, cohort=8, accelerator="cpu", callbacks=[Spy()], budget=budget
    )
    trainer.fit(unaware(), tiny_data)
    assert any(seen) and not all(seen[8:])


def test_a_round_without_clients_leaves_the_server_as_it_is(unaware, tiny_data):
    class Nobody(ClientSampler):
        def __call__(self, population, cohort, seed, round):
            return [] if round == 1 else [0, 1]

    states = []

    class Spy(Callback):
        def on_round_end(self, loop, row):
            states.append((loop.server.weights.clone(), loop.server.mask.clone(), row))

    for method in ("jmwst", "nst"):
        states.clear()
        trainer = FederatedTrainer(
            METHODS[method](), density=0.4, rounds=3, cohort=2, sampler=Nobody(), accelerator="cpu", callbacks=[Spy()]
        )
        trainer.fit(unaware(), tiny_data)
        (first, mask, _), (second, same, row), (third, _, _) = states
        assert torch.equal(first, second) and torch.equal(mask, same) and not torch.equal(second, third)
        assert row["participants"] == row["moved"] == 0 and row["val_acc"] == states[0][2]["val_acc"]


def test_a_round_has_no_number_of_clients_that_it_did_not_have(unaware, tiny_data):
    class Few(ClientSampler):
        def __call__(self, population, cohort, seed, round):
            return list(range(2 - round))

    class Spy(Callback):
        def on_round_end(self, loop, row):
            rows.append(row)

    rows = []
    trainer = FederatedTrainer(
        METHODS["nst"](), density=0.4, rounds=3, cohort=2, sampler=Few(), accelerator="cpu", callbacks=[Spy()]
    )
    trainer.fit(unaware(), tiny_data)
    two, one, none = ([name for name in row if name.startswith(("mismatch", "in_"))] for row in rows)
    assert two == ["mismatch_clients", "mismatch_server", "mismatch_temporal", "in_all_masks", "in_one_mask"]
    assert one == two[1:] and none == ["mismatch_temporal"]
    # Costs are sums, and a sum over nobody is 0.
    costs = [name for name in rows[0] if name.startswith(("bytes", "flops"))]
    assert all(name in rows[2] for name in costs)
    for name in ("bytes_up", "bytes_down", "flops"):
        assert rows[2][name] == 0 < rows[2][f"{name}_total"] == rows[1][f"{name}_total"]


def test_offline_tiers_take_no_part(unaware, tiny_data):
    sampler = AvailabilitySampler([1.0, 1.0, 0.0])
    _, watch = run("spdst", unaware, tiny_data, sampler=sampler)
    assert {tier for tiers in watch.tiers.values() for tier in tiers} == {2}
    with pytest.raises(ConfigError, match=r"sampler.offline: \[0.5\] .*3 tiers"):
        run("spdst", unaware, tiny_data, sampler=AvailabilitySampler([0.5]))


def test_the_server_starts_with_nothing_outside_its_mask(unaware, tiny_data):
    """A masked average keeps what nobody holds; initial weights that were never trained must not be among it."""
    loop, _ = run("jmwst", unaware, tiny_data, rounds=1, cohort=1)
    held = loop.server.union[: loop.server.layout.maskable] != 0
    assert float(held.float().mean()) < 0.5


def test_every_client_is_evaluated_on_its_own_samples(unaware, tiny_data):
    evaluate = EvaluationSchedule(eval_clients_every=2, finetune_epochs=3)
    loop, watch = run("spdst", unaware, tiny_data, evaluate=evaluate, rounds=3)
    assert ["val_acc_clients" in row for row in watch.rows] == [False, True, True]
    server, expected, sizes = loop.server, [], []
    loop.client.attach_()
    for client in range(8):
        batches = tiny_data.client_val_batches(client)
        if batches.samples:
            weights = server.masked(loop.tier_masks[loop.plan.population.tiers[client]])
            expected.append(loop.evaluator.loop.run(loop.client, weights, batches)["val_acc"])
            sizes.append(batches.samples)
    assert sum(sizes) == 40
    row = watch.rows[-1]
    assert row["val_acc_clients"] == pytest.approx(sum(expected) / len(expected))
    assert row["val_acc_clients_lowest"] == pytest.approx(min(expected))
    assert row["val_acc_clients_highest"] == pytest.approx(max(expected))
    assert row["val_loss_finetuned"] < row["val_loss_clients"]


@pytest.mark.parametrize("method", ["pdst", "top k", "sparsyfed"])
def test_a_client_is_evaluated_with_what_its_device_gets(method, unaware, tiny_data):
    """Also where clients train a larger model than they would be given."""
    scheduler = {"pdst": PDST, "top k": TopK, "sparsyfed": SparsyFed}[method]()
    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.4, 0.5)])
    trainer = FederatedTrainer(scheduler, density=0.4, rounds=2, cohort=8, budget=budget, accelerator="cpu")
    loop = trainer.fit(unaware(), tiny_data)
    for member in loop.plan.everyone(2):
        _, mask, _ = loop.evaluator.client_model(loop.tier_masks, member, 2)
        assert int(mask.count_nonzero()) == round((0.1, 0.4)[member.tier] * loop.server.layout.maskable)


def test_evaluating_clients_changes_nothing_else(unaware, tiny_data):
    plain, _ = run("jmwst", unaware, tiny_data)
    watched, _ = run("jmwst", unaware, tiny_data, evaluate=EvaluationSchedule(eval_clients_every=1, finetune_epochs=1))
    assert torch.equal(plain.server.weights, watched.server.weights)
    assert torch.equal(plain.server.mask, watched.server.mask)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spdst", "jmwst", "nst"])
def test_hetero_runs_resume_and_validate_as_they_were(method, unaware, tiny_data, tmp_path):
    whole, _ = run(method, unaware, tiny_data, rounds=3, cohort=3)
    path = tmp_path / "last.ckpt"
    settings = {"density": 0.4, "seed": 1, "accelerator": "cpu", "budget": SparsityBudget(TIERS), "cohort": 3}
    torch.manual_seed(7)
    first = FederatedTrainer(METHODS[method](), rounds=2, callbacks=[Checkpoint(tmp_path)], **settings)
    first.fit(unaware(), tiny_data)
    second = FederatedTrainer(METHODS[method](), rounds=3, callbacks=[Checkpoint(tmp_path)], **settings)
    resumed = second.fit(unaware(), tiny_data, ckpt_path=path)
    assert torch.equal(whole.server.weights, resumed.server.weights)
    found = FederatedTrainer(METHODS[method](), **settings).validate(unaware(), tiny_data, ckpt_path=path)
    assert found == {name: whole.metrics[name] for name in found} and "val_acc_d0.1" in found
