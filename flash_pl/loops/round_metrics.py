"""The metrics of a round, but for its evaluation: what clients logged, and how their masks agree."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from flash_pl.client import reduce_clients
from flash_pl.errors import ConfigError
from flash_pl.loops.evaluation import tier_suffix
from flash_pl.server import ClientUpdate, ServerState
from flash_pl.sparsity import SparsityBudget, distances, overlaps

# Columns that join the row of a round after those that a module logs.
LATER_COLUMNS = {"round", "seconds", "seconds_train", "failed"}


def logged_metrics(updates: Sequence[ClientUpdate], evaluated: Collection[str] = ()) -> dict[str, float]:
    """What the clients logged while they trained, each metric over the clients that logged it.

    A mean is weighted as clients are in averages by samples. A sum, minimum or maximum is that over all clients.

    Args:
        evaluated: names that the module logs in validation. The same name in training gets the prefix ``train_``.
    """
    values: dict[str, list[float]] = {}
    weights: dict[str, list[float]] = {}
    reductions: dict[str, str] = {}
    for update in updates:
        reductions |= update.reductions
        for name, value in update.metrics.items():
            values.setdefault(name, []).append(value)
            weights.setdefault(name, []).append(update.weight)
    reduced = {name: reduce_clients(reductions.get(name, "mean"), values[name], weights[name]) for name in values}
    check_names([f"train_{name}" for name in reduced if name in evaluated], reduced)
    return {f"train_{name}" if name in evaluated else name: value for name, value in reduced.items()}


def check_names(logged: Collection[str], row: Collection[str]) -> None:
    """Check that no name that a module has ``logged`` is a column of the ``row`` already, or will be.

    Raises:
        ConfigError: one is.
    """
    if shared := sorted(set(logged) & {*row, *LATER_COLUMNS}):
        problem = f"the module logs {', '.join(shared)}, but a round has a value of this name already"
        raise ConfigError("log", problem, "give each its own name")


def mask_agreement(
    server: ServerState,
    previous: Tensor,
    updates: Sequence[ClientUpdate],
    votes: Sequence[int],
    budget: SparsityBudget,
    tier_masks: Sequence[Tensor],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Densities and mask mismatches of a round (FLASH, "Measures"), and the mismatches of each layer alone.

    ``mismatch_clients`` is the mean over pairs of the round's clients, ``mismatch_server`` the mean of the clients
    against the server's new mask, ``mismatch_temporal`` the new mask against the ``previous`` one. With several tiers
    the first two are also given for each tier, with a suffix such as ``_d0.05``; clients are then compared with the new
    mask of their tier. A mean over pairs needs two clients; a mean over clients needs one. ``moved`` is the number of
    weights that are new in the server's mask. Of the weights that any client's mask contains, ``in_all_masks`` and
    ``in_one_mask`` are the shares that all masks or only one contain.

    Args:
        server: after the round.
        previous: the server's mask before the round, bool ``[maskable]``.
        updates: of the round's clients.
        votes: how many weights are in 0, 1, ..., K of the clients' masks.
        budget: the tiers.
        tier_masks: the new nested masks, one per tier.
    """
    maskable, voted = server.layout.maskable, max(1, sum(votes[1:]))
    clients = len(updates)
    shared = overlaps(server.layout, [*(update.mask for update in updates), *tier_masks, server.mask, previous])
    server_index, all_layers = clients + len(tier_masks), distances(shared.sum(0))
    metrics = {
        "density": float(server.mask.float().mean()),
        "density_union": float((server.union[:maskable] != 0).float().mean()),
        **{name: float(value) for name, value in _mean_mismatches(all_layers, range(clients), server_index).items()},
        "mismatch_temporal": float(all_layers[server_index, -1]),
        "moved": int((server.mask & ~previous).count_nonzero()),
    }
    if updates:
        metrics |= {"in_all_masks": votes[-1] / voted, "in_one_mask": votes[1] / voted}
    for index, tier in enumerate(budget.tiers if len(budget.tiers) > 1 else ()):
        of_tier = [position for position, update in enumerate(updates) if update.tier == index]
        means = _mean_mismatches(all_layers, of_tier, clients + index)
        metrics |= {f"{name}{tier_suffix(tier.density)}": float(value) for name, value in means.items()}
    by_layer = distances(shared)
    layer_means = _mean_mismatches(by_layer, range(clients), server_index)
    layer_means |= {"mismatch_temporal": by_layer[:, server_index, -1]}
    return metrics, {name: values.tolist() for name, values in layer_means.items()}


def _mean_mismatches(mismatch: Tensor, clients: Sequence[int], mask: int) -> dict[str, Tensor]:
    """Means of ``mismatch`` ``[..., K, K]`` over pairs of ``clients``, and of clients against ``mask``."""
    means: dict[str, Tensor] = {}
    if len(clients) > 1:
        first, second = torch.combinations(torch.tensor(clients), 2).T
        means["mismatch_clients"] = mismatch[..., first, second].mean(-1)
    if clients:
        means["mismatch_server"] = mismatch[..., list(clients), mask].mean(-1)
    return means
