"""A captured step, and the values around it that must come out as those of the step itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flash_pl.client.recorder import Recorder
from flash_pl.client.state import ClientState
from flash_pl.client.watch import same_values


@dataclass
class CapturedStep:
    """A step that can be replayed.

    Attributes:
        recorder: replays its operations.
        batch: where they read the batch.
        outputs: what ``LocalLoop.step`` returned; a replay renews its tensors.
        calls: what the step logs, see ``LoggedCalls``.
        gradients: the parameters' gradients.
    """

    recorder: Recorder
    batch: Any
    outputs: dict[str, Any] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)
    gradients: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @torch.no_grad()
    def compute(self, batch: Any) -> None:
        """Repeat the operations of the step with ``batch``."""
        for place, part in zip(tree_leaves(self.batch), tree_leaves(batch), strict=True):
            place.detach().copy_(part)
        self.recorder.replay()

    def replay(self, client: ClientState) -> dict[str, Any]:
        """Take the step with ``client.batch``."""
        self.compute(client.batch)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        for name, value, args, kwargs in self.calls:
            client.meter.log(client.batch, name, value, *args, **kwargs)
        return dict(self.outputs)


class Snapshot:
    """Copies of everything that a step changes: weights, buffers, the optimizer's state, the generator of the device.

    Args:
        client: who takes the step.
        losses: the sum of its losses.
    """

    def __init__(self, client: ClientState, losses: Tensor) -> None:
        self._state: Any = client.optimizer.state  # type: ignore[union-attr]
        self._entries = {parameter: dict(values) for parameter, values in self._state.items()}
        state = [value for _, _, value in state_tensors(self._state)]
        self._tensors = [client.arena, *client.module.buffers(), losses, *state]
        self._copies = [tensor.clone() for tensor in self._tensors]
        self._on_gpu = client.arena.is_cuda
        self._generator = torch.cuda.get_rng_state() if self._on_gpu else torch.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Give everything its value at the time of the snapshot."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        for parameter in list(self._state):
            self._state[parameter].clear()
            self._state[parameter].update(self._entries.get(parameter, {}))
            if parameter not in self._entries:
                del self._state[parameter]
        (torch.cuda.set_rng_state if self._on_gpu else torch.set_rng_state)(self._generator)

    def has_same_entries(self) -> bool:
        """Whether the optimizer's state has the same objects as at the time of the snapshot."""
        now, before = _entries(self._state), _entries(self._entries)
        return now.keys() == before.keys() and all(now[key] is before[key] for key in now)

    def values(self) -> list[Tensor]:
        """The copies."""
        return [*self._copies, self._generator]


def is_plain(part: Any) -> bool:
    """Whether a part of a batch is a tensor of the usual kind, which can be copied into another one."""
    return type(part) is Tensor and part.layout is torch.strided and not part.is_inference()


def marks(batch: Any) -> list[Any]:
    """What changes with the tensors of a batch."""
    return [(id(part), part._version, part.requires_grad) for part in tree_leaves(batch) if is_plain(part)]


def all_same(first: list[Any], second: list[Any]) -> bool:
    """Whether two lists of tensors and other values are equal; NaN is equal to NaN."""
    return len(first) == len(second) and all(map(_same, first, second))


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return same_values(first, second)
    return type(first) is type(second) and bool(first == second)


def _entries(state: Any) -> dict[Any, Any]:
    return {(parameter, name): value for parameter, values in state.items() for name, value in values.items()}


def state_tensors(state: Any) -> Iterator[tuple[Tensor, str, Tensor]]:
    """The tensors of an optimizer's state, each with its parameter and name."""
    for parameter, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                yield parameter, name, value
