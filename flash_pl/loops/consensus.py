"""How far the clients and the server agree on a mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.report import Ballot
from flash_pl.server import ServerState
from flash_pl.sparsity import SparsityBudget, distances, overlaps


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

    ``moved`` is the number of weights that are new in the server's mask; ``held_by_all`` and ``held_by_one`` are the
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
        found |= {"held_by_all": votes[-1] / held, "held_by_one": votes[1] / held}
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
