"""Evaluates the server's model as every tier of devices gets it, and as it was before pruning."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.loops.consensus import suffix
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.ranks import Ranks
from flash_pl.server import ServerState
from flash_pl.sparsity import Tier


def evaluate_tiers(
    evaluation: EvaluationLoop,
    ranks: Ranks,
    client: ClientState,
    server: ServerState,
    tiers: Sequence[Tier],
    masks: Sequence[Tensor],
    batches: Iterable[Any],
    round: int,
) -> dict[str, float]:
    """Metrics of the model masked to d; the union's end in ``_union``, a tier's in ``_d`` and its density.

    Each model is evaluated whole, on one rank: a module may look at all outputs of an evaluation together.

    Args:
        masks: nested, one for each of the ``tiers``; the last one is the server's.
        batches: the test set, read several times.
        round: names the draws of the module, if it draws.
    """
    same = bool((server.masked() == server.union).all())
    models = [mask for mask in masks[::-1]] + ([] if same else [None])  # None for the union
    found = ranks.gather_jobs(
        {
            job: evaluation.run(
                client, server.union if models[job] is None else server.masked(models[job]), batches, round, job
            )
            for job in ranks.mine([1] * len(models))
        }
    )
    metrics = found[0]
    named = {f"{name}_union": value for name, value in found[0 if same else len(masks)].items()}
    if len(tiers) > 1:
        for job, tier in reversed(list(enumerate(tiers[::-1]))):
            named |= {name + suffix(tier.density): value for name, value in found[job].items()}
    return metrics | named
