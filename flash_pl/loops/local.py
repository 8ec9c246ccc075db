"""One client's training: the hooks of Lightning's Trainer in the Trainer's order, and those of the sparse scheduler."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.client import ClientContext, ClientState, GradientClipping, samples_in
from flash_pl.data import Batches
from flash_pl.errors import EXPLAINED, ModuleError, as_yaml
from flash_pl.kernels import largest_outside
from flash_pl.loops.failures import Fault, diverged
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed, seed_global_rng_
from flash_pl.server import ClientUpdate

Step = Callable[[Any, int], Any]

# Every client's first loss scale under 16-mixed, low enough to lose few of the first steps to an overflow.
LOSS_SCALE = 2.0**12


class LocalLoop:
    """Trains the bound client on its own batches.

    With the same batches the weights are bitwise those of ``Trainer.fit``; tests/client/test_parity.py compares them.

    Args:
        fabric: precision and devices.
        clipping: of the gradients.
    """

    def __init__(self, fabric: Fabric, clipping: GradientClipping | None = None) -> None:
        self.fabric, self.clipping = fabric, clipping or GradientClipping()
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        self._scaler_start = scaler.state_dict() | {"scale": LOSS_SCALE} if scaler is not None else None
        self._losses = torch.zeros((), device=fabric.device)  # their sum over the client's steps

    def run(
        self, client: ClientState, scheduler: SparseScheduler, batches: Batches, context: ClientContext
    ) -> ClientUpdate:
        """Train ``context.epochs`` epochs from where ``client.receive`` left the weights.

        Returns:
            The update; the trained weights are ``client.arena``.

        Raises:
            Fault: a loss was not finite, or the scheduler has returned something else than it should.
            SchedulerError: the scheduler has changed the mask in place.
        """
        module = client.module
        self.start_client(client, scheduler, context)
        transfer, training_step = Transfer(module, self.fabric), step_with_index(module.training_step)
        order, extra_samples = context.generator("batches"), 0
        with self._explaining_divergence(client):
            try:
                with self._context_of(scheduler, client):
                    module.on_fit_start()
                    module.on_train_start()
                    self._let_backend_step(client, scheduler)  # hooks on gradients are registered by now
                    for client.epoch in range(context.epochs):
                        module.on_train_epoch_start()
                        for index, batch in enumerate(batches.shuffled(order)):
                            client.batch = transfer(batch)
                            if self.start_step(client, scheduler, index):
                                outputs = self.step(client, scheduler, training_step, index)
                                self.end_step(client, scheduler, outputs, index)
                            else:
                                break
                        client.batch = None
                        module.on_train_epoch_end()
                    if client.step == context.steps and scheduler.wants_batch_after_training(client):
                        extra_samples = self._measure_gradients(client, scheduler, next(iter(batches.shuffled(order))))
                    module.on_train_end()
                    module.on_fit_end()
            finally:
                # The next evaluation must not depend on this client.
                client.backend.dense = client.backend.training_backward = False
            if not math.isfinite(float(self._losses)):  # once and not at every step: it waits for the device
                raise diverged("its loss is not finite", client)
            return self.make_update(client, scheduler, batches, context, extra_samples)

    @contextmanager
    def _explaining_divergence(self, client: ClientState) -> Iterator[None]:
        """An error of code that cannot work with a diverged client, such as a move of its mask, has this cause."""
        try:
            yield
        except (Fault, *EXPLAINED):
            raise
        except Exception as error:
            if not math.isfinite(float(self._losses)):
                raise diverged("its loss is not finite", client) from error
            if not client.arena.isfinite().all():
                raise diverged("its weights are not finite", client) from error
            raise

    def _context_of(self, scheduler: SparseScheduler, client: ClientState) -> AbstractContextManager[object]:
        context = scheduler.training(client)
        if not isinstance(context, AbstractContextManager):
            raise Fault(f"{type(scheduler).__name__}.training returns {as_yaml(context)}, not a context manager")
        return context

    def start_client(self, client: ClientState, scheduler: SparseScheduler, context: ClientContext) -> None:
        """Forget the previous client, and make the optimizer of this one."""
        client.start_training(context, scheduler)
        self._module_sees_gradients = client.module.gradient_hook is not None
        self._losses.zero_()
        self._reset_loss_scale()
        # A module's own draws (dropout) have a name like every other draw.
        seed = derive_seed(context.seed, f"{context.purpose}/module", context.round, context.client)
        seed_global_rng_(seed, self.fabric.device)
        if name := client.weight_norm_of_nothing():
            remedy = "exclude this layer, or use a larger density"
            raise Fault(f"the mask leaves {name} a norm of 0, and weight_norm would be NaN; {remedy}")
        scheduler.on_client_start(client, context)
        layer_rates = scheduler.layer_rates(client)
        if layer_rates is not None:
            check_layers(layer_rates, client, f"{type(scheduler).__name__}.layer_rates")
        client.create_optimizer(layer_rates)
        self._check_clipping(client)

    def start_step(self, client: ClientState, scheduler: SparseScheduler, index: int) -> bool:
        """What comes before step ``index`` of the epoch; False if the module ends the epoch here."""
        dense = bool(scheduler.wants_dense_gradients(client, client.step))
        client.backend.dense = dense or self._module_sees_gradients
        if client.module.on_train_batch_start(client.batch, index) == -1:
            return False
        client.dense_steps += dense
        client.prune_before_step_()
        return True

    def step(self, client: ClientState, scheduler: SparseScheduler, training_step: Step, index: int) -> dict[str, Any]:
        """Forward pass, backward pass, mask and optimizer, for ``client.batch``.

        Returns:
            What ``training_step`` has returned, as a dictionary; empty if it skips the batch.
        """
        module, optimizer, fabric, batch = client.module, client.optimizer, self.fabric, client.batch
        assert optimizer is not None
        outputs: dict[str, Any] = {}
        with client.replaced_weights(self.forward_weights(client, scheduler)):
            with fabric.autocast():
                output = training_step(batch, index)
            module.on_before_zero_grad(optimizer)
            client.backend.sgd.clear()
            module.optimizer_zero_grad(client.epoch, index, optimizer)
            if output is not None:
                outputs = dict(output) if isinstance(output, Mapping) else {"loss": output}
                loss = loss_of(outputs, client)
                self._losses += loss.detach().float().reshape(())
                module.on_before_backward(loss)
                client.backend.training_backward = True
                module.backward(loss)
                client.backend.training_backward = False
        if output is not None:
            module.on_after_backward()
            if not getattr(optimizer, "_step_supports_amp_scaling", False):
                fabric.strategy.precision.unscale_gradients(optimizer)
            self.before_optimizer_step(client, optimizer)
            module.configure_gradient_clipping(optimizer, self.clipping.value, self.clipping.algorithm)
            # The round's decay and the scheduler's layer rates hold during the step.
            with client.rates.applied(), client.backend.sgd.stepping():
                fabric.strategy.optimizer_step(optimizer)
            outputs |= {"loss": loss.detach()}
        return outputs

    def end_step(self, client: ClientState, scheduler: SparseScheduler, outputs: dict[str, Any], index: int) -> None:
        """Learning-rate schedulers and hooks after step ``index`` of the epoch; the mask may move."""
        client.step += 1
        for schedule in client.lr_schedulers:
            if schedule.due(index + 1, client.context.batches, client.epoch + 1):
                client.module.lr_scheduler_step(schedule.lr_scheduler, None)
        client.module.on_train_batch_end(outputs, client.batch, index)
        scheduler.on_batch_end(client, client.step)

    def make_update(
        self,
        client: ClientState,
        scheduler: SparseScheduler,
        batches: Batches,
        context: ClientContext,
        extra_samples: int,
    ) -> ClientUpdate:
        """What the trained client sends, without its weights."""
        client.check_tensors()
        client.prune_()  # a hook of the module may have changed pruned weights
        trained_densities, name_of = scheduler.trained_densities(client), type(scheduler).__name__
        check_layers(trained_densities, client, f"{name_of}.trained_densities")
        extra = scheduler.on_client_end(client, context)
        if not isinstance(extra, Mapping):
            raise Fault(f"{name_of}.on_client_end returns {as_yaml(extra)}, not a dictionary of tensors")
        for name, tensor in extra.items():
            if not isinstance(tensor, Tensor):
                raise Fault(f"{name!r} of {name_of}.on_client_end is not a tensor")
        client.check_mask()
        return ClientUpdate(
            client=context.client,
            tier=context.tier,
            samples=batches.samples,
            mask=client.mask,
            densities=client.densities,
            trained_densities=trained_densities,
            metrics=client.meter.compute(),
            reductions=client.meter.reductions,
            epoch_samples=getattr(batches, "epoch_samples", None),
            extra_samples=extra_samples,
            dense_gradients=client.dense_steps / max(1, client.step + bool(extra_samples)),
            extra={name: tensor.clone() for name, tensor in extra.items()},  # they may be views of the weights
        )

    def _measure_gradients(self, client: ClientState, scheduler: SparseScheduler, batch: Any) -> int:
        """Show the scheduler the gradients of one more batch, and let it move the mask; returns its samples.

        Logged values are discarded; torchmetrics that ``training_step`` updates and batch norms count the batch.
        """
        module, optimizer, meter = client.module, client.optimizer, client.meter
        assert optimizer is not None
        client.batch = batch = Transfer(module, self.fabric)(batch)
        client.prune_()  # the last step may have been one that changes pruned weights
        client.backend.dense, client.meter = True, client.new_meter()  # its values are discarded
        with client.replaced_weights(self.forward_weights(client, scheduler)):
            with self.fabric.autocast():
                output = step_with_index(module.training_step)(batch, client.context.batches)
            optimizer.zero_grad()
            if output is not None:  # else the module skips the batch
                loss = loss_of(output if isinstance(output, Mapping) else {"loss": output}, client)
                self._losses += loss.detach().float().reshape(())
                module.backward(loss)
        if output is not None:
            self.fabric.strategy.precision.unscale_gradients(optimizer)
            scheduler.on_dense_gradients(client, client.step)
        optimizer.zero_grad()
        client.meter = meter
        client.dense_steps += 1
        scheduler.on_batch_end(client, client.step + 1)
        client.batch = None
        return samples_in(batch)

    def forward_weights(self, client: ClientState, scheduler: SparseScheduler) -> Tensor | None:
        """The weights with which the next step computes, see ``SparseScheduler.forward_weights``.

        Raises:
            Fault: they have another shape, or before a client's first step one outside the mask is not 0.
        """
        weights, hook = scheduler.forward_weights(client), f"{type(scheduler).__name__}.forward_weights"
        if weights is None:
            return None
        if not isinstance(weights, Tensor) or weights.shape != client.weights.shape:
            kind = f"a tensor of shape {[*weights.shape]}" if isinstance(weights, Tensor) else as_yaml(weights)
            raise Fault(f"{hook} returns {kind}, not a tensor of shape {[*client.weights.shape]}")
        # Once: kernels leave such weights out and torch does not, and the host waits for a GPU.
        if client.step == 0 and (outside := largest_outside(weights.to(client.weights), client.mask)):
            raise Fault(f"{hook} returns {outside:g} for a weight outside of the mask, where all must be 0")
        return weights

    def before_optimizer_step(self, client: ClientState, optimizer: Optimizer) -> None:
        """The module's hook, then the scheduler sees the gradients, then those of pruned weights become 0."""
        client.module.on_before_optimizer_step(optimizer)  # ends in ClientState.mask_gradients_

    def _let_backend_step(self, client: ClientState, scheduler: SparseScheduler) -> None:
        """Let the backend take plain SGD steps where only the optimizer would see the parameters' gradients."""
        watched = client.module.watches_gradients or scheduler.sees_gradients or self.clipping.value
        if not watched and type(self.fabric.strategy.precision) is Precision:
            client.backend.sgd.take_over(client.rates.optimizer)

    def _reset_loss_scale(self) -> None:
        if self._scaler_start is not None:
            scaler = self.fabric.strategy.precision.scaler  # type: ignore[attr-defined]
            scaler.load_state_dict(self._scaler_start)
            scaler._per_optimizer_states.clear()  # a client may have failed in the middle of a step

    def _check_clipping(self, client: ClientState) -> None:
        fused = getattr(client.optimizer, "_step_supports_amp_scaling", False)
        if self.clipping.value and self._scaler_start and fused:
            raise ModuleError("a fused optimizer takes scaled gradients, which cannot be clipped; use fused=False")


class Transfer:
    """Moves a batch to the device by the module's own transfer hooks.

    Lightning's default hook walks through the batch to find its tensors; a plain tuple of tensors on the device is left
    out of that.
    """

    def __init__(self, module: L.LightningModule, fabric: Fabric) -> None:
        self.module, self.device = module, fabric.device
        self.overridden = is_overridden("transfer_batch_to_device", module, parent=L.LightningModule)

    def __call__(self, batch: Any) -> Any:
        """The batch on the device."""
        batch = self.module.on_before_batch_transfer(batch, 0)
        if self.overridden or not self._on_device(batch):
            batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        return self.module.on_after_batch_transfer(batch, 0)

    def _on_device(self, batch: Any) -> bool:
        return type(batch) is tuple and all(isinstance(part, Tensor) and part.device == self.device for part in batch)


def loss_of(outputs: Mapping[str, Any], client: ClientState) -> Tensor:
    """The loss in what ``training_step`` has returned.

    Raises:
        ModuleError: there is none, or it is not a tensor with one element.
    """
    loss = outputs.get("loss")
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    kind = f"a tensor of shape {[*loss.shape]}" if isinstance(loss, Tensor) else as_yaml(loss)
    problem = f"its loss is {kind}, not a tensor with one element"
    hint = "return the loss, a dictionary with the key loss, or None to skip the batch"
    raise ModuleError(f"{client.user_class}.training_step: {problem}; {hint}")


def check_layers(value: object, client: ClientState, hook: str) -> None:
    """Check that a scheduler's ``hook`` has returned a number for each maskable layer, finite and not negative.

    Raises:
        Fault: it has returned something else.
    """
    layers = len(client.layout.layers)
    if not (isinstance(value, Tensor) and value.shape == (layers,)):
        kind = f"a tensor of shape {[*value.shape]}" if isinstance(value, Tensor) else as_yaml(value)
        raise Fault(f"{hook} returns {kind}, not a tensor with a number for each of {layers} layers")
    if not (value.isfinite() & (value >= 0)).all():
        raise Fault(f"{hook} returns {float(value[~(value >= 0) | value.isinf()][0])} for a layer, which must not be")


def step_with_index(step: Callable[..., Any]) -> Step:
    """``training_step`` or ``validation_step`` with ``batch_idx``, which the user's signature may lack."""
    return step if is_param_in_hook_signature(step, "batch_idx", min_args=2) else lambda batch, index: step(batch)


def check_transfer_hooks(data: object) -> None:
    """Check that a data module has no transfer hooks of its own: batches go to the device by the module's hooks.

    Raises:
        ModuleError: it has one.
    """
    for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
        if isinstance(data, L.LightningDataModule) and is_overridden(hook, data, parent=L.LightningDataModule):
            name = type(data).__name__
            raise ModuleError(f"{name}.{hook} is not called in a federated run; override that of the LightningModule")
