"""The line of metrics of a round, but for its evaluation and its seconds."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from flash_pl.costs import CostLedger
from flash_pl.errors import ConfigError
from flash_pl.loops.federation import Trained
from flash_pl.loops.settings import Plan
from flash_pl.server import ServerState
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import SparsityBudget, distances, overlaps


class WeightedMeans:
    """Means of what the clients logged, each over the clients that logged it."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, int] = {}

    def update(self, metrics: Mapping[str, float], samples: int) -> None:
        """Add a client of ``samples`` samples."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + samples * value
            self.weights[name] = self.weights.get(name, 0) + samples

    def compute(self) -> dict[str, float]:
        """All means."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}


def consensus(
    server: ServerState,
    previous: Tensor,
    ballots: Sequence[Ballot],
    votes: Sequence[int],
    budget: SparsityBudget,
    masks: Sequence[Tensor],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The densities and mask mismatches of a round (FLASH, "Measures"), and the mismatches of each layer alone.

    ``mismatch_clients`` is the mean over pairs of the round's clients, ``mismatch_server`` the mean of the clients
    against the server's new mask, ``mismatch_temporal`` that mask against the ``previous`` one. Where there are several
    tiers the first two also stand for each alone, ``_d`` and its density behind; clients then count against the new
    mask of their tier. A pair takes two clients, so with fewer there is no ``mismatch_clients``, and without a client
    none of what is said of clients.

    ``moved`` is the number of weights that are new in the server's mask; ``in_all_masks`` and ``in_one_mask`` are the
    shares of the weights that any client holds which all of them or only one of them holds.

    Args:
        votes: how many weights were held by 0, 1, ..., K clients.
        masks: the new nested masks, one a tier.
    """
    maskable, held = server.layout.maskable, max(1, sum(votes[1:]))
    clients, tiers = len(ballots), len(budget.tiers)
    shared = overlaps(server.layout, [*(ballot.mask for ballot in ballots), *masks, server.mask, previous])
    mine, whole = clients + len(masks), distances(shared.sum(0))
    found = {
        "density": float(server.mask.float().mean()),
        "density_union": float((server.union[:maskable] != 0).float().mean()),
        **{name: float(value) for name, value in _means(whole, range(clients), mine).items()},
        "mismatch_temporal": float(whole[mine, -1]),
        "moved": int((server.mask & ~previous).count_nonzero()),
    }
    if ballots:
        found |= {"in_all_masks": votes[-1] / held, "in_one_mask": votes[1] / held}
    for index, tier in enumerate(budget.tiers if tiers > 1 else ()):
        voters = [place for place, ballot in enumerate(ballots) if ballot.tier == index]
        of_tier = _means(whole, voters, clients + index)
        found |= {f"{name}{suffix(tier.density)}": float(value) for name, value in of_tier.items()}
    alone = distances(shared)
    of_layers = _means(alone, range(clients), mine) | {"mismatch_temporal": alone[:, mine, -1]}
    return found, {name: values.tolist() for name, values in of_layers.items()}


def suffix(density: float) -> str:
    """What ends the name of a tier's metric.

    >>> suffix(0.05)
    '_d0.05'
    """
    return f"_d{density:g}"


def _means(mismatch: Tensor, voters: Sequence[int], mask: int) -> dict[str, Tensor]:
    """Of ``mismatch`` ``[..., K, K]`` the mean over pairs of ``voters`` and that of them against the new ``mask``,
    ``[...]`` each, as far as there are voters."""
    found = {}
    if len(voters) > 1:
        ones, others = torch.combinations(torch.tensor(voters), 2).T
        found["mismatch_clients"] = mismatch[..., ones, others].mean(-1)
    if voters:
        found["mismatch_server"] = mismatch[..., list(voters), mask].mean(-1)
    return found


LATER = {"round", "seconds", "seconds_train", "failed"}  # what joins the row after these metrics


def round_metrics(
    trained: Trained,
    server: ServerState,
    previous: Tensor,
    votes: Sequence[int],
    masks: Sequence[Tensor],
    plan: Plan,
    ledger: CostLedger,
    round: int,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """What the clients logged (means by samples), how far they agree, what the round has cost; and the mismatches of
    each layer alone.

    Args:
        server: after the round; ``previous`` is its mask before.
        votes: how many weights were held by 0, 1, ..., K clients.
        masks: the new nested ones, one a tier.
        round: the round's index.
    """
    logged = WeightedMeans()
    for ballot in trained.ballots:
        logged.update(ballot.metrics, ballot.samples)
    row, of_layers = consensus(server, previous, trained.ballots, votes, plan.budget, masks)
    attempts = [*trained.wasted, [*trained.ballots, *trained.late]]
    row |= ledger.round(attempts, server.layout.densities(server.mask))
    row |= {"participants": len(trained.ballots), "lr_scale": plan.decay.scale(round)}
    found = logged.compute()
    refuse_shared(found, row)
    return found | row, of_layers


def refuse_shared(logged: Collection[str], row: Collection[str]) -> None:
    """Nothing in a round's line is overwritten.

    Raises:
        ConfigError: the module has ``logged`` a name that is in the ``row``, or comes later.
    """
    if shared := set(logged) & {*row, *LATER}:
        raise ConfigError("log", sorted(shared), "names that training, validation and the round do not share")
