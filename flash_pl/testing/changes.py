"""Ways to run a federation that must not show in its result."""

import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch

from flash_pl.errors import Interrupted
from flash_pl.loops import FederatedLoop
from flash_pl.seeding import seed_global_


def spread(loop: FederatedLoop) -> None:
    """As if each client had a process of its own: it is trained by a copy of the scheduler that is then thrown away,
    the clients of a round come the other way round, and what they report is written and read."""
    loop.ranks.mine = lambda costs: list(range(len(costs)))[::-1]  # type: ignore[method-assign]
    loop.ranks.gather = lambda item: [pickle.loads(pickle.dumps(item))]  # type: ignore[method-assign]
    for part, name in ((loop.training, "_train"), (loop.evaluation, "offer")):
        setattr(part, name, _by_a_copy(part, getattr(part, name)))


def _by_a_copy(part: Any, method: Any) -> Any:
    def call(*arguments: Any) -> Any:
        shared = part.parts
        part.parts = replace(shared, scheduler=deepcopy(shared.scheduler))
        try:
            return method(*arguments)
        finally:
            part.parts = shared

    return call


def scatter(loop: FederatedLoop) -> None:
    """The global generators of random numbers, from which nothing should be drawn, are in other states."""
    for part, name in (
        (loop, "find_first_mask"),
        (loop, "nest"),
        (loop.training, "_attempt"),
        (loop.ranks, "sum_"),  # before on_aggregate
    ):
        setattr(part, name, _after_seeding(getattr(part, name), loop.fabric.device))


def _after_seeding(method: Any, device: torch.device) -> Any:
    def call(*arguments: Any) -> Any:
        seed_global_(11, device)
        return method(*arguments)

    return call


def start_twice(loop: FederatedLoop) -> None:
    """As if every round had failed once: it starts again."""
    attempt = loop.training._attempt

    def again(cohort: Any, masks: Any, round: int) -> Any:
        loop.scheduler.on_round_start(loop.server, masks, round)
        return attempt(cohort, masks, round)

    loop.training._attempt = again  # type: ignore[method-assign]


def hide_gradients(loop: FederatedLoop) -> None:
    """As sparse kernels do: pruned weights have no gradients in steps that do not ask for them."""
    client = loop.client
    masked = client.mask_gradients_

    def masked_twice() -> None:
        if not client.backend.dense:
            kept = client.mask.to(client.weights.dtype)
            client.scale_gradients_(kept)
        masked()

    client.mask_gradients_ = masked_twice  # type: ignore[method-assign]


def interrupt(loop: FederatedLoop, rounds: int) -> None:
    """A signal comes while round ``rounds`` is evaluated."""
    evaluate = loop.evaluation.run

    def interrupted(masks: Any, done: int) -> Any:
        if done == rounds:
            raise Interrupted(15)
        return evaluate(masks, done)

    loop.evaluation.run = interrupted  # type: ignore[method-assign]
