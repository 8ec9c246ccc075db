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
from flash_pl.client.captured_step import CapturedStep, Snapshot, state_tensors
from flash_pl.client.plain_sgd import has_gradient_hooks, has_step_hooks
from flash_pl.client.recorder import NotRepeatable, Recorder, WaitWatch
from flash_pl.client.watch import PLAIN, StepWatch, WatchedIndex, python_state
from flash_pl.loops.failures import describe_error
from flash_pl.loops.local import LocalLoop, Step
from flash_pl.schedulers import SparseScheduler

WATCHED = 2  # steps of a kind that are looked at before one is captured; libraries also start up in them
KEPT = 16  # captured steps that are kept, the last ones used
OTHER_INDEX = 1_000_003  # added to the index of the batch while a step is captured: no result may depend on it
Eager = Callable[..., dict[str, Any]]


class CapturedLoop(LocalLoop):
    """Replays the steps that can be replayed. All others run as in ``LocalLoop``; the bits are the same.

    Weights, masks and buffers stay in their memory for all clients, so one captured step serves them all. A step is of
    another kind if shapes, modes or frozen parameters differ. It is captured for the learning rates and the attributes
    of the module that hold then, since these are constants in it. What runs between steps (moves of the mask,
    learning-rate schedulers, hooks before and after a batch) is Python as before.

    A kind runs step by step if a rule excludes it, or if one of its first steps waits for the device, changes Python
    state of the module, draws random numbers on the host, or asks for the epoch, the index, the optimizer or
    ``self.trainer``. The first replay must have the bits of the step itself.

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
        self.reasons: dict[Any, str] = {}
        self.counts: Counter[str] = Counter()
        self._watched: Counter[Any] = Counter()
        self._captured: OrderedDict[Any, CapturedStep] = OrderedDict()
        self._state: dict[tuple[Tensor, str], Tensor] = {}  # of the optimizer, where captured steps find it
        self.told: set[str] = set()
        self._states: dict[Any, tuple[int, Any]] = {}  # numbers of the module's Python states, and what they refer to
        self._places: list[int] = []  # of the module's tensors
        self._failure: str | None = None  # of a capture

    def start_client(self, client: ClientState, scheduler: SparseScheduler, context: ClientContext) -> None:
        super().start_client(client, scheduler, context)
        module = client.module
        self._parts, self._parameters = list(module.modules()), list(module.parameters())
        places = [tensor.data_ptr() for tensor in (*self._parameters, *module.buffers())]
        if places != self._places:  # between two runs of a loop the module is the user's
            self._captured.clear()
            self._places = places
        self._rule_is_known, self._placed = False, 0
        self._seen: set[Any] = set()  # keys of this client's steps
        self._own_values: list[Any] | None = None

    def step(self, client: ClientState, scheduler: SparseScheduler, training_step: Step, index: int) -> dict[str, Any]:
        def eager(index: int = index) -> dict[str, Any]:
            return super(CapturedLoop, self).step(client, scheduler, training_step, index)

        if not self._rule_is_known:  # at a client's first step, when its hooks are registered
            self._rule_is_known, self._rule = True, self.rule(client, scheduler)
            self._tell(client, self._rule)
        optimizer: Any = client.optimizer
        makes_state = _keeps_state(optimizer) and not optimizer.state  # as the first step of momentum does
        if self._rule is not None or client.backend.dense or makes_state:
            self.counts["eager"] += 1
            return eager()
        kind = self._kind(client)
        if kind in self.reasons:
            self.counts["eager"] += 1
            return eager()
        if self._watched[kind] < WATCHED:
            return self._watch(client, kind, eager, index)
        self._place_state(client)
        key = kind, self._python_state(client), _rates(client)
        if key not in self._captured:
            if key not in self._seen:  # a rate that comes once is not worth a capture
                self._seen.add(key)
                self.counts["eager"] += 1
                return eager()
            return self._capture(client, kind, key, eager, index)
        self._captured.move_to_end(key)
        self.counts["replayed"] += 1
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
        if module.watches_gradients:
            return "a hook of the module could read or change gradients"
        if method.forward_weights is not base.forward_weights or method.training is not base.training:
            return f"{method.__name__} changes what a step computes"
        if method.on_gradients is not base.on_gradients:
            return f"{method.__name__} looks at the gradients of every step"
        if any(map(_has_layer_hooks, self._parts)) or any(map(has_gradient_hooks, self._parameters)):
            return "layers or parameters have hooks"
        if self._scaler_start is not None:
            return "16-mixed asks after every backward pass whether a gradient overflowed"
        if has_step_hooks(optimizer):
            return "the optimizer has hooks"
        if any(schedule.interval == "step" for schedule in client.lr_schedulers):
            return "the learning rate changes at every step"
        if type(optimizer) is not torch.optim.SGD and not all(g.get("capturable") for g in optimizer.param_groups):
            return f"{type(optimizer).__name__} needs the host (torch's Adam does not with capturable=True)"
        if any(isinstance(value, Tensor) for group in optimizer.param_groups for value in group.values()):
            return "a setting of the optimizer is a tensor"
        return None

    def _kind(self, client: ClientState) -> Any:
        """What the operations of a step depend on, besides learning rates."""
        leaves, structure = tree_flatten(client.batch)
        batch = tuple(
            (part.shape, part.dtype, part.stride()) if isinstance(part, Tensor) else type(part) for part in leaves
        )
        modes = tuple(part.training for part in self._parts)
        frozen = tuple(parameter.requires_grad for parameter in self._parameters)
        with_state = len(client.optimizer.state)  # type: ignore[union-attr]
        return type(client.optimizer), with_state, structure, batch, modes, frozen, client.is_dense

    def _python_state(self, client: ClientState) -> int:
        """What steps read of the module besides its tensors; hooks and callbacks may change it between steps.

        All of it is looked at once a client and whenever a plain attribute of the module itself has changed.

        Returns:
            The number of the state.
        """
        own = [value for value in vars(client.module).values() if isinstance(value, PLAIN)]
        if own != self._own_values:
            self._own_values = own
            state = python_state(client.module, metrics=False)
            known = tuple(state.values.items())
            if known not in self._states:
                self._states[known] = len(self._states), state.alive
            self._state_number = self._states[known][0]
        return self._state_number

    def _watch(self, client: ClientState, kind: Any, eager: Eager, index: int) -> dict[str, Any]:
        """Take a step and look at what it does."""
        self._watched[kind] += 1
        self.counts["watched"] += 1
        outputs: dict[str, Any] = {}
        watch, watched_index = StepWatch(client.module, self.fabric.device), WatchedIndex(index)
        client.questions.clear()
        with WaitWatch() as waits, client.logged_calls() as logged:
            self.recorder.warm_up(lambda: outputs.update(eager(watched_index)))
        is_tensor = [isinstance(part, Tensor) for part in tree_leaves(client.batch)]
        reasons = [
            None if all(is_tensor) else "a batch has parts that are no tensors",
            f"training_step waits for the device ({waits.found})" if waits.found else None,
            (change := watch.change()) and f"training_step {change}",
            "training_step uses the index of the batch" if watched_index.used else None,
            f"training_step asks for {min(client.questions)}" if client.questions else None,
            "training_step skips a batch" if not outputs else None,
            logged.problem and f"training_step {logged.problem}",
        ]
        if reason := next(filter(None, reasons), None):
            self.reasons[kind] = reason
            self._tell(client, reason)
        return outputs

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
            if place is not value:
                state[parameter][name] = place.copy_(value)

    def _capture(self, client: ClientState, kind: Any, key: Any, eager: Eager, index: int) -> dict[str, Any]:
        """Capture a step and compare its replay with the step itself, from which the client goes on."""
        before, batch = Snapshot(client, self._losses), client.batch
        state: Any = client.optimizer.state  # type: ignore[union-attr]
        had_state = {(parameter, name) for parameter, name, _ in state_tensors(state)}
        captured = CapturedStep(self.recorder(), tree_map(torch.clone, batch))
        for parameter in self._parameters:
            parameter.grad = None  # the backward pass then makes them where replays find them
        client.batch = captured.batch
        try:
            with client.logged_calls(forward=False) as logged:
                captured.recorder.record(lambda: captured.outputs.update(eager(index + OTHER_INDEX)))
        except NotRepeatable as error:
            # What can fail has been looked for before, so no other capture is tried.
            self._failure = self._rule = f"a capture has failed: {error}"
            rank_zero_warn(f"no more steps are captured: {error}")
        except Exception as error:  # of the module: the step itself, with its own index, may have none
            self.reasons[kind] = f"a capture has failed: {describe_error(error)}"
            self._tell(client, self.reasons[kind])
        finally:
            client.batch = batch
        captured.calls = logged.calls
        captured.gradients = [(parameter, parameter.grad) for parameter in self._parameters]
        before.restore()
        for owner, name, _ in list(state_tensors(state)):
            if (owner, name) not in had_state:
                del state[owner][name]
                self.reasons[kind] = "the optimizer makes state in this step"
        if self._failure is not None or kind in self.reasons:
            return eager()
        captured.recorder.replay()
        replayed = [*Snapshot(client, self._losses).values(), *logged.values()]
        before.restore()
        with client.logged_calls() as logged:
            outputs = eager()
        stepped = [*Snapshot(client, self._losses).values(), *logged.values()]
        same = len(replayed) == len(stepped) and all(map(torch.equal, replayed, stepped))
        if same:
            self.counts["captured"] += 1
            self._captured[key] = captured
            if len(self._captured) > KEPT:
                self._captured.popitem(last=False)
        else:
            self.reasons[kind] = "a replay has other results than the step itself"
            self._tell(client, self.reasons[kind])
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
