"""One client's training: the stock Trainer's hooks in the Trainer's order, nothing else."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.client import ClientContext, ClientState, GradientClipping
from flash_pl.data import Batches
from flash_pl.errors import ModuleError
from flash_pl.loops.workers import Fault
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed, seed_global_rng_
from flash_pl.server.updates import Report

Step = Callable[[Any, int], Any]


def step_with_index(step: Callable[..., Any]) -> Step:
    """``training_step`` or ``validation_step``, called with ``batch_idx`` only if its signature has it."""
    return step if is_param_in_hook_signature(step, "batch_idx", min_args=2) else lambda batch, index: step(batch)


def refuse_transfer_hooks(data: object) -> None:
    """Batches go to the device by the module's hooks alone.

    Raises:
        ModuleError: the data module has hooks of its own.
    """
    for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
        if isinstance(data, L.LightningDataModule) and is_overridden(hook, data, parent=L.LightningDataModule):
            name = type(data).__name__
            raise ModuleError(f"{name}.{hook} is not called in a federated run; override that of the LightningModule")


class Transfer:
    """Moves a batch to the device by the module's own transfer hooks.

    Lightning's default walks through the batch to find its tensors; a plain pair of tensors that is there already needs
    no walk.
    """

    def __init__(self, module: L.LightningModule, fabric: Fabric) -> None:
        self.module, self.device = module, fabric.device
        self.overridden = is_overridden("transfer_batch_to_device", module, parent=L.LightningModule)

    def __call__(self, batch: Any) -> Any:
        """The batch on the device."""
        batch = self.module.on_before_batch_transfer(batch, 0)
        if self.overridden or not self._is_there(batch):
            batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        return self.module.on_after_batch_transfer(batch, 0)

    def _is_there(self, batch: Any) -> bool:
        return type(batch) is tuple and all(isinstance(part, Tensor) and part.device == self.device for part in batch)


# 16-mixed: where every client's loss scale starts, low enough to lose few of its first steps to an overflow.
LOSS_SCALE = 2.0**12


class LocalLoop:
    """Trains the bound client on its own batches and returns its report.

    With the same batches the weights are bitwise those of ``Trainer.fit``; a test holds both to it.

    Args:
        fabric: precision and devices.
        clipping: of the gradients.
    """

    def __init__(self, fabric: Fabric, clipping: GradientClipping | None = None) -> None:
        self.fabric, self.clipping = fabric, clipping or GradientClipping()
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        self._scaler_start = scaler.state_dict() | {"scale": LOSS_SCALE} if scaler is not None else None

    def run(self, client: ClientState, scheduler: SparseScheduler, batches: Batches, context: ClientContext) -> Report:
        """Train ``context.epochs`` epochs from where ``client.receive`` left the weights.

        Raises:
            Fault: a loss was not finite.
        """
        module = client.module
        client.start_training(context, scheduler)
        self._losses: Tensor | float = 0.0
        if self._scaler_start is not None:
            scaler = self.fabric.strategy.precision.scaler  # type: ignore[attr-defined]
            scaler.load_state_dict(self._scaler_start)
            scaler._per_optimizer_states.clear()  # of a client that failed in the middle of a step
        # A module's own randomness (dropout) is named like every other draw.
        name = f"{context.purpose}/module"
        seed_global_rng_(derive_seed(context.seed, name, context.round, context.client), self.fabric.device)
        scheduler.on_client_start(client, context)
        client.create_optimizer(scheduler.layer_rates(client))
        if (
            self.clipping.value
            and self._scaler_start
            and getattr(client.optimizer, "_step_supports_amp_scaling", False)
        ):
            raise ModuleError("a fused optimizer takes scaled gradients, which cannot be clipped; use fused=False")

        try:
            with scheduler.training(client):
                module.on_fit_start()
                module.on_train_start()
                self._take_steps(client, scheduler)  # now it has its hooks on gradients
                order = context.generator("batches")
                for client.epoch in range(context.epochs):
                    module.on_train_epoch_start()
                    self._epoch(client, scheduler, batches.shuffled(order))
                    module.on_train_epoch_end()
                module.on_train_end()
                module.on_fit_end()
        finally:
            client.backend.dense = False  # an evaluation must not depend on who trained last, and how
        if not math.isfinite(float(self._losses)):  # asked once, not at every step: it waits for the device
            raise Fault("its training loss is not finite")

        client.check_tensors()
        client.prune_()  # whatever a hook of the module has done to them
        trained = scheduler.trained_densities(client)
        extra = scheduler.on_client_end(client, context)
        return Report(
            client=context.client,
            samples=batches.samples,
            weights=client.arena,
            mask=client.mask,
            densities=client.densities,
            trained=trained,
            metrics=client.meter.compute(),
            dense_gradients=client.dense_steps / max(1, client.step),
            extra=extra,
            tier=context.tier,
        )

    def _take_steps(self, client: ClientState, scheduler: SparseScheduler) -> None:
        """Let the backend take plain steps, where nobody but the optimizer would see a gradient at the parameters."""
        seen = client.module.watches_gradients or scheduler.sees_gradients or self.clipping.value
        if not seen and type(self.fabric.strategy.precision) is Precision:
            client.backend.sgd.take_over(client.rates.optimizer)

    def _epoch(self, client: ClientState, scheduler: SparseScheduler, batches: Iterable[Any]) -> None:
        module, optimizer, context = client.module, client.optimizer, client.context
        assert optimizer is not None
        transfer, training_step = Transfer(module, self.fabric), step_with_index(module.training_step)
        for index, batch in enumerate(batches):
            client.batch = batch = transfer(batch)
            client.backend.dense = dense = scheduler.wants_dense_gradients(client, client.step)
            if module.on_train_batch_start(batch, index) == -1:
                break
            outputs = self._step(client, scheduler, optimizer, training_step, batch, index)
            client.step += 1
            client.dense_steps += dense
            for schedule in client.lr_schedulers:
                if schedule.due(index + 1, context.batches, client.epoch + 1):
                    module.lr_scheduler_step(schedule.lr_scheduler, None)
            module.on_train_batch_end(outputs, batch, index)
            scheduler.on_batch_end(client, client.step)
        client.batch = None

    def _step(
        self,
        client: ClientState,
        scheduler: SparseScheduler,
        optimizer: Optimizer,
        training_step: Step,
        batch: Any,
        index: int,
    ) -> dict[str, Any]:
        """Forward, backward, optimizer step; what ``on_train_batch_end`` gets, ``{}`` for a batch that is skipped."""
        module, fabric = client.module, self.fabric
        with client.replaced_weights(scheduler.forward_weights(client)):
            with fabric.autocast():
                output = training_step(batch, index)
            module.on_before_zero_grad(optimizer)
            module.optimizer_zero_grad(client.epoch, index, optimizer)
            client.backend.sgd.clear()
            if output is None:
                return {}
            named = dict(output) if isinstance(output, Mapping) else {"loss": output}
            loss: Tensor = named["loss"]
            self._losses = self._losses + loss.detach().float()
            module.on_before_backward(loss)
            module.backward(loss)
        module.on_after_backward()
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            fabric.strategy.precision.unscale_gradients(optimizer)
        module.on_before_optimizer_step(optimizer)
        module.configure_gradient_clipping(optimizer, self.clipping.value, self.clipping.algorithm)
        with client.rates.applied():
            fabric.strategy.optimizer_step(optimizer)
            client.backend.sgd.step_()
        return named | {"loss": loss.detach()}
