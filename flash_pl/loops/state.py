"""The state of a federated loop: in a checkpoint, as processes compare it, and the server's model for an export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError, ModuleError, RankError, RunError, as_yaml, describe_error
from flash_pl.loops.federated import FederatedLoop
from flash_pl.saved_state import Keys, check_state
from flash_pl.sparsity import SparseModel


def stateful_parts(loop: FederatedLoop) -> dict[str, Stateful]:
    """The objects of a loop that have a state of their own, by their names in a checkpoint."""
    parts: dict[str, Any] = {
        "server": loop.server,
        "scheduler": loop.scheduler,
        "voter": loop.scheduler.voter,
        "sampler": loop.plan.sampler,
        "aggregator": loop.aggregator,
        "ledger": loop.ledger,
    }
    return parts if loop.server_optimizer is None else parts | {"server_optimizer": loop.server_optimizer}


def start_state(loop: FederatedLoop) -> dict[str, Mapping[Any, Any]]:
    """The parts of the state from which clients start, as ``fingerprint`` takes them."""
    tensors = {"weights": loop.server.weights, "mask": loop.server.mask}
    return {"server": tensors, "tier masks": dict(enumerate(loop.tier_masks))}


def whole_state(loop: FederatedLoop) -> dict[str, Mapping[Any, Any]]:
    """What all processes must have alike, as ``fingerprint`` takes it: the parts of a checkpoint and the tier masks."""
    parts = {name: part.compared_state() for name, part in stateful_parts(loop).items()}
    return parts | {"tier masks": dict(enumerate(loop.tier_masks))}


def identity(loop: FederatedLoop) -> dict[str, Any]:
    """The facts that tell experiments apart, as far as a trainer without a config knows them."""
    optimizer = loop.server_optimizer
    return {
        "scheduler": type(loop.scheduler).__name__,
        "server_optimizer": None if optimizer is None else type(optimizer).__name__,
        "seed": loop.plan.seed,
        "density": loop.plan.budget.density,
        "density_of": loop.density_of,
        "clients": loop.data.clients,
    }


def save_state(loop: FederatedLoop) -> dict[str, Any]:
    """The state of a loop, in tensors on the CPU and plain values."""
    return {
        "identity": identity(loop),
        "round": loop.round,
        "failed": loop.failed,
        "metrics": loop.metrics,
        "votes": loop.votes,
        "layer_mismatch": loop.layer_mismatch,
        "has_mask": loop.has_mask,
        "evaluation_pending": loop.evaluation_pending,
        "stopped": bool(loop.should_stop),
        # For readers of the file, who build nothing; a loop makes them anew.
        "tier_masks": [mask.cpu() for mask in loop.tier_masks[:-1]],
        "densities": [float(tier.density) for tier in loop.plan.budget.tiers],
        "first_stage": loop.first_stage_progress.state_dict(),
    } | {name: part.state_dict() for name, part in stateful_parts(loop).items()}


def restore_state(loop: FederatedLoop, state: dict[str, Any]) -> None:
    """Restore what ``save_state`` returned. After an error the loop may hold a part of it, and does not run.

    Raises:
        ConfigError: it belongs to another experiment, or has another structure.
    """
    loop.restored_in_part = True
    for key, value in identity(loop).items():
        saved = state["identity"].get(key)
        if saved != value:
            raise ConfigError(key, f"{as_yaml(value)}, but {as_yaml(saved)} in the checkpoint")
    if state["round"] > loop.plan.rounds:
        problem = f"{loop.plan.rounds} is less than the {state['round']} rounds that the checkpoint has done"
        raise ConfigError("rounds", problem)
    parts, layout = stateful_parts(loop), loop.server.layout
    loop.server.check_layout(state["server"])
    sizes = {"size": layout.size, "maskable": layout.maskable, "trainable": layout.trainable}
    sizes["layers"] = len(layout.layers)
    sizes["tiers"] = len(loop.plan.budget.tiers) if state["has_mask"] else 0
    for name, part in parts.items():
        check_state(state, Keys({name: part.saved}), "flash_pl", dict(sizes))
    loop.round, loop.failed = state["round"], state["failed"]
    loop.metrics, loop.votes = dict(state["metrics"]), list(state["votes"])
    loop.layer_mismatch = dict(state["layer_mismatch"])
    loop.has_mask, loop.evaluation_pending = state["has_mask"], state["evaluation_pending"]
    loop.should_stop = state["stopped"]
    loop.first_stage_progress.load_state_dict(state["first_stage"])
    for name, part in parts.items():
        with restoring(f"{type(part).__name__}.load_state_dict"):
            part.load_state_dict(state[name])
    with restoring(f"{type(loop.scheduler).__name__}.tier_masks"):
        loop.update_tier_masks()
    loop.restored_in_part = False


@contextmanager
def restoring(what: str) -> Iterator[None]:
    """Around a call that takes back a part of a checkpoint, such as ``MyScheduler.load_state_dict``.

    >>> with restoring("MyScheduler.load_state_dict"):
    ...     raise KeyError("scores")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: ckpt_path: MyScheduler.load_state_dict fails with what the checkpoint holds \
(KeyError: 'scores' (<doctest flash_pl.loops.state.restoring[0]>:2))

    Raises:
        ConfigError: the call has failed.
    """
    try:
        yield
    except (ConfigError, ModuleError, RankError):
        raise
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, RunError) else describe_error(error)
        raise ConfigError("ckpt_path", f"{what} fails with what the checkpoint holds ({reason})") from error


def server_model(loop: FederatedLoop) -> SparseModel:
    """The server's model, masked to the target density, by the names of the module; ``flash_pl.export`` writes it.

    Tensors that the server does not have, such as counters, are as at the start of every client.
    """
    server, module = loop.server, loop.client.module
    owned: list[tuple[str, Tensor]] = [*module.named_parameters(remove_duplicate=False)]
    owned += module.named_buffers(remove_duplicate=False)
    first_names: dict[int, str] = {}  # tied tensors are in the arena by the first of their names
    for name, tensor in owned:
        first_names.setdefault(id(tensor), name)
    sources = {name: first_names[id(tensor)] for name, tensor in owned}
    weights = server.masked()
    values = loop.client.local_buffers.initial() | {slot.name: slot.view(weights) for slot in server.layout.slots}
    names = [name for name in module.state_dict() if sources.get(name) in values]
    tensors = {name: values[sources[name]].cpu().contiguous().clone() for name in names}
    masks = {layer.name: layer.view(server.mask).cpu().contiguous().clone() for layer in server.layout.layers}
    density = int(server.mask.count_nonzero()) / server.layout.maskable
    facts = {"scheduler": type(loop.scheduler).__name__, "density": f"{density:.4g}", "round": str(loop.round)}
    return SparseModel(tensors, masks, facts)
