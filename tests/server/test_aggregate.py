"""Averages against a slow, readable reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flash_pl.report import Report
from flash_pl.seeding import generator
from flash_pl.server import AbstainingAverage, FedAvg, MaskedAverage, ServerState, ZeroingMaskedAverage
from flash_pl.sparsity import Layout

LAYOUT = Layout(nn.Linear(2, 3))
MASKABLE, SIZE = LAYOUT.maskable, LAYOUT.size
bits = st.integers(0, 2**MASKABLE - 1)
clients = st.lists(st.tuples(st.integers(1, 50), bits, bits), min_size=1, max_size=5)


def mask_of(number: int) -> Tensor:
    return torch.tensor([bool(number >> i & 1) for i in range(MASKABLE)])


def state(seed: int, mask: int = 2**MASKABLE - 1) -> ServerState:
    server = ServerState.start(LAYOUT, torch.randn(SIZE, generator=generator(seed, "server")), 0.5)
    server.mask = mask_of(mask)
    return server


def reports(drawn: list[tuple[int, int, int]], seed: int) -> list[tuple[Report, Tensor]]:
    made = []
    for client, (samples, held, offered) in enumerate(drawn):
        mask = mask_of(held)
        weights = torch.randn(SIZE, generator=generator(seed, "weights", client=client))
        weights[:MASKABLE] *= mask
        made.append((Report(client, samples, weights, mask, torch.zeros(1), {}), mask_of(offered)))
    return made


def averaged(average: FedAvg, server: ServerState, received: list[tuple[Report, Tensor]]) -> Tensor:
    average.reset(server)
    for report, offered in received:
        average.update(report, offered)
    return average.compute()


def reference(server: ServerState, received, by_samples: bool, counts, default) -> list[float]:
    new = []
    for j in range(SIZE):
        voters = [report for report, offered in received if j >= MASKABLE or counts(report, offered, j)]
        weight = {id(report): report.samples if by_samples else 1 for report in voters}
        if voters:
            new.append(sum(weight[id(r)] * float(r.weights[j]) for r in voters) / sum(weight.values()))
        else:
            new.append(default(j))
    return new


@pytest.mark.parametrize("by_samples", [True, False])
@pytest.mark.parametrize("kind", [FedAvg, MaskedAverage, ZeroingMaskedAverage, AbstainingAverage])
@given(drawn=clients, seed=st.integers(0, 999), mask=bits)
def test_averages_equal_the_reference(kind, by_samples, drawn, seed, mask):
    server, received = state(seed, mask), reports(drawn, seed)
    counts = {
        FedAvg: lambda report, offered, j: True,
        AbstainingAverage: lambda report, offered, j: not server.mask[j] or offered[j] or report.mask[j],
    }.get(kind, lambda report, offered, j: report.mask[j])
    default = (lambda j: 0.0) if kind is ZeroingMaskedAverage else (lambda j: float(server.weights[j]))
    expected = torch.tensor(reference(server, received, by_samples, counts, default), dtype=torch.float32)
    torch.testing.assert_close(averaged(kind(by_samples), server, received), expected, rtol=1e-6, atol=1e-7)


@given(drawn=clients, seed=st.integers(0, 999), mask=bits)
def test_abstaining_is_plain_for_equal_budgets_and_masked_for_fixed_masks(drawn, seed, mask):
    server = state(seed, mask)
    equal = [(report, server.mask) for report, _ in reports(drawn, seed)]
    assert torch.equal(averaged(AbstainingAverage(), server, equal), averaged(FedAvg(), server, equal))
    # Clients that keep what they were offered, a part of the server's mask, beside which the server has no weights.
    server.prune_()
    fixed = [
        (report, report.mask) for report, _ in reports([(samples, held & mask, 0) for samples, held, _ in drawn], seed)
    ]
    assert torch.equal(averaged(AbstainingAverage(), server, fixed), averaged(MaskedAverage(), server, fixed))
