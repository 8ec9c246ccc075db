"""Parts of a federated run that check the rules of ``SparseScheduler`` while they train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from flash_pl.callbacks import Callback
from flash_pl.client import ClientContext, ClientState
from flash_pl.data import Batches
from flash_pl.loops import FederatedLoop, LocalLoop, Participant, RoundEvaluator
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import ClientUpdate
from flash_pl.sparsity import vote_counts
from flash_pl.trainer import FederatedTrainer

LAYER_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WEIGHT_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class Limits(Callback):
    """Checks the updates of clients and the server's model.

    Args:
        upload, server: densities that an update and the server's mask may have at most.
        tiers: densities of updates from each tier; None allows ``upload`` in all.
    """

    def __init__(self, upload: float, server: float, tiers: Sequence[float] | None = None) -> None:
        self.upload, self.server, self.tiers = upload, server, tiers
        self.masks: list[Tensor] = []  # of the round's updates
        self.before: Snapshot | None = None  # when the client under way began
        self.broken: AssertionError | None = None
        self.loop: FederatedLoop

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A context that remembers a broken rule, which would otherwise pass for a client that failed."""
        try:
            yield
        except AssertionError as error:
            self.broken = error
            raise

    def check_update(self, update: ClientUpdate) -> None:
        """Check an update before it is sent."""
        _check_is_mask(update.mask, self.loop, "the mask of a client")
        trained = update.trained_densities
        valid = trained.shape == update.densities.shape and bool(((trained >= 0) & (trained <= 1)).all())
        assert valid, "trained_densities are not numbers in [0, 1], one per layer"

    def on_client_end(self, loop: FederatedLoop, update: ClientUpdate) -> None:
        """An update that has arrived; the client still has its weights."""
        weights = loop.client.arena
        assert weights.isfinite().all(), "the weights of a client are not finite"
        outside = weights[: loop.server.layout.maskable][~update.mask]
        assert not outside.any(), f"{int(outside.count_nonzero())} weights outside of a client's mask are not 0"
        limit = self.upload if self.tiers is None else self.tiers[update.tier]
        _check_at_most(update.mask, limit, loop, f"a client of tier {update.tier}")
        self.masks.append(update.mask.clone())

    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        """The server after a round."""
        assert loop.votes == vote_counts(self.masks).tolist(), "the server has changed the mask of an update"
        self.masks = []
        self._check_server(loop)
        for small, large in zip(loop.tier_masks, loop.tier_masks[1:], strict=False):
            assert not (small & ~large).any(), "the masks of the tiers are not nested"
        assert torch.equal(loop.tier_masks[-1], loop.server.mask), "the largest tier's mask is not the server's"

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        """An error ends the run, which a broken rule may explain."""
        if loop.has_mask:
            with suppress(AssertionError), self.noting():  # explains more than what a client has met later
                self._check_server(loop)

    def _check_server(self, loop: FederatedLoop) -> None:
        assert loop.server.weights.isfinite().all(), "the server's weights are not finite"
        assert loop.server.mask.any(), "the server's mask has no weight"
        _check_at_most(loop.server.mask, self.server, loop, "the server's mask")


class CheckingTrainer(FederatedTrainer):
    """A trainer whose parts check ``limits``."""

    def __init__(self, scheduler: SparseScheduler, *, limits: Limits, **settings: Any) -> None:
        super().__init__(scheduler, **settings)
        self.limits = limits

    def make_local_loop(self) -> LocalLoop:
        return CheckingLocalLoop(self.limits, self.fabric, self.clipping)

    def make_evaluator(self, **parts: Any) -> RoundEvaluator:
        return CheckingEvaluator(self.limits, **parts)

    def make_federated_loop(self, **parts: Any) -> FederatedLoop:
        self.limits.loop = CheckingLoop(self.limits, **parts)
        return self.limits.loop


class CheckingLoop(FederatedLoop):
    """Remembers the state before each client."""

    def __init__(self, limits: Limits, **parts: Any) -> None:
        super().__init__(**parts)
        self.limits = limits

    def train_client(self, participant: Participant) -> ClientUpdate:
        self.limits.before = Snapshot(self)
        return super().train_client(participant)


class CheckingLocalLoop(LocalLoop):
    """Checks the weights of every step, and after the last one the update and the state around the client."""

    def __init__(self, limits: Limits, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.limits = limits

    def run(
        self, client: ClientState, scheduler: SparseScheduler, batches: Batches, context: ClientContext
    ) -> ClientUpdate:
        limits = self.limits
        before, limits.before = limits.before or Snapshot(limits.loop), None  # no round has begun in stage 1
        update = super().run(client, scheduler, batches, context)
        with limits.noting():
            before.compare(Snapshot(limits.loop))
            limits.check_update(update)
        return update

    def forward_weights(self, client: ClientState, scheduler: SparseScheduler) -> Tensor | None:
        weights = super().forward_weights(client, scheduler)
        with self.limits.noting():
            outside = (client.weights if weights is None else weights)[~client.mask]
            assert not outside.any(), "a client computes with weights outside of its mask"
        return weights


class CheckingEvaluator(RoundEvaluator):
    """Checks the models with which clients are evaluated."""

    def __init__(self, limits: Limits, **parts: Any) -> None:
        super().__init__(**parts)
        self.limits = limits

    def client_model(
        self, tier_masks: Sequence[Tensor], participant: Participant, done: int
    ) -> tuple[Tensor, Tensor, ClientContext]:
        weights, mask, context = super().client_model(tier_masks, participant, done)
        allowed = self.limits.tiers or [self.limits.upload] * len(tier_masks)
        with self.limits.noting():
            _check_is_mask(mask, self.limits.loop, "the mask with which a client is evaluated")
            if mask is not tier_masks[participant.tier]:  # the server's own masks are checked after the round
                name = f"the evaluation of a client of tier {participant.tier}"
                _check_at_most(mask, allowed[participant.tier], self.limits.loop, name)
        return weights, mask, context


class Snapshot:
    """The state that a client's hooks must leave as it is."""

    def __init__(self, loop: FederatedLoop) -> None:
        server, module = loop.server, loop.client.module
        self.server = [tensor.clone() for tensor in (server.weights, server.union, server.mask, *loop.tier_masks)]
        self.traces: dict[str, Any] = {}
        for name, part in module.named_modules():
            hooks = [list(getattr(part, kind)) for kind in LAYER_HOOKS]
            self.traces[name] = part.training, vars(part).get("forward"), hooks
        for name, weight in module.named_parameters():
            hooks = [list(getattr(weight, kind, None) or ()) for kind in WEIGHT_HOOKS]
            self.traces[name] = weight.requires_grad, hooks

    def compare(self, after: "Snapshot") -> None:
        """Check that nothing has changed."""
        same = all(old.equal(new) for old, new in zip(self.server, after.server, strict=True))
        assert same, "a client's hooks have changed the server, or a mask of a tier"
        for name, trace in self.traces.items():
            assert trace == after.traces[name], f"a client's hooks leave a trace on {name}: a hook, its mode, or frozen"


def _check_is_mask(mask: Tensor, loop: FederatedLoop, name: str) -> None:
    shape = (loop.server.layout.maskable,)
    assert mask.dtype == torch.bool and tuple(mask.shape) == shape, f"{name} is not a bool tensor of shape {shape}"


def _check_at_most(mask: Tensor, density: float, loop: FederatedLoop, name: str) -> None:
    layout = loop.server.layout
    cost, allowed = layout.cost(mask), layout.budget(density)
    if loop.density_of == "weights":
        assert cost <= allowed, f"{name} has {cost:.0f} weights; density {density:g} allows {allowed:.0f}"
    else:  # counts are whole, so that a layer may have a part of a weight too much
        problem = f"{name} takes {cost:.0f} multiply-adds; density {density:g} of the FLOPs allows {allowed:.0f}"
        assert cost <= allowed + float(layout.prices.sum()), f"{problem} (layout.budget counts them)"
