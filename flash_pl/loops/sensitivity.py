"""Stage 1: which layer densities do clients choose when they are free to move the mask?"""

from collections.abc import Callable

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import FederatedData
from flash_pl.loops.base import Loop
from flash_pl.loops.local import LocalLoop
from flash_pl.schedulers import DynamicSparseTraining, Sensitivity, SparseScheduler
from flash_pl.seeding import generator
from flash_pl.server import ServerState


class SensitivityLoop(Loop):
    """C clients train E_d epochs each with dynamic sparse training; :meth:`run` returns their mean layer densities.

    All start from one random mask of the method's own distribution and from the server's weights, adapted to that mask
    as the method adapts them to its first one. Their trained weights are thrown away: stage 1 informs the mask only.

    Args:
        settings: how many clients, how long, how they move.
        scheduler: the method, which makes the mask with which all start.
        on_client_end: called after each client with (clients done, clients in all).
    """

    def __init__(
        self,
        settings: Sensitivity,
        scheduler: SparseScheduler,
        local: LocalLoop,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        density: float,
        seed: int,
        on_client_end: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.settings, self.local, self.client, self.server, self.data = settings, local, client, server, data
        self.density, self.seed, self.on_client_end = density, seed, on_client_end
        self.first_mask = scheduler.first_mask
        self.trainee = DynamicSparseTraining(settings.prune_rate, settings.move, self.first_mask)

    @property
    def done(self) -> bool:
        return len(self.found) == len(self.cohort)

    def reset(self) -> None:
        clients = self.data.clients
        order = torch.randperm(clients, generator=generator(self.seed, "sensitivity/cohort")).tolist()
        self.cohort = order[: self.settings.clients(clients)]
        self.found: list[Tensor] = []
        mask = self.trainee.initial_mask(
            self.server.layout, self.density, None, generator(self.seed, "sensitivity/mask")
        )
        self.mask = mask.to(self.server.weights.device)
        self.weights = self.server.weights.clone()
        self.first_mask.initialise(self.server.layout, self.weights, self.mask)

    def advance(self) -> None:
        batches = self.data.client_batches(self.cohort[len(self.found)])
        context = ClientContext(
            client=self.cohort[len(self.found)],
            round=0,
            epochs=self.settings.epochs,
            batches=len(batches),
            seed=self.seed,
            purpose="sensitivity",
        )
        self.client.receive(self.weights, self.mask)
        report = self.local.run(self.client, self.trainee, batches, context)
        self.found.append(report.densities)
        self.on_client_end(len(self.found), len(self.cohort))

    def on_run_end(self) -> Tensor:
        """Mean layer densities, float64 ``[layers]``."""
        return torch.stack(self.found).mean(dim=0)
