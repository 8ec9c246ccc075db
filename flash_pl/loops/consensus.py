"""How far the clients and the server agree on a mask."""

from collections.abc import Sequence

from torch import Tensor

from flash_pl.report import Ballot
from flash_pl.server import ServerState
from flash_pl.sparsity import SparsityBudget, mismatch, pairwise_mismatch


def consensus(
    server: ServerState,
    previous: Tensor,
    ballots: Sequence[Ballot],
    votes: Sequence[int],
    budget: SparsityBudget,
    masks: Sequence[Tensor],
) -> dict[str, float]:
    """The densities and mask mismatches of a round (FLASH, "Measures").

    ``mismatch_clients`` is the mean over pairs of the round's clients, ``mismatch_server`` the mean of the clients
    against the server's new mask, ``mismatch_temporal`` that mask against the ``previous`` one. Where there are several
    tiers the first two also stand for each alone, ``_d`` and its density behind; clients then count against the new
    mask of their tier. A pair takes two clients, so a tier with fewer has no ``mismatch_clients``.

    ``moved`` is the number of weights that are new in the server's mask; ``held_by_all`` and ``held_by_one`` are the
    shares of the weights that any client holds which all of them or only one of them holds.

    Args:
        votes: how many weights were held by 0, 1, ..., K clients.
        masks: the new nested masks, one a tier.
    """
    maskable, held = server.layout.maskable, max(1, sum(votes[1:]))
    found = {
        "density": float(server.mask.float().mean()),
        "density_union": float((server.union[:maskable] != 0).float().mean()),
        "mismatch_clients": pairwise_mismatch([ballot.mask for ballot in ballots]),
        "mismatch_server": _mean([mismatch(ballot.mask, server.mask) for ballot in ballots]),
        "mismatch_temporal": mismatch(server.mask, previous),
        "moved": int((server.mask & ~previous).count_nonzero()),
        "held_by_all": votes[-1] / held if ballots else 0.0,
        "held_by_one": votes[1] / held if ballots else 0.0,
    }
    if len(budget.tiers) > 1:
        for index, (tier, mask) in enumerate(zip(budget.tiers, masks, strict=True)):
            voters = [ballot.mask for ballot in ballots if ballot.tier == index]
            if len(voters) > 1:
                found[f"mismatch_clients{suffix(tier.density)}"] = pairwise_mismatch(voters)
            if voters:
                found[f"mismatch_server{suffix(tier.density)}"] = _mean([mismatch(voter, mask) for voter in voters])
    return found


def suffix(density: float) -> str:
    """What ends the name of a tier's metric.

    >>> suffix(0.05)
    '_d0.05'
    """
    return f"_d{density:g}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
