"""Stage 1: which layer densities do clients choose when they are free to move the mask?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flash_pl.client import ClientContext
from flash_pl.errors import ClientError, Interrupted
from flash_pl.loops.faults import Failure, Fault
from flash_pl.loops.federation import Federation
from flash_pl.report import Report
from flash_pl.schedulers import DynamicSparseTraining, Sensitivity
from flash_pl.seeding import generator
from flash_pl.wire import Message


class SensitivityStage:
    """C clients train E_d epochs each with dynamic sparse training; :meth:`run` returns their mean layer densities.

    All start from one random mask of the method's own distribution and from the server's weights, adapted to that mask
    as the method adapts them to its first one. Their trained weights are thrown away: stage 1 informs the mask only.

    Args:
        federation: the run's parts; its scheduler makes the mask with which all start.
        settings: how many clients, how long, how they move.
        found: layer densities by place in the cohort, from an earlier process that was interrupted; added to.
        on_client_end: called after each client that this rank has trained with (clients done, clients in all).
    """

    def __init__(
        self,
        federation: Federation,
        settings: Sensitivity,
        found: dict[int, Tensor],
        on_client_end: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.parts, self.settings, self.found, self.on_client_end = federation, settings, found, on_client_end
        self.seed, self.server, self.data = federation.plan.seed, federation.server, federation.data
        self.first_mask = federation.scheduler.first_mask
        self.trainee = DynamicSparseTraining(settings.prune_rate, settings.move, self.first_mask)

    def run(self) -> Tensor:
        """Mean layer densities, float64 ``[layers]``.

        Raises:
            ClientError: a client failed and is not to be skipped, or all have failed.
            Interrupted: a signal came; what is found so far is in ``found``.
        """
        clients = self.data.clients
        order = torch.randperm(clients, generator=generator(self.seed, "sensitivity/cohort")).tolist()
        cohort = order[: self.settings.clients(clients)]
        self._make_start()
        missing = [place for place in range(len(cohort)) if place not in self.found]
        ids = [cohort[place] for place in missing]
        mine = 0

        def keep(report: Report) -> Tensor:
            nonlocal mine
            mine += 1
            self.on_client_end(len(self.found) + mine, len(cohort))
            return report.densities

        costs = [self.data.client_sizes[client] for client in ids]
        done, signal = self.parts.cohorts.run(
            ids, costs, 0, self.server.fingerprint, lambda job: self._train(ids[job]), keep
        )
        self.found |= {missing[job]: result for job, result in done.items() if not isinstance(result, Failure)}
        if signal is not None:
            raise Interrupted(signal)
        if not self.found:
            raise ClientError(f"all {len(cohort)} clients of stage 1 failed; {done[0]}")
        means = torch.stack([self.found[place] for place in sorted(self.found)]).mean(dim=0)
        self._charge([cohort[place] for place in self.found], means)
        return means

    def _charge(self, clients: Sequence[int], densities: Tensor) -> None:
        seed = generator(self.seed, "sensitivity/mask").initial_seed()
        samples = [self.settings.epochs * self.data.client_sizes[client] for client in clients]
        self.parts.accounts.stage_1(Message(self.weights, self.mask), seed, clients, samples, densities)

    def _make_start(self) -> None:
        """The mask and the weights from which every client starts."""
        mask = self.trainee.initial_mask(
            self.server.layout, self.parts.plan.budget.density, None, generator(self.seed, "sensitivity/mask")
        )
        self.mask = mask.to(self.server.weights.device)
        self.weights = self.server.weights.clone()
        self.first_mask.initialise(self.server.layout, self.weights, self.mask)

    def _train(self, client: int) -> Report:
        batches = self.data.client_batches(client)
        if not batches.samples:
            raise Fault("it has no samples")
        context = ClientContext(client, 0, self.settings.epochs, len(batches), self.seed, "sensitivity")
        self.parts.client.receive(self.weights, self.mask)
        return self.parts.local.run(self.parts.client, self.trainee, batches, context)
