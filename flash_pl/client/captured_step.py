"""A captured step, and the values around it that must come out as those of the step itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flash_pl.client.recorder import Recorder
from flash_pl.client.state import ClientState


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

    def replay(self, client: ClientState) -> dict[str, Any]:
        """Take the step with ``client.batch``."""
        for place, part in zip(tree_leaves(self.batch), tree_leaves(client.batch), strict=True):
            place.copy_(part)
        self.recorder.replay()
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
        state = [value for _, _, value in state_tensors(client.optimizer.state)]  # type: ignore[union-attr]
        self._tensors = [client.arena, *client.module.buffers(), losses, *state]
        self._copies = [tensor.clone() for tensor in self._tensors]
        self._on_gpu = client.arena.is_cuda
        self._generator = torch.cuda.get_rng_state() if self._on_gpu else torch.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Give everything its value at the time of the snapshot."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        (torch.cuda.set_rng_state if self._on_gpu else torch.set_rng_state)(self._generator)

    def values(self) -> list[Tensor]:
        """The copies."""
        return [*self._copies, self._generator]


def state_tensors(state: Any) -> Iterator[tuple[Tensor, str, Tensor]]:
    """The tensors of an optimizer's state, each with its parameter and name."""
    for parameter, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                yield parameter, name, value
