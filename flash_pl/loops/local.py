"""One client's training: the stock Trainer's hooks in the Trainer's order, nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from flash_pl.client import ClientContext, ClientState, Schedule, configure
from flash_pl.data import Batches
from flash_pl.report import Report
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive


class LocalLoop:
    """Trains the bound client on its own batches and returns its report.

    With the same batches the weights are bitwise those of ``Trainer.fit``; a test holds both to it.

    Args:
        fabric: precision and devices.
        clip_val, clip_algorithm: gradient clipping as in the Trainer; it sees masked gradients.
    """

    def __init__(self, fabric: Fabric, clip_val: float | None = None, clip_algorithm: str = "norm") -> None:
        self.fabric, self.clip_val, self.clip_algorithm = fabric, clip_val, clip_algorithm

    def run(self, client: ClientState, scheduler: SparseScheduler, batches: Batches, context: ClientContext) -> Report:
        """Train ``context.epochs`` epochs from where ``client.receive`` left the weights."""
        module = client.module
        client.context, client.optimizer, client.step = context, None, 0
        client.meter.reset()
        # A module's own randomness (dropout) is named like every other draw.
        torch.manual_seed(derive(context.seed, f"{context.purpose}/module", context.round, context.client))
        scheduler.on_client_start(client, context)
        client.optimizer, schedules = configure(module, context.lr_scale)

        module.train()
        module.on_train_start()
        order = context.generator("batches")
        for _ in range(context.epochs):
            module.on_train_epoch_start()
            self._epoch(client, scheduler, batches.shuffled(order), schedules)
            module.on_train_epoch_end()
            _step_schedules(schedules, "epoch", client.step // context.batches)
        module.on_train_end()

        extra = scheduler.on_client_end(client, context)
        return Report(
            client=context.client,
            samples=batches.samples,
            weights=client.arena,
            mask=client.mask,
            densities=client.layout.densities(client.mask),
            metrics=client.meter.compute(),
            extra=extra,
        )

    def _epoch(
        self, client: ClientState, scheduler: SparseScheduler, batches: Iterable[Any], schedules: list[Schedule]
    ) -> None:
        module, optimizer = client.module, client.optimizer
        assert optimizer is not None
        for index, batch in enumerate(batches):
            client.batch_samples = len(batch[0])
            batch = module.on_before_batch_transfer(batch, 0)
            batch = module.on_after_batch_transfer(batch, 0)
            if module.on_train_batch_start(batch, index) == -1:
                break
            loss = self._step(client, optimizer, batch, index)
            client.step += 1
            _step_schedules(schedules, "step", client.step)
            module.on_train_batch_end({"loss": loss} if loss is not None else None, batch, index)
            scheduler.on_batch_end(client, client.step)

    def _step(self, client: ClientState, optimizer: Optimizer, batch: Any, index: int) -> Tensor | None:
        module, fabric = client.module, self.fabric
        with fabric.autocast():
            output = module.training_step(batch, index)
        loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        module.on_before_zero_grad(optimizer)
        module.optimizer_zero_grad(module.current_epoch, index, optimizer)
        if loss is None:  # the Trainer, too, skips such a batch
            return None
        module.on_before_backward(loss)
        module.backward(loss)
        module.on_after_backward()
        fabric.strategy.precision.unscale_gradients(optimizer)
        module.on_before_optimizer_step(optimizer)
        module.configure_gradient_clipping(optimizer, self.clip_val, self.clip_algorithm)
        fabric.strategy.optimizer_step(optimizer)
        return loss.detach()


def _step_schedules(schedules: list[Schedule], interval: str, count: int) -> None:
    for schedule in schedules:
        if schedule.interval == interval and count % schedule.frequency == 0:
            schedule.scheduler.step()
