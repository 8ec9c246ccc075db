"""Steps that are captured once and then replayed for all clients and rounds, so that the host need not prepare them."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from flash_pl.client import Backend, ClientContext, ClientState, GradientClipping
from flash_pl.client.captured_step import CapturedStep, Snapshot, all_same, is_plain, marks, state_tensors
from flash_pl.client.logging import LoggedCalls
from flash_pl.client.plain_sgd import has_gradient_hooks, has_step_hooks
from flash_pl.client.python_state import python_state
from flash_pl.client.recorder import NotRepeatable, Recorder, WaitWatch
from flash_pl.client.watch import StepWatch, metric_memory, uses_index
from flash_pl.errors import describe_error
from flash_pl.loops.local import LocalLoop, Step
from flash_pl.schedulers import SparseScheduler

WATCHED = 2  # steps of a kind that are looked at before one is captured; libraries also start up in them
KEPT = 16  # captured steps that are kept, and Python states that are remembered: the last ones used
Eager = Callable[[], dict[str, Any]]


class CapturedLoop(LocalLoop):
    """Replays the steps that can be replayed. All others run as in ``LocalLoop``; the bits are the same.

    Weights, masks and buffers stay in their memory for all clients, so one captured step serves them all. A step is of
    another kind if batches have other shapes or the module has another Python state (modes and frozen parameters
    belong to it), since that is constant in a captured step. So are learning rates. The state is looked at once an
    epoch: modules with hooks between steps are excluded. Moves of the mask and learning-rate schedulers run as before.

    A kind runs step by step if a rule excludes it, or if one of its first steps waits for the device, changes Python
    state, draws random numbers on the host, or asks for the epoch, the optimizer or ``self.trainer``. The same is
    looked for while a step is captured, and the first replay must have the bits of the step itself.

    Args:
        fabric, clipping: as in ``LocalLoop``.
        recorder: how steps are captured.

    Attributes:
        reasons: why steps of a kind are not captured.
        told: all reasons; the run has said each once.
        counts: how many steps were "eager", "watched", "captured" and "replayed".
    """

    def __init__(self, fabric: Fabric, clipping: GradientClipping | None, recorder: type[Recorder]) -> None:
        super().__init__(fabric, clipping)
        self.recorder = recorder
        # Kinds, and keys of captured steps, have the number of the Python state at their end.
        self.reasons: dict[Any, str] = {}
        self.counts: Counter[str] = Counter()
        self._watched: Counter[Any] = Counter()
        self._captured: OrderedDict[Any, CapturedStep] = OrderedDict()
        self._state: dict[tuple[Tensor, str], Tensor] = {}  # of the optimizer, where captured steps find it
        self.told: set[str] = set()
        self._numbers: OrderedDict[Any, int] = OrderedDict()  # of the module's Python states
        self._values: dict[str, Any] = {}  # of the last one
        self._met = self._met_in_vain = 0  # Python states: all, and those since a step was replayed
        self._change: str | None = None  # of the Python state by a step, in words
        self._failure: str | None = None  # why nothing is captured from now on

    def start_client(self, client: ClientState, scheduler: SparseScheduler, context: ClientContext) -> None:
        super().start_client(client, scheduler, context)
        self._parameters = list(client.module.parameters())
        self._epoch: int | None = None  # the last one in which the module was looked at
        self._seen: set[Any] = set()  # keys of this client's steps

    def step(self, client: ClientState, scheduler: SparseScheduler, training_step: Step, index: int) -> dict[str, Any]:
        def eager() -> dict[str, Any]:
            return super(CapturedLoop, self).step(client, scheduler, training_step, index)

        if self._epoch != client.epoch:  # at its first step, when a client's hooks are registered
            self._epoch, self._placed = client.epoch, -1
            self._rule = self.rule(client, scheduler) or self._look_at_state(client)
            self._tell(client, self._rule)
        optimizer: Any = client.optimizer
        makes_state = _keeps_state(optimizer) and not optimizer.state  # as the first step of momentum does
        kind = None if self._rule is not None or client.backend.dense or makes_state else self._kind(client)
        if kind is None or kind in self.reasons:
            self.counts["eager"] += 1
            return eager()
        if self._watched[kind] < WATCHED:
            return self._watch(client, kind, eager)
        self._place_state(client)
        key = _rates(client), *kind
        if key not in self._captured:
            if key not in self._seen:  # a rate that comes once is not worth a capture
                self._seen.add(key)
                self.counts["eager"] += 1
                return eager()
            return self._capture(client, kind, key, eager)
        self._captured.move_to_end(key)
        self.counts["replayed"] += 1
        self._met_in_vain = 0
        optimizer._opt_called = True  # learning-rate schedulers warn if they step before the optimizer has
        return self._captured[key].replay(client)

    # Which steps can be captured

    def rule(self, client: ClientState, scheduler: SparseScheduler) -> str | None:
        """Why no step of the client can be captured, as far as that is known before a step; None if some can."""
        module, method, base = client.module, type(scheduler), SparseScheduler
        optimizer: Any = client.optimizer
        if self._failure is not None:
            return self._failure
        if type(client.backend) is not Backend:
            return "their layers are not torch's own (backend, compile)"
        if module.acts_between_steps:
            return "hooks between steps could change what a step computes"
        if module.watches_gradients:
            return "a hook of the module could read or change gradients"
        if method.forward_weights is not base.forward_weights or method.training is not base.training:
            return f"{method.__name__} changes what a step computes"
        if method.on_gradients is not base.on_gradients:
            return f"{method.__name__} looks at the gradients of every step"
        if any(map(_has_layer_hooks, module.modules())) or any(map(has_gradient_hooks, self._parameters)):
            return "layers or parameters have hooks"
        if self._scaler_start is not None:
            return "16-mixed asks after every backward pass whether a gradient overflowed"
        if has_step_hooks(optimizer):
            return "the optimizer has hooks"
        if uses_index(module.training_step):
            return "training_step uses the index of the batch"
        if any(schedule.interval == "step" for schedule in client.lr_schedulers):
            return "the learning rate changes at every step"
        if getattr(torch.optim, type(optimizer).__name__, None) is not type(optimizer):
            return f"{type(optimizer).__name__}, which is not torch's own, may change unseen"
        if type(optimizer) is not torch.optim.SGD and not all(g.get("capturable") for g in optimizer.param_groups):
            return f"{type(optimizer).__name__} needs the host (torch's Adam does not with capturable=True)"
        if any(isinstance(value, Tensor) for group in optimizer.param_groups for value in group.values()):
            return "a setting of the optimizer is a tensor"
        return None

    def _look_at_state(self, client: ClientState) -> str | None:
        """Find the number of the module's Python state; return why steps cannot be captured, None if they can."""
        state = python_state(client.module, metrics=False)
        if state.problem is not None:
            return state.problem
        known = tuple(state.values.items())
        if known not in self._numbers:
            self._met += 1
            self._met_in_vain += 1
            if self._met_in_vain > KEPT:
                changed = [name for name, value in state.values.items() if self._values.get(name, ()) != value]
                self._failure = self._change or f"{min(changed, default='self')} changes again and again"
                return self._failure
            self._numbers[known] = self._met
            if len(self._numbers) > KEPT:
                self._forget(self._numbers.popitem(last=False)[1])
        self._numbers.move_to_end(known)
        self._number, self._values = self._numbers[known], state.values
        return None

    def _forget(self, number: int) -> None:
        """Forget what is known of a Python state."""
        tables: list[dict[Any, Any]] = [self.reasons, self._watched, self._captured]
        for table in tables:
            for key in [key for key in table if key[-1] == number]:
                del table[key]

    def _kind(self, client: ClientState) -> tuple[Any, ...]:
        """What the operations of a step depend on, besides learning rates."""
        leaves, structure = tree_flatten(client.batch)  # in torch 2.6 it has no hash, but its text has
        batch = tuple(
            (part.shape, part.dtype, part.stride(), part.requires_grad) if is_plain(part) else type(part)
            for part in leaves
        )
        with_state = len(client.optimizer.state)  # type: ignore[union-attr]
        return type(client.optimizer), with_state, repr(structure), batch, client.is_dense, self._number

    def _watch(self, client: ClientState, kind: Any, eager: Eager) -> dict[str, Any]:
        """Take a step and look at what it does."""
        self._watched[kind] += 1
        self.counts["watched"] += 1
        outputs: dict[str, Any] = {}
        batch, watch = marks(client.batch), StepWatch(client.module, self.fabric.device)
        client.questions.clear()
        with WaitWatch(metric_memory(client.module)) as waits, client.logged_calls() as logged:
            self.recorder.warm_up(lambda: outputs.update(eager()))
        reasons = [
            None if all(map(is_plain, tree_leaves(client.batch))) else "a batch has parts that are no plain tensors",
            self._traces(client, watch, logged),
            f"training_step waits for the device ({waits.found})" if waits.found else None,
            "training_step uses a torchmetric" if waits.reads_replaced else None,
            "training_step skips a batch" if not outputs else None,
            "training_step changes the batch" if marks(client.batch) != batch else None,
        ]
        self._exclude(client, kind, next(filter(None, reasons), None))
        return outputs

    def _traces(self, client: ClientState, watch: StepWatch, logged: LoggedCalls) -> str | None:
        """What a step has done that a replay would not do."""
        if change := watch.change():
            self._change = change
            return change
        if client.questions:
            return f"training_step asks for {min(client.questions)}"
        return f"training_step {logged.problem}" if logged.problem else None

    def _exclude(self, client: ClientState, kind: Any, reason: str | None) -> None:
        if reason is not None:
            self.reasons[kind] = reason
            self._tell(client, reason)

    def _tell(self, client: ClientState, reason: str | None) -> None:
        if reason is not None and reason not in self.told:
            self.told.add(reason)
            rank_zero_info(f"steps of {client.user_class} are not captured: {reason}")

    # Capture

    def _place_state(self, client: ClientState) -> None:
        """Put the state of a client's optimizer where captured steps find it; moves of the mask act on it there."""
        state: Any = client.optimizer.state  # type: ignore[union-attr]
        if len(state) == self._placed:
            return
        self._placed = len(state)
        for parameter, name, value in list(state_tensors(state)):
            place = self._state.setdefault((parameter, name), value)
            if place is value:
                continue
            if (place.shape, place.dtype, place.device) == (value.shape, value.dtype, value.device):
                state[parameter][name] = place.copy_(value)
            else:  # of another optimizer
                self._state[parameter, name] = value
                self._captured.clear()

    def _capture(self, client: ClientState, kind: Any, key: Any, eager: Eager) -> dict[str, Any]:
        """Capture a step and compare its replay with the step itself, from which the client goes on."""
        before, batch = Snapshot(client, self._losses), client.batch
        gradients = [parameter.grad for parameter in self._parameters]
        watch = StepWatch(client.module, self.fabric.device)
        captured = CapturedStep(self.recorder(), tree_map(torch.clone, batch))
        client.questions.clear()
        replayed: list[Any] = []
        try:
            for parameter in self._parameters:
                parameter.grad = None  # the backward pass then makes them where replays find them
            client.batch = captured.batch
            with client.logged_calls(forward=False) as logged:
                captured.recorder.record(lambda: captured.outputs.update(eager()))
            captured.calls = logged.calls
            captured.gradients = [(parameter, parameter.grad) for parameter in self._parameters]
            if not before.has_same_entries():
                self._exclude(client, kind, "the optimizer makes state in this step")
            self._exclude(client, kind, self._traces(client, watch, logged))
            if kind not in self.reasons:
                before.restore()
                captured.compute(batch)
                replayed = [*Snapshot(client, self._losses).values(), *logged.values()]
        except NotRepeatable as error:
            # What can fail has been looked for before, so no other capture is tried.
            self._failure = self._rule = f"a capture has failed: {error}"
            rank_zero_warn(f"no more steps are captured: {error}")
        except Exception as error:  # of the module: the step itself may have none
            self._exclude(client, kind, f"a capture has failed: {describe_error(error)}")
        finally:
            client.batch = batch
            before.restore()
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
        with client.logged_calls() as logged:
            outputs = eager()
        if self._failure is not None or kind in self.reasons:
            self.counts["eager"] += 1
            return outputs
        stepped = [*Snapshot(client, self._losses).values(), *logged.values()]
        if not all_same(replayed, stepped):
            self._exclude(client, kind, "a replay has other results than the step itself")
        self._exclude(client, kind, self._traces(client, watch, logged))
        if kind in self.reasons:
            self.counts["eager"] += 1
            return outputs
        self.counts["captured"] += 1
        self._captured[key] = captured
        if len(self._captured) > KEPT:
            self._captured.popitem(last=False)
        return outputs


def _keeps_state(optimizer: Any) -> bool:
    return type(optimizer) is not torch.optim.SGD or any(group["momentum"] for group in optimizer.param_groups)


def _rates(client: ClientState) -> Any:
    """The numbers of a client's optimizer, which are constants of a captured step."""
    groups = []
    for group in client.rates.optimizer.param_groups:
        settings = tuple((name, repr(value)) for name, value in group.items() if name != "params")
        groups.append((settings, tuple(map(id, group["params"]))))
    return tuple(groups), client.rates.lr_scale, tuple(client.rates.factors.values())


def _has_layer_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
