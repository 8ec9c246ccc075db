"""The client that is training now: its weights, mask, optimizer and context."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from flash_pl.client.backend import Backend
from flash_pl.client.bound_tensors import BoundTensors
from flash_pl.client.context import ClientContext, GradientHooks
from flash_pl.client.in_place import InPlace
from flash_pl.client.logging import LoggedCalls, Meter
from flash_pl.client.optimizers import LRSchedule, ScaledRates, configure_optimizer, keeps_zeros
from flash_pl.client.ownership import LocalBuffers, own_strides
from flash_pl.client.plain_sgd import own_grad
from flash_pl.errors import ModuleError, SchedulerError
from flash_pl.kernels import largest_outside, masked_copy_, prune_
from flash_pl.sparsity import Layout, changes_of, check_unchanged, mask_problem


class ClientState:
    """The client that is training now, as a sparse scheduler sees it.

    One object serves all clients, one after the other. It holds everything that changes from one client to the next.

    Args:
        module: the LightningModule; its tensors become views into ``arena``.
        layout: the places of the module's tensors in the arena.
        scheduler: sees the gradients; None for no scheduler.

    Attributes:
        arena: ``[layout.size]``; ``weights`` is its maskable head ``[layout.maskable]``. Both change in place only.
        mask: bool ``[layout.maskable]``. Only ``receive`` and ``move_mask_`` may change it.
        context: facts about the current local training.
        optimizer, lr_schedulers: of the current training, with the module's own learning rates.
        rates: the learning rates at which the optimizer steps.
        step, epoch: number of local steps done, index of the current local epoch.
        dense_steps: number of steps that computed the gradients of pruned weights.
        batch: the current batch, None between batches.
        meter: what the module has logged.
        validating: a model is evaluated with the client's module.
        questions: the attributes of a Trainer for which the module has asked; whoever wants to know clears them before.
        backend: computes the layers.
        local_buffers: the module's buffers outside of the arena.
        own_strides: the strides that the module's tensors have outside of the arena.

    >>> from flash_pl.client import Classifier, federate
    >>> module = federate(Classifier)(torch.nn.Linear(2, 2, bias=False), classes=2)
    >>> client = module.bind(Layout(module))
    >>> client.receive(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask=torch.tensor([True, False, False, True]))
    >>> client.weights
    tensor([1., 0., 0., 4.])
    >>> module.model.weight.data  # a view into the arena
    tensor([[1., 0.],
            [0., 4.]])
    >>> client.densities
    tensor([0.5000], dtype=torch.float64)
    """

    arena = InPlace("change it in place, as with arena.copy_()")
    weights = InPlace("change it in place, as with weights.mul_()")
    mask = InPlace("move it by client.move_mask_")
    context: ClientContext
    optimizer: Optimizer | None = None
    lr_schedulers: Sequence[LRSchedule] = ()
    rates: ScaledRates
    batch: Any = None
    validating = False

    def __init__(self, module: L.LightningModule, layout: Layout, scheduler: GradientHooks | None = None) -> None:
        self.module, self.layout, self.scheduler = module, layout, scheduler
        self.own_strides = own_strides(module)
        self._arena = layout.flatten_(module)
        self._tensors = BoundTensors(module, layout, self._arena)
        self._weights = self._arena[: layout.maskable]
        self._mask = torch.ones_like(self._weights, dtype=torch.bool)
        self.backend = Backend()
        self.local_buffers = LocalBuffers(module, layout)
        self.step = self.epoch = self.dense_steps = 0
        parameters = dict(module.named_parameters())
        self._parameters = [parameters[layer.name] for layer in layout.layers]
        self._keep = torch.ones_like(self.weights)  # the mask in the weights' dtype
        self._keep_views = [layer.view(self._keep) for layer in layout.layers]
        self._dense = True  # the mask is all ones
        self._densities: Tensor | None = None
        self._mask_changes = changes_of(self.mask)
        self._received = self._shows_gradients = False
        self._metrics = [part for part in module.modules() if isinstance(part, Metric)]
        self.meter = self.new_meter()
        self.questions: set[str] = set()

    # One client after the other

    def receive(self, weights: Tensor, mask: Tensor) -> None:
        """Start from the server's arena ``weights`` ``[layout.size]`` under ``mask``; pruned weights become 0."""
        self._set_mask(mask)
        if self._dense:
            self.arena.copy_(weights)
        else:  # one pass over memory instead of a copy and a product
            masked_copy_(self.weights, weights[: self.layout.maskable], self.mask)
            self.arena[self.layout.maskable :].copy_(weights[self.layout.maskable :])
        self._received = True

    def start_training(self, context: ClientContext, scheduler: GradientHooks) -> None:
        """Forget the previous client: its optimizer, gradients and logged metrics, and which parameters and layers it
        has frozen or switched to evaluation mode. ``scheduler`` sees the gradients from now on."""
        self.context, self.scheduler, self.optimizer = context, scheduler, None
        self._tensors.restore_modes()
        self.backend.sgd.release()
        self._density_sum, self._counted_steps = torch.zeros(len(self.layout.layers), dtype=torch.float64), 0
        self.reset()

    def new_meter(self) -> Meter:
        """A meter for what the module logs."""
        return Meter(self._metrics)

    @contextmanager
    def logged_calls(self, forward: bool = True) -> Iterator[LoggedCalls]:
        """Note what the module logs inside the ``with`` block; without ``forward`` the meter does not get it."""
        meter = self.meter
        self.meter = logged = LoggedCalls(meter if forward else None)
        try:
            yield logged
        finally:
            self.meter = meter

    def create_optimizer(self, layer_rates: Tensor | None = None) -> None:
        """Make a new ``optimizer``, with ``lr_schedulers`` and ``rates``.

        Args:
            layer_rates: factors of the maskable layers' learning rates, ``[layers]``.

        Raises:
            ModuleError: the module returns optimizers that a client cannot use.
        """
        factors: dict[Tensor, float] = {}
        if layer_rates is not None:
            factors = dict(zip(self._parameters, layer_rates.tolist(), strict=True))
        self.optimizer, self.lr_schedulers = configure_optimizer(self.module)
        self.rates = ScaledRates(self.optimizer, self.context.lr_scale, factors)
        self._prune_always = not keeps_zeros(self.optimizer) or self.module.watches_gradients

    def reset(self) -> None:
        """Set step counters, logged metrics and local buffers back to their initial values."""
        self.step = self.epoch = self.dense_steps = 0
        self.batch = None
        self.meter.reset()
        for metric in self._metrics:
            metric.reset()
        self.local_buffers.reset()

    @property
    def user_class(self) -> str:
        """Name of the user's class of the module, for messages."""
        return getattr(self.module, "_user_class", type(self.module)).__name__

    def weight_norm_of_nothing(self) -> str | None:
        """Return the name of the first parameter that ``weight_norm`` would turn into NaN under the mask, or None."""
        return None if self._dense else self._tensors.weight_norm_of_nothing()

    def check_tensors(self) -> None:
        """Check that the module still has the tensors with which it was bound, and trains no others.

        Raises:
            ModuleError: the module has replaced a tensor, or its optimizer has one of no slot. It would not be sent,
                averaged or evaluated.
        """
        if getattr(self.module, "_client", None) is not self:
            raise ModuleError("the module is no client now; ClientState.attach_ makes it one again")
        if (name := self.local_buffers.replaced() or self._tensors.replaced()) is not None:
            raise ModuleError(f"{name} was replaced by another tensor; change it in place, as with copy_()")
        if self.optimizer is not None and (parameter := self._tensors.not_sent(self.optimizer)) is not None:
            problem = f"trains a tensor of shape {[*parameter.shape]} that is not sent to the server"
            hint = "make it a parameter of the module before the run begins"
            raise ModuleError(f"{self.user_class}.configure_optimizers: the optimizer {problem}; {hint}")

    # The module, whose owner is the user outside of a run

    def detach_(self) -> None:
        """Give the module back to the user: its tensors have memory of their own, as before ``bind``.

        Layers and parameters have their initial modes again, gradients are None. A module that has received a mask
        keeps it: a stock Trainer leaves its pruned weights at 0. ``attach_`` undoes this.
        """
        module: Any = self.module
        if module._client is not self:
            return
        self.backend.sgd.release()
        self._tensors.restore_modes()
        self.reset()
        self.scheduler = self.optimizer = None
        if self._received:
            self.prune_()
            masks = zip(self.layout.layers, self._keep_views, strict=True)
            module._kept = {} if self._dense else {layer.name: keep.bool() for layer, keep in masks}
        self._tensors.give_back_(self.own_strides)
        self._of_run = module._fabric, module._run_facts
        module._fabric = module._run_facts = module._client = None

    def attach_(self) -> None:
        """Make the module's tensors views into the arena again, for another run."""
        module: Any = self.module
        if module._client is self:
            return
        self._tensors.take_()
        (module._fabric, module._run_facts), module._client = self._of_run, self

    # Weights and mask

    def prune_(self) -> None:
        """Set pruned weights to 0."""
        if not self._dense:
            prune_(self.weights, self.mask)

    def prune_before_step_(self) -> None:
        """Set pruned weights to 0 before a step computes with them, if the step before may have changed them.

        After steps of the usual optimizers with masked gradients they are 0 already. That is checked once per client.

        Raises:
            ModuleError: the module's own code has changed pruned weights.
        """
        if self._dense:
            return
        if self._prune_always:
            self.prune_()
        elif self.step == 1:
            largest = largest_outside(self.weights, self.mask)
            if largest and math.isfinite(largest):  # the loss tells of others
                name = self.layout.slot_of_largest(self.weights.masked_fill(self.mask, 0))
                raise ModuleError(
                    f"after the first step of a client pruned weights of {name} are not 0: {self.user_class} or "
                    f"{type(self.scheduler).__name__} has changed them; a module may do so in on_train_batch_end"
                )

    def move_mask_(self, mask: Tensor, survivors: Tensor) -> None:
        """Change the mask. Weights outside ``survivors`` (bool ``[maskable]``) and their optimizer state become 0.

        Raises:
            ValueError: one of them is no mask.
            SchedulerError: the client's mask was changed in place before.
        """
        for name, given in {"mask": mask, "survivors": survivors}.items():
            if problem := mask_problem(given, self.layout.maskable):
                raise ValueError(f"{type(self.scheduler).__name__}: {name} of client.move_mask_ {problem}")
        self.check_mask()
        self._count_steps()
        self.weights.mul_(survivors)
        self._set_mask(mask)
        if self.optimizer is None:
            return
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # Rprop's step sizes begin at the learning rate, all other state at 0.
                    start = float(rates[id(parameter)]) if name == "step_size" else 0.0
                    value.masked_fill_(~layer.view(survivors), start)

    @contextmanager
    def replaced_weights(self, weights: Tensor | None) -> Iterator[None]:
        """Compute with ``weights`` ``[maskable]`` inside the ``with`` block; None keeps the client's own."""
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
    def is_dense(self) -> bool:
        """Whether the mask is all ones."""
        return self._dense

    @property
    def densities(self) -> Tensor:
        """Layer densities of the mask, float64 ``[layers]``."""
        if self._densities is None:
            self._densities = self.layout.densities(self.mask)
        return self._densities

    @property
    def trained_densities(self) -> Tensor:
        """Layer densities of the mask, averaged over all steps so far, float64 ``[layers]``."""
        self._count_steps()
        return self._density_sum / self._counted_steps if self._counted_steps else self.densities

    def _count_steps(self) -> None:
        """Add the densities of the steps since the last change of the mask."""
        if self.step > self._counted_steps:
            self._density_sum += (self.step - self._counted_steps) * self.densities
            self._counted_steps = self.step

    def check_mask(self) -> None:
        """Check that ``mask`` is as it was set.

        Raises:
            SchedulerError: it was changed in place.
        """
        check_unchanged(self.mask, self._mask_changes, type(self.scheduler).__name__, "use client.move_mask_")

    def _set_mask(self, mask: Tensor) -> None:
        self.backend.set_mask(mask)
        if mask is not self.mask:
            counts = self.layout.counts(mask)  # the host waits for a GPU once, here
            self._mask, self._densities = mask, counts.double() / self.layout.sizes
            self._mask_changes = changes_of(mask)
            self._keep.copy_(mask.view(torch.uint8))  # ten times faster than a copy from bool
            self._dense = int(counts.sum()) == mask.numel()

    # Gradients

    def gradients(self) -> Tensor:
        """Return a copy of the gradients of the maskable weights ``[layout.maskable]``; 0 for a missing gradient.

        Gradients of pruned weights are right only in ``on_dense_gradients``; afterward they become 0. Gradients of
        active weights stay until the next step.
        """
        gradients = torch.zeros_like(self.weights)
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            if parameter.grad is not None:
                layer.view(gradients).copy_(parameter.grad)
        return gradients

    @torch.no_grad()
    def scale_gradients_(self, factors: Tensor) -> None:
        """Multiply the gradients of the maskable weights by ``factors`` ``[layout.maskable]``.

        Raises:
            SchedulerError: the scheduler is not in ``on_gradients``; the optimizer would not see the factors.
        """
        if not self._shows_gradients:
            raise SchedulerError(f"{type(self.scheduler).__name__}: use client.scale_gradients_ in on_gradients only")
        for parameter, layer in zip(self._parameters, self.layout.layers, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(layer.view(factors))

    def mask_gradients_(self) -> None:
        """Show the gradients to the scheduler, then set those of pruned weights to 0."""
        if self.scheduler is not None:
            if self.scheduler.wants_dense_gradients(self, self.step):
                self.scheduler.on_dense_gradients(self, self.step)
            self._shows_gradients = True
            try:
                self.scheduler.on_gradients(self, self.step)
            finally:
                self._shows_gradients = False
        self.zero_pruned_gradients_()

    def zero_pruned_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0, so that the usual optimizers leave these weights at 0."""
        if self._dense:
            return
        # Gradients that are still in a sink are those of active weights only.
        gradients = [own_grad(parameter) for parameter in self._parameters]
        pairs = [(grad, keep) for grad, keep in zip(gradients, self._keep_views, strict=True) if grad is not None]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [keep for _, keep in pairs])
