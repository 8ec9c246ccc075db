"""The arena, the mask and the optimizer of the client that is training now."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from flash_pl.client.backend import Backend
from flash_pl.client.logging import Meter
from flash_pl.client.optimizers import Schedule
from flash_pl.errors import ModuleError
from flash_pl.seeding import generator
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class ClientContext:
    """Facts of one client's local training; ``purpose`` keeps the draws of stage 1 and stage 2 apart."""

    client: int
    round: int
    epochs: int  # local epochs E
    batches: int  # per epoch
    seed: int
    purpose: str = "round"
    lr_scale: float = 1.0  # multiplies the module's own learning rates
    tier: int = 0  # of the budget, 0 for the smallest

    @property
    def steps(self) -> int:
        """Local steps of the round, E * batches."""
        return self.epochs * self.batches

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of (seed, purpose, round, client)."""
        return generator(self.seed, f"{self.purpose}/{purpose}", self.round, self.client)


def samples_in(batch: Any) -> int:
    """Number of samples of a batch: the first dimension of its tensors."""
    first = batch[0] if type(batch) is tuple else None
    return len(first) if isinstance(first, Tensor) and first.ndim else extract_batch_size(batch)


class OwnBuffers:
    """A module's buffers outside the arena. They must not pass from one client to the next."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        inside = {slot.name for slot in layout.slots}
        self._buffers = {name: buffer for name, buffer in module.named_buffers() if name not in inside}
        self._first = {name: buffer.clone() for name, buffer in self._buffers.items()}

    def reset(self) -> None:
        """All are as at first."""
        for name, buffer in self._buffers.items():
            buffer.copy_(self._first[name])

    def first(self) -> dict[str, Tensor]:
        """What they are at first, by their names, on the CPU."""
        return {name: value.cpu() for name, value in self._first.items()}

    @torch.no_grad()
    def start_from(self, values: Mapping[str, Tensor]) -> None:
        """Be at first what ``values`` has under their names: those of another process, or of the run that goes on.

        Raises:
            ModuleError: one of them has another shape.
        """
        for name in self._buffers.keys() & values.keys():
            mine, other = self._first[name], values[name]
            if mine.shape != other.shape:
                raise ModuleError(f"{name} is {[*other.shape]} in the run that goes on, here {[*mine.shape]}")
            mine.copy_(other)
        self.reset()

    def replaced(self, found: Mapping[str, Tensor]) -> list[str]:
        """The names under which ``found`` has other tensors."""
        return [name for name, buffer in self._buffers.items() if found.get(name) is not buffer]


class GradientHook(Protocol):
    """The one scheduler hook that fires inside the module's own hooks."""

    def on_dense_gradients(self, client: Any, step: int) -> None: ...


class ClientState:
    """What a scheduler sees of a client, and all that changes from one client to the next.

    Attributes:
        module: the LightningModule; its tensors are views into ``arena``.
        layout: the plan of the arena.
        arena: ``[layout.size]``; ``weights`` is its maskable head ``[layout.maskable]``.
        mask: bool ``[layout.maskable]``. Change it by ``receive`` and ``move_mask_`` only.
        context: the facts of the local training under way.
        optimizer, schedules: its optimizer, and what changes the learning rates during the training.
        step, epoch: local steps done, the local epoch under way.
        dense_steps: those that computed the gradients of pruned weights.
        batch: the batch under way.
        meter: what the module logged.
        backend: what computes the layers.
    """

    context: ClientContext
    optimizer: Optimizer | None = None
    schedules: Sequence[Schedule] = ()
    batch: Any = None

    def __init__(self, module: L.LightningModule, layout: Layout, scheduler: GradientHook) -> None:
        self.module, self.layout, self.scheduler = module, layout, scheduler
        self.arena = layout.flatten_(module)
        self.weights = self.arena[: layout.maskable]
        parameters = dict(module.named_parameters())
        self._parameters = [parameters[layer.name] for layer in layout.layers]
        self.backend = Backend()
        self._keep = torch.ones_like(self.weights)
        self._keep_views = [layer.view(self._keep) for layer in layout.layers]
        self.mask = torch.ones_like(self.weights, dtype=torch.bool)
        self._dense = True
        self.meter = Meter()
        self.buffers = OwnBuffers(module, layout)
        self.step = self.epoch = self.dense_steps = 0
        self._densities: Tensor | None = None
        self._modes = [(part, part.training) for part in module.modules()]
        self._frozen = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
        self._metrics = [part for part in module.modules() if isinstance(part, Metric)]

    @property
    def batch_samples(self) -> int:
        """Number of samples of the batch under way; 1 between batches."""
        return 1 if self.batch is None else samples_in(self.batch)

    def begin(self, context: ClientContext, scheduler: GradientHook) -> None:
        """Forget the client before, optimizer and meters included, and what it has frozen or switched to evaluation;
        ``scheduler`` sees the gradients from now on."""
        self.context, self.scheduler, self.optimizer = context, scheduler, None
        for parameter, trains in self._frozen:
            parameter.requires_grad_(trains).grad = None
        for part, training in self._modes:
            part.training = training
        self._trained, self._counted = torch.zeros(len(self.layout.layers), dtype=torch.float64), 0
        self.forget()

    def forget(self) -> None:
        """Whatever the module kept of the client before is as it was at first: meters, counters, what is not sent."""
        self.step = self.epoch = self.dense_steps = 0
        self.batch = None
        self.meter.reset()
        for metric in self._metrics:
            metric.reset()
        self.buffers.reset()

    def check_tensors(self) -> None:
        """The module's tensors are those that were bound.

        Raises:
            ModuleError: another one stands in the place of one of them, which nobody sends, averages or evaluates.
        """
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        moved = self.buffers.replaced(tensors)
        for slot in self.layout.slots:
            found, expected = tensors.get(slot.name), slot.view(self.arena)
            if found is None or found.data_ptr() != expected.data_ptr():
                moved.append(slot.name)
        if moved:
            raise ModuleError(f"{moved[0]} is not the tensor any more that it was; change it in place, as by copy_()")

    def receive(self, weights: Tensor, mask: Tensor) -> None:
        """Start from the server's arena ``weights`` ``[layout.size]`` under ``mask``; pruned weights become 0."""
        self.arena.copy_(weights)
        self._set_mask(mask)
        self.prune_()

    def prune_(self) -> None:
        """Pruned weights become 0."""
        if not self._dense:
            self.weights.mul_(self._keep)

    def move_mask_(self, mask: Tensor, survivors: Tensor) -> None:
        """Change the mask: all weights but the ``survivors`` (bool ``[maskable]``) become 0, their momenta too."""
        self._count_steps()
        self.weights.mul_(survivors)
        self._set_mask(mask)
        state = self.optimizer.state if self.optimizer else {}
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            for value in state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.mul_(layer.view(survivors))

    @contextmanager
    def computing_with(self, weights: Tensor | None) -> Iterator[None]:
        """While it is entered, ``weights`` ``[maskable]`` stand in the place of the client's own, unless None."""
        if weights is None:
            yield
            return
        own = self.weights.clone()
        self.weights.copy_(weights)
        try:
            yield
        finally:
            self.weights.copy_(own)

    @property
    def densities(self) -> Tensor:
        """Of the mask, float64 ``[layers]``."""
        if self._densities is None:
            self._densities = self.layout.densities(self.mask)
        return self._densities

    def by_layer(self, values: Tensor | None) -> dict[Tensor, float]:
        """The maskable parameters with their layer's number out of ``values`` ``[layers]``; none without values."""
        return {} if values is None else dict(zip(self._parameters, values.tolist(), strict=True))

    @property
    def trained_densities(self) -> Tensor:
        """Of the masks of all steps so far, their mean, float64 ``[layers]``."""
        self._count_steps()
        return self._trained / self._counted if self._counted else self.densities

    def _count_steps(self) -> None:
        """Add the densities of the steps since the mask was last changed."""
        if self.step > self._counted:
            self._trained += (self.step - self._counted) * self.densities
            self._counted = self.step

    def gradients(self) -> Tensor:
        """The gradients of the maskable weights ``[layout.maskable]``, a copy; 0 where there is none.

        Those of pruned weights are right only in steps that compute them, see ``wants_dense_gradients``, and only in
        ``on_dense_gradients``: then they become 0. Others stay until the next step, also where the kernels have left
        no ``grad`` at the parameters.
        """
        found = torch.zeros_like(self.weights)
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            if parameter.grad is not None:
                layer.view(found).copy_(parameter.grad)
            if sink := self.backend.sgd.sink(parameter):
                sink.add_to_(layer.view(found))
        return found

    @torch.no_grad()
    def scale_gradients_(self, factors: Tensor) -> None:
        """Multiply the gradients of the maskable weights by ``factors`` ``[layout.maskable]``."""
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(layer.view(factors))

    def mask_gradients_(self) -> None:
        """The scheduler sees the gradients, then those of pruned weights become 0."""
        self.scheduler.on_dense_gradients(self, self.step)
        self.drop_gradients_()

    def drop_gradients_(self) -> None:
        """Gradients of pruned weights become 0; with them the weights stay 0, whatever a usual optimizer does."""
        if self._dense:
            return
        pairs = [
            (p.grad, keep) for p, keep in zip(self._parameters, self._keep_views, strict=True) if p.grad is not None
        ]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [keep for _, keep in pairs])

    def _set_mask(self, mask: Tensor) -> None:
        self.backend.follow(mask)
        if mask is not self.mask:
            self.mask, self._densities = mask, None
            self._keep.copy_(mask.view(torch.uint8))  # from bool itself it takes ten times as long
            self._dense = int(mask.count_nonzero()) == mask.numel()
