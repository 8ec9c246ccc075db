"""The line of metrics of a round, but for its evaluation and its seconds."""

from collections.abc import Collection, Sequence

from torch import Tensor

from flash_pl.costs import Accounts
from flash_pl.errors import ConfigError
from flash_pl.loops.consensus import consensus
from flash_pl.loops.means import WeightedMeans
from flash_pl.loops.plan import Plan
from flash_pl.loops.training import Trained
from flash_pl.server import ServerState

LATER = {"round", "seconds", "seconds_train", "failed"}  # what joins the row after these metrics


def round_metrics(
    trained: Trained,
    server: ServerState,
    previous: Tensor,
    votes: Sequence[int],
    masks: Sequence[Tensor],
    plan: Plan,
    accounts: Accounts,
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
    row |= accounts.round(attempts, server.layout.densities(server.mask))
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
