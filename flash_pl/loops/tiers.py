"""Evaluates the server's model as every tier of devices gets it, and as it was before pruning."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.loops.consensus import suffix
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.server import ServerState
from flash_pl.sparsity import Tier


def evaluate_tiers(
    evaluation: EvaluationLoop,
    client: ClientState,
    server: ServerState,
    tiers: Sequence[Tier],
    masks: Sequence[Tensor],
    batches: Iterable[Any],
) -> dict[str, float]:
    """Metrics of the model masked to d; the union's end in ``_union``, a tier's in ``_d`` and its density.

    Args:
        masks: nested, one for each of the ``tiers``; the last one is the server's.
        batches: the test set, read several times.
    """
    masked = server.masked()
    metrics = evaluation.run(client, masked, batches)
    same = bool((masked == server.union).all())
    union = metrics if same else evaluation.run(client, server.union, batches)
    named = {f"{name}_union": value for name, value in union.items()}
    if len(tiers) > 1:
        smaller = [evaluation.run(client, server.masked(mask), batches) for mask in masks[:-1]]
        for tier, found in zip(tiers, [*smaller, metrics], strict=True):
            named |= {name + suffix(tier.density): value for name, value in found.items()}
    return metrics | named
