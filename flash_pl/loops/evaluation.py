"""Evaluates a model of the server with the module's own validation_step."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from flash_pl.client import ClientState
from flash_pl.loops.module_hooks import Transfer, step_with_index
from flash_pl.modes import evaluating
from flash_pl.seeding import derive, seed_global_


class EvaluationLoop:
    """The means of what ``validation_step`` logs over all batches.

    The client's arena is overwritten: every client receives the server's weights before it trains anyway.

    Args:
        seed: of the run; a module that draws in an evaluation draws the same whatever came before it.
    """

    def __init__(self, fabric: Fabric, seed: int) -> None:
        self.fabric, self.seed = fabric, seed

    @torch.no_grad()
    def run(
        self, client: ClientState, weights: Tensor, batches: Iterable[Any], round: int = 0, model: int = 0
    ) -> dict[str, float]:
        """Evaluate the arena ``weights`` ``[layout.size]``; ``round`` and ``model`` name the module's draws."""
        seed_global_(derive(self.seed, "evaluation", round, model), self.fabric.device)
        client.arena.copy_(weights)
        client.backend.follow(client.weights != 0)
        client.forget()
        with evaluating(client.module):  # whatever happens: a client may fail here and be skipped, the next one trains
            self._run(client, batches)
        return client.meter.compute()

    def _run(self, client: ClientState, batches: Iterable[Any]) -> None:
        module = client.module
        module.on_validation_start()
        module.on_validation_epoch_start()
        transfer, validation_step = Transfer(module, self.fabric), step_with_index(module.validation_step)
        for index, batch in enumerate(batches):
            client.batch = batch = transfer(batch)
            module.on_validation_batch_start(batch, index)
            with self.fabric.autocast():
                output = validation_step(batch, index)
            module.on_validation_batch_end(output, batch, index)
        client.batch = None
        module.on_validation_epoch_end()
        module.on_validation_end()
        client.check_tensors()
