"""What is checked while a federation trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flash_pl.loops import FederatedLoop
from flash_pl.server.updates import Report
from flash_pl.sparsity import total_count, vote_counts

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HOOKS_OF_WEIGHTS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class Limits:
    """Checks what clients do and send, and what the server keeps.

    Args:
        upload, server: densities that a report and the server's mask may have.
        tiers: those of reports from each tier of devices.
    """

    def __init__(self, upload: float, server: float, tiers: Sequence[float] | None = None) -> None:
        self.upload, self.server, self.tiers = upload, server, tiers
        self.masks: list[Tensor] = []  # of the round's reports
        self.before: _State | None = None  # the client that is under way
        self.broken: AssertionError | None = None

    def watch(self, loop: FederatedLoop) -> None:
        """Look at every client of a loop that is going to run."""
        client, training, local = loop.client, loop.training, loop.parts.local
        train, receive, computing_with, run = training._train, client.receive, client.replaced_weights, local.run

        def trained(*arguments: Any) -> Report:
            self.before = _State(loop)
            return train(*arguments)

        def received(weights: Tensor, mask: Tensor) -> None:
            with self._noting():
                _is_mask(mask, loop, "the mask with which a client starts")
            receive(weights, mask)

        def computing(weights: Tensor | None) -> Any:
            with self._noting():
                outside = (client.weights if weights is None else weights)[~client.mask].any()
                assert not outside, "a client computes with weights outside of its mask"
            return computing_with(weights)

        def reported(*arguments: Any) -> Report:
            before, self.before = self.before or _State(loop), None  # none in a first stage
            report = run(*arguments)
            with self._noting():
                before.compare(_State(loop))
                self._report(loop, report)
            return report

        offer, allowed = loop.evaluation.offer, self.tiers or [self.upload] * len(loop.plan.budget.tiers)

        def offered(masks: Any, member: Any, done: int) -> Any:
            weights, mask, context = offer(masks, member, done)
            with self._noting():
                if mask is not masks[member.tier]:  # that one is the server's
                    _at_most(mask, allowed[member.tier], loop, f"the evaluation of a client of tier {member.tier}")
            return weights, mask, context

        loop.evaluation.offer = offered  # type: ignore[method-assign]
        training._train, client.receive = trained, received  # type: ignore[method-assign, assignment]
        client.replaced_weights, local.run = computing, reported  # type: ignore[method-assign, assignment]

    def _report(self, loop: FederatedLoop, report: Report) -> None:
        """Before it is sent."""
        _is_mask(report.mask, loop, "the mask of a client")
        moved = report.densities.equal(loop.server.layout.densities(report.mask))
        assert moved, "the densities of a client are not its mask's; only client.move_mask_ may change it"
        trained = report.trained
        fine = trained.shape == report.densities.shape and bool(((trained >= 0) & (trained <= 1)).all())
        assert fine, "trained_densities are no numbers in [0, 1], one a layer"
        for name, tensor in report.extra.items():
            assert isinstance(tensor, Tensor), f"what a client sends as {name!r} is no tensor"

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """A broken rule must not pass for a client that failed."""
        try:
            yield
        except AssertionError as error:
            self.broken = error
            raise

    def on_client_end(self, loop: FederatedLoop, report: Report) -> None:
        """A report that has come."""
        maskable = loop.server.layout.maskable
        assert report.weights.isfinite().all(), "the weights of a client are not finite"
        outside = report.weights[:maskable][~report.mask]
        assert not outside.any(), f"{int(outside.count_nonzero())} weights outside of a client's mask are not 0"
        limit = self.upload if self.tiers is None else self.tiers[report.tier]
        _at_most(report.mask, limit, loop, f"a client of tier {report.tier}")
        self.masks.append(report.mask.clone())

    def on_round_end(self, loop: FederatedLoop, row: dict[str, Any]) -> None:
        """The server after a round."""
        assert loop.votes == vote_counts(self.masks).tolist(), "the server has changed the mask of a ballot"
        self.masks = []
        self._server(loop)
        for small, large in zip(loop.masks, loop.masks[1:], strict=False):
            assert not (small & ~large).any(), "the masks of the tiers are not nested"
        assert torch.equal(loop.masks[-1], loop.server.mask), "the largest tier's mask is not the server's"

    def on_run_abort(self, loop: FederatedLoop, error: BaseException) -> None:
        """An error, and maybe why it came."""
        if self.broken is not None:
            raise self.broken
        if loop.has_mask:
            self._server(loop)

    def _server(self, loop: FederatedLoop) -> None:
        assert loop.server.weights.isfinite().all(), "the server's weights are not finite"
        _at_most(loop.server.mask, self.server, loop, "the server's mask")


class _State:
    """What a client's hooks should leave as it is."""

    def __init__(self, loop: FederatedLoop) -> None:
        server, module = loop.server, loop.client.module
        self.server = [tensor.clone() for tensor in (server.weights, server.union, server.mask, *loop.masks)]
        self.traces: dict[str, Any] = {}
        for name, part in module.named_modules():
            self.traces[name] = part.training, vars(part).get("forward"), [list(getattr(part, kind)) for kind in HOOKS]
        for name, weight in module.named_parameters():
            hooks = [list(getattr(weight, kind, None) or ()) for kind in HOOKS_OF_WEIGHTS]
            self.traces[name] = weight.requires_grad, hooks

    def compare(self, now: "_State") -> None:
        same = all(one.equal(other) for one, other in zip(self.server, now.server, strict=True))
        assert same, "a client's hooks have changed the server, or a mask that it offers"
        for name, trace in self.traces.items():
            assert trace == now.traces[name], f"a client's hooks leave a trace on {name}: a hook, its mode, or frozen"


def _is_mask(mask: Tensor, loop: FederatedLoop, what: str) -> None:
    expected = (loop.server.layout.maskable,)
    assert mask.dtype == torch.bool and tuple(mask.shape) == expected, f"{what} is no bool tensor of shape {expected}"


def _at_most(mask: Tensor, density: float, loop: FederatedLoop, what: str) -> None:
    held, allowed = int(mask.count_nonzero()), total_count(loop.server.layout.sizes, density)
    assert held <= allowed, f"{what} holds {held} weights; density {density:g} allows {allowed}"
