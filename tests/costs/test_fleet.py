"""Bytes and FLOPs become the seconds of a fleet, and a deadline leaves the late ones out."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl import FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.config.shipped import fragment, names
from flash_pl.costs import Clock, Device, Fleet
from flash_pl.errors import ConfigError
from flash_pl.schedulers import JMWST, NST, PDST, Sensitivity, SparseScheduler

SLOW, FAST = Device("slow", 1e6, 5e5, 1e8, 0.25), Device("fast", 1e8, 5e7, 1e10, 0.75)


class Watch(Callback):
    """Keeps rows, the reports' seconds and a copy of what each client sent."""

    def __init__(self):
        self.rows, self.seconds, self.sent = [], [], []

    def on_client_end(self, loop, update):
        self.seconds.append(update.seconds)
        self.sent.append((update.client, update.samples, loop.client.arena.clone(), update.mask.clone()))

    def on_round_end(self, loop, row):
        self.rows.append({name: value for name, value in row.items() if not name.startswith("seconds")})


def train(module, data, fleet, scheduler: SparseScheduler | None = None, rounds=3, seed=1, start=None, callbacks=()):
    watch = Watch()
    trainer = FederatedTrainer(
        scheduler or PDST(),
        density=0.3,
        rounds=rounds,
        cohort=4,
        seed=seed,
        fleet=fleet,
        accelerator="cpu",
        callbacks=[watch, *callbacks],
    )
    torch.manual_seed(0)
    return trainer.fit(module(), data, ckpt_path=start), watch


def test_a_device_receives_computes_and_sends():
    assert SLOW.seconds(down=1e6, flops=3e8, up=5e5) == 8 + 3 + 8


@given(st.integers(1, 200), st.integers(0, 5), st.booleans())
def test_every_client_has_one_device_for_life(clients, seed, tiered):
    fleet = Fleet([FAST, SLOW])
    tiers = [client % 3 for client in range(clients)] if tiered else None
    dealt = fleet.assign(clients, tiers, seed)
    counts = Counter(device.kind for device in dealt)
    assert sum(counts.values()) == clients and abs(counts["slow"] - clients / 4) <= 1
    assert dealt == fleet.assign(clients, tiers, seed)
    if tiers is not None:  # whoever has the slow device affords no more than anybody with a fast one
        most = max((tiers[client] for client in range(clients) if dealt[client] is SLOW), default=0)
        assert most <= min((tiers[client] for client in range(clients) if dealt[client] is FAST), default=2)


def test_the_slowest_client_ends_a_round_and_the_deadline_does_where_one_is_late():
    waiting, strict = Clock([SLOW], None), Clock([SLOW], deadline=5.0)
    assert waiting.add_round([[1.0, 7.0, 3.0]]) == {"fleet_seconds": 7.0, "fleet_seconds_total": 7.0}
    assert strict.add_round([[1.0, 7.0, 6.0]]) == {"fleet_seconds": 5.0, "fleet_seconds_total": 5.0, "late": 2}
    assert strict.add_round([[1.0, 3.0]]) == {"fleet_seconds": 3.0, "fleet_seconds_total": 8.0, "late": 0}
    assert Clock([SLOW], 5.0).add_round([[7.0], [2.0], [1.0, 3.0]]) == {
        "fleet_seconds": 5.0 + 2.0 + 3.0,
        "fleet_seconds_total": 10.0,
        "late": 0,
    }
    strict.add_first_stage([9.0, 2.0])
    assert strict.add_round([[]]) == {"fleet_seconds": 0.0, "fleet_seconds_total": 17.0, "late": 0}
    fresh = Clock([SLOW], deadline=5.0)
    fresh.load_state_dict(strict.state_dict())
    assert fresh.total == 17.0


def test_without_a_deadline_a_fleet_changes_nothing(unaware, tiny_data):
    plain, _ = train(unaware, tiny_data, None)
    loop, watch = train(unaware, tiny_data, Fleet([FAST, SLOW]))
    assert torch.equal(plain.server.weights, loop.server.weights)
    for place, row in enumerate(watch.rows):
        assert row["fleet_seconds"] == max(watch.seconds[4 * place : 4 * place + 4]) > 0
        assert "late" not in row
    assert watch.rows[-1]["fleet_seconds_total"] == pytest.approx(sum(row["fleet_seconds"] for row in watch.rows))
    assert loop.ledger.totals["fleet_seconds"] == watch.rows[-1]["fleet_seconds_total"]


def test_a_clients_seconds_follow_from_its_bytes_and_flops(unaware, tiny_data):
    one = Device("only", 1e6, 5e5, 1e8)
    loop, watch = train(unaware, tiny_data, Fleet([one]), rounds=1)
    row, flops = watch.rows[0], loop.ledger.flops
    # Four clients of 20 samples under one mask: each costs a quarter.
    compute = 20 * flops.training(loop.server.layout.densities(loop.server.mask)) / one.flops
    links = 8 * row["bytes_down"] / 4 / one.downlink + 8 * row["bytes_up"] / 4 / one.uplink
    assert row["fleet_seconds"] == pytest.approx(compute + links)


def test_stage_1_takes_time_too(unaware, tiny_data):
    stage = Sensitivity(init_fraction=0.25, epochs=2)
    _, watch = train(unaware, tiny_data, Fleet([FAST, SLOW]), JMWST(sensitivity=stage))
    assert watch.rows[0]["fleet_seconds_total"] > watch.rows[0]["fleet_seconds"]


@pytest.mark.parametrize("scheduler", [PDST, NST])
def test_whoever_is_late_is_left_out(scheduler, unaware, tiny_data):
    _, free = train(unaware, tiny_data, Fleet([FAST, SLOW]), scheduler(), seed=3)
    fast = max(second for second in free.seconds if second < 0.1 * max(free.seconds))
    loop, watch = train(unaware, tiny_data, Fleet([FAST, SLOW], deadline=1.5 * fast), scheduler(), seed=3)
    assert any(row["late"] for row in watch.rows) and any(row["participants"] for row in watch.rows)
    for row, waited in zip(watch.rows, free.rows, strict=True):
        assert row["late"] + row["participants"] == 4
        assert (
            row["fleet_seconds"] == 1.5 * fast < waited["fleet_seconds"] if row["late"] else row["fleet_seconds"] < fast
        )
        # The late ones have received a model, and have sent nothing.
        assert (row["bytes_up_values"] > 0) == (row["participants"] > 0)
        assert row["bytes_down_values"] > row["bytes_up_values"] or not row["late"]
    # The last round that had a report is the sample-weighted average of the reports in time.
    last = max(place for place, row in enumerate(watch.rows) if row["participants"])
    count, skipped = watch.rows[last]["participants"], sum(row["participants"] for row in watch.rows[:last])
    reports = watch.sent[skipped : skipped + count]
    mean = sum(samples * weights.double() for _, samples, weights, _ in reports)
    mean /= sum(samples for _, samples, _, _ in reports)
    torch.testing.assert_close(loop.server.union.double(), mean, rtol=1e-5, atol=1e-6)


def test_the_server_remembers_the_mask_that_it_sent_to_a_late_client(unaware, tiny_data):
    """The client has moved its mask, but its update never arrives."""
    loop, watch = train(unaware, tiny_data, Fleet([SLOW, FAST], deadline=1e-9), NST(), rounds=2)
    assert not watch.sent and [row["late"] for row in watch.rows] == [4, 4]
    shared = loop.scheduler.state_dict()["shared_masks"][0]
    masks = [loop.ledger.link.masks.get(client) for client in range(8)]
    assert sum(mask is not None for mask in masks) >= 4
    assert all(torch.equal(mask, shared) for mask in masks if mask is not None)


def test_a_round_of_late_clients_only_leaves_the_server_as_it_is(unaware, tiny_data):
    loop, watch = train(unaware, tiny_data, Fleet([FAST, SLOW], deadline=1e-9), rounds=2)
    assert [row["participants"] for row in watch.rows] == [0, 0]
    assert watch.rows[-1]["fleet_seconds_total"] == pytest.approx(2e-9) and watch.rows[-1]["bytes_up"] == 0
    start, _ = train(unaware, tiny_data, None, rounds=1)
    assert torch.equal(loop.server.mask, start.server.mask)


def test_a_resumed_run_goes_on_at_its_time(unaware, tiny_data, tmp_path):
    fleet = Fleet([FAST, SLOW], deadline=0.05)
    whole, expected = train(unaware, tiny_data, fleet, rounds=4)
    train(unaware, tiny_data, fleet, rounds=2, callbacks=[Checkpoint(tmp_path)])
    resumed, watch = train(unaware, tiny_data, fleet, rounds=4, start=tmp_path / "last.ckpt")
    assert watch.rows == expected.rows[2:] and torch.equal(resumed.server.weights, whole.server.weights)


def test_a_module_whose_flops_cannot_be_counted_has_no_time(unaware, tiny_data):
    class Silent(unaware):
        def validation_step(self, batch, batch_idx):
            return None

    with pytest.raises(ConfigError, match="fleet: .* FLOPs"):
        train(Silent, tiny_data, Fleet([FAST, SLOW]))


@pytest.mark.parametrize(
    "devices, deadline, message",
    [
        ([Device("a", 0, 1, 1)], None, "devices.a.downlink: 0 is not a number above 0"),
        ([Device("a", 1, 1, math.inf)], None, "devices.a.flops: inf"),
        ([Device("a", 1, 1, 1, 0.5)], None, "shares .* do not sum to 1"),
        ([], None, "shares .* do not sum to 1"),
        ([FAST, SLOW], 0, "deadline: 0 "),
    ],
)
def test_impossible_fleets_are_refused(devices, deadline, message):
    with pytest.raises(ConfigError, match=message):
        Fleet(devices, deadline)


def test_shipped_fleets_of_one_kind_have_the_mixed_ones_devices():
    mixed = {device["kind"]: device for device in fragment("fleet", "mixed", "fleet")["init_args"]["devices"]}
    assert set(names("fleet")) == set(mixed) | {"mixed"}
    for kind, device in mixed.items():
        assert fragment("fleet", kind, "fleet")["init_args"]["devices"] == [device | {"share": 1.0}]
