"""What hooks of a scheduler return, or leave at the server, and what is said of values that cannot work."""

from contextlib import nullcontext

import pytest
import torch

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.errors import ClientError, SchedulerError
from flash_pl.server import FedAvg, MagnitudeVote


def fit(attributes, make, data, **settings):
    torch.manual_seed(0)
    method = type("Odd", (PDST,), attributes)()
    return FederatedTrainer(method, density=0.3, rounds=1, cohort=2, accelerator="cpu", **settings).fit(make(), data)


def returns(value):
    return lambda self, client, *arguments: value(client) if callable(value) else value


CLIENT_VALUES = [
    ("forward_weights", torch.tensor(0.5), r"returns a tensor of shape \[\], not a tensor of shape \[\d+\]"),
    ("forward_weights", lambda client: client.weights[:1], r"returns a tensor of shape \[1\], not a tensor"),
    ("forward_weights", [1.0], r"returns \[1.0\], not a tensor"),
    (
        "forward_weights",
        lambda client: client.weights - (~client.mask).float(),
        "returns 1 for a weight outside of the ",
    ),
    ("forward_weights", lambda client: client.weights / client.mask, "returns nan for a weight outside of the mask"),
    ("training", None, "returns null, not a context manager"),
]


@pytest.mark.parametrize("hook, value, words", CLIENT_VALUES)
@pytest.mark.parametrize("backend", ["dense", "auto"])
def test_a_value_that_cannot_work_names_its_hook(hook, value, words, backend, unaware, tiny_data):
    with pytest.raises(ClientError, match=rf"^client \d in round 1: Odd\.{hook} {words}"):
        fit({hook: returns(value)}, unaware, tiny_data, backend=backend)


def test_values_that_work(unaware, tiny_data):
    works = {
        "forward_weights": returns(lambda client: client.weights.double()),
        "training": returns(lambda client: nullcontext()),
        "wants_dense_gradients": returns(None),
        "wants_batch_after_training": returns(None),
    }
    first, second = fit(works, unaware, tiny_data), fit({}, unaware, tiny_data)
    assert torch.equal(first.server.weights, second.server.weights)


MOVES = [
    (lambda mask: mask.float(), r"mask of client\.move_mask_ is torch\.float32 of shape \(\d+,\), not torch\.bool"),
    (lambda mask: mask[:5], r"mask of client\.move_mask_ is torch\.bool of shape \(5,\), not"),
    (lambda mask: None, r"mask of client\.move_mask_ is NoneType, not"),
]


@pytest.mark.parametrize("change, words", MOVES)
def test_a_move_takes_masks_only(change, words, unaware, tiny_data):
    def moves(self, client, step):
        client.move_mask_(change(client.mask), client.mask)

    with pytest.raises(ClientError, match=rf"ValueError: Odd: {words}"):
        fit({"on_batch_end": moves}, unaware, tiny_data)
    with pytest.raises(ClientError, match=r"ValueError: Odd: survivors of client\.move_mask_ is torch\.int64"):
        fit(
            {"on_batch_end": lambda self, client, step: client.move_mask_(client.mask, client.mask.long())},
            unaware,
            tiny_data,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_server_keeps_the_dtype_of_its_weights(dtype, unaware, tiny_data):
    def converts(self, server, updates, round):
        server.weights = server.weights.to(dtype)

    with pytest.raises(SchedulerError, match=rf"the server's weights are {dtype}, not torch\.float32$"):
        fit({"on_aggregate": converts}, unaware, tiny_data)


PARTS = [
    ("aggregator", lambda self, tiers: None, "null is not an object of class FedAvg"),
    ("aggregator", lambda self, tiers: FedAvg, "the class FedAvg is not an object of class FedAvg"),
    ("voter", MagnitudeVote, "the class MagnitudeVote is not an object of class Vote"),
    ("voter", None, "null is not an object of class Vote"),
]


@pytest.mark.parametrize("name, part, words", PARTS)
def test_parts_of_a_scheduler_are_checked_before_the_run(name, part, words, unaware, tiny_data):
    with pytest.raises(ConfigError, match=rf"^Odd\.{name}: {words}$"):
        fit({name: part}, unaware, tiny_data)
