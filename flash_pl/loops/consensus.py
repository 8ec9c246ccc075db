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
    mask of their tier. A pair takes two clients, so with fewer there is no ``mismatch_clients``, and without a client
    none of what is said of clients.

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
        **_mismatches([ballot.mask for ballot in ballots], server.mask),
        "mismatch_temporal": mismatch(server.mask, previous),
        "moved": int((server.mask & ~previous).count_nonzero()),
    }
    if ballots:
        found |= {"held_by_all": votes[-1] / held, "held_by_one": votes[1] / held}
    if len(budget.tiers) > 1:
        for index, (tier, mask) in enumerate(zip(budget.tiers, masks, strict=True)):
            voters = [ballot.mask for ballot in ballots if ballot.tier == index]
            found |= {f"{name}{suffix(tier.density)}": value for name, value in _mismatches(voters, mask).items()}
    return found


def suffix(density: float) -> str:
    """What ends the name of a tier's metric.

    >>> suffix(0.05)
    '_d0.05'
    """
    return f"_d{density:g}"


def _mismatches(voters: Sequence[Tensor], mask: Tensor) -> dict[str, float]:
    """Of clients among each other and against a new mask, as far as there are clients."""
    found = {"mismatch_clients": pairwise_mismatch(voters)} if len(voters) > 1 else {}
    if voters:
        found["mismatch_server"] = sum(mismatch(voter, mask) for voter in voters) / len(voters)
    return found
