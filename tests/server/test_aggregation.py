"""Averages against a slow, readable reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flash_pl.seeding import generator
from flash_pl.server import ClientUpdate, FedAvg, MaskedAverage, ZeroingMaskedAverage

MASKABLE, SIZE = 6, 9
masks = st.integers(0, 2**MASKABLE - 1)
clients = st.lists(st.tuples(st.integers(1, 50), masks, masks), min_size=1, max_size=5)


Received = list[tuple[ClientUpdate, Tensor, Tensor]]


def receive(drawn: list[tuple[int, int, int]], seed: int) -> Received:
    """Updates, weights and offered masks of clients with drawn samples and masks."""
    received = []
    for client, (samples, *drawn_masks) in enumerate(drawn):
        mask, offered = (torch.tensor([bool(bits >> i & 1) for i in range(MASKABLE)]) for bits in drawn_masks)
        weights = torch.randn(SIZE, generator=generator(seed, "weights", client=client))
        weights[:MASKABLE] *= mask
        received.append((ClientUpdate(client, samples, mask, torch.zeros(1), torch.zeros(1)), weights, offered))
    return received


def reference(server: Tensor, received: Received, by_samples: bool, masked: bool, zero: bool) -> list[float]:
    new = []
    for j in range(SIZE):
        chosen = [part for part in received if j >= MASKABLE or not masked or part[0].mask[j]]
        if chosen:
            factors = [update.samples if by_samples else 1 for update, _, _ in chosen]
            total = sum(factor * float(weights[j]) for factor, (_, weights, _) in zip(factors, chosen, strict=True))
            new.append(total / sum(factors))
        elif zero or any(offered[j] for _, _, offered in received):  # all who had it have dropped it
            new.append(0.0)
        else:
            new.append(float(server[j]))
    return new


@pytest.mark.parametrize("by_samples", [True, False])
@pytest.mark.parametrize("kind", [FedAvg, MaskedAverage, ZeroingMaskedAverage])
@given(drawn=clients, seed=st.integers(0, 999))
def test_averages_equal_the_reference(kind, by_samples, drawn, seed):
    server = torch.randn(SIZE, generator=generator(seed, "server"))
    received = receive(drawn, seed)
    average = kind(by_samples)
    average.reset(server, MASKABLE, [update.samples for update, _, _ in received])
    for update, weights, offered in received:
        average.add(update, weights, offered)
    expected = reference(server, received, by_samples, kind is not FedAvg, kind is ZeroingMaskedAverage)
    torch.testing.assert_close(average.mean(), torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-7)


def test_equal_masks_make_both_averages_agree():
    server, received = torch.zeros(SIZE), receive(2 * [(3, 0b111111, 0b111111)], seed=1)
    results = []
    for average in (FedAvg(), MaskedAverage()):
        average.reset(server, MASKABLE, [3, 3])
        for update, weights, offered in received:
            average.add(update, weights, offered)
        results.append(average.mean())
    torch.testing.assert_close(results[0], results[1])
