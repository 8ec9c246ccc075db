"""Averages against a slow, readable reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flash_pl.seeding import generator
from flash_pl.server import FedAvg, MaskedAverage, ZeroingMaskedAverage
from flash_pl.server.updates import Report

MASKABLE, SIZE = 6, 9
clients = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2**MASKABLE - 1)), min_size=1, max_size=5)


def reports(drawn: list[tuple[int, int]], seed: int) -> list[Report]:
    made = []
    for client, (samples, bits) in enumerate(drawn):
        mask = torch.tensor([bool(bits >> i & 1) for i in range(MASKABLE)])
        weights = torch.randn(SIZE, generator=generator(seed, "weights", client=client))
        weights[:MASKABLE] *= mask
        made.append(Report(client, samples, weights, mask, torch.zeros(1), torch.zeros(1), {}))
    return made


def reference(server: Tensor, received: list[Report], by_samples: bool, masked: bool, zero: bool) -> list[float]:
    new = []
    for j in range(SIZE):
        holders = [r for r in received if j >= MASKABLE or not masked or r.mask[j]]
        weight = {id(r): r.samples if by_samples else 1 for r in holders}
        if holders:
            new.append(sum(weight[id(r)] * float(r.weights[j]) for r in holders) / sum(weight.values()))
        else:
            new.append(0.0 if zero else float(server[j]))
    return new


@pytest.mark.parametrize("by_samples", [True, False])
@pytest.mark.parametrize("kind", [FedAvg, MaskedAverage, ZeroingMaskedAverage])
@given(drawn=clients, seed=st.integers(0, 999))
def test_averages_equal_the_reference(kind, by_samples, drawn, seed):
    server = torch.randn(SIZE, generator=generator(seed, "server"))
    received = reports(drawn, seed)
    average = kind(by_samples)
    average.reset(server, MASKABLE, [report.samples for report in received])
    for report in received:
        average.update(report)
    expected = reference(server, received, by_samples, kind is not FedAvg, kind is ZeroingMaskedAverage)
    torch.testing.assert_close(average.compute(), torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-7)


def test_equal_masks_make_both_averages_agree():
    server, received = torch.zeros(SIZE), reports([(3, 0b111111), (9, 0b111111)], seed=1)
    results = []
    for average in (FedAvg(), MaskedAverage()):
        average.reset(server, MASKABLE, [3, 9])
        for report in received:
            average.update(report)
        results.append(average.compute())
    torch.testing.assert_close(results[0], results[1])
