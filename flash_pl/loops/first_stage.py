"""Stage 1: what do clients find out before the first round?"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.client import ClientContext, samples_in
from flash_pl.data import Batches
from flash_pl.errors import ClientError, Interrupted
from flash_pl.loops.federation import Federation
from flash_pl.loops.workers import Failure, Fault
from flash_pl.schedulers import FirstStage
from flash_pl.seeding import generator
from flash_pl.server import OrderFreeSum
from flash_pl.server.updates import Report
from flash_pl.wire import Message


class Progress(Stateful):
    """How far stage 1 has come, so that an interrupted one goes on.

    Attributes:
        flops: of the training of each client that is done, by its place in the cohort.
        units: the sum of what they found, as in ``OrderFreeSum``.
    """

    def __init__(self) -> None:
        self.flops: dict[int, float] = {}
        self.units: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"flops": dict(self.flops), "units": self.units}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flops, self.units = dict(state["flops"]), state["units"]


class FirstStageLoop:
    """Clients train, or only look at their data, from one start; ``run`` returns the mean of what they found.

    All start from the mask of the stage's own trainee and from the server's weights, adapted to that mask as the method
    adapts them to its first one. Their trained weights are thrown away: stage 1 informs the mask only.

    Args:
        federation: the run's parts; its scheduler adapts the weights.
        stage: how many clients, how long, what they find.
        progress: of an earlier process that was interrupted; added to.
        on_client_end: called after each client that this rank has trained with (clients done, clients in all).
    """

    def __init__(
        self,
        federation: Federation,
        stage: FirstStage,
        progress: Progress,
        on_client_end: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.parts, self.stage, self.progress, self.on_client_end = federation, stage, progress, on_client_end
        self.seed, self.server, self.data = federation.plan.seed, federation.server, federation.data
        self.trainee = stage.trainee(federation.scheduler.first_mask)

    def run(self) -> Tensor:
        """The mean of what the clients found, float64 ``[stage.size(layout)]``.

        Raises:
            ClientError: a client failed and is not to be skipped, or all have failed.
            Interrupted: a signal came; what is found so far is in ``progress``.
        """
        clients, progress = self.data.clients, self.progress
        order = torch.randperm(clients, generator=generator(self.seed, "sensitivity/cohort")).tolist()
        cohort = order[: self.stage.clients(clients)]
        self._make_start()
        units = torch.zeros(self.stage.size(self.server.layout), dtype=torch.int64)
        total = OrderFreeSum(units, len(cohort))
        missing = [place for place in range(len(cohort)) if place not in progress.flops]
        ids = [cohort[place] for place in missing]
        mine = 0

        def train(job: int) -> float:
            report, samples = self._train(ids[job])
            total.add(self.stage.found(report).cpu(), 1.0)
            return self.parts.ledger.bill.training(samples, report)

        def keep(flops: float) -> float:
            nonlocal mine
            mine += 1
            self.on_client_end(len(progress.flops) + mine, len(cohort))
            return flops

        costs = [self.data.client_sizes[client] for client in ids]
        done, signal = self.parts.cohorts.run(ids, costs, 0, self.server.fingerprint, train, keep)
        self.parts.ranks.sum_(units)
        if progress.units is not None:
            units += progress.units
        progress.units = units
        progress.flops |= {missing[job]: result for job, result in done.items() if not isinstance(result, Failure)}
        if signal is not None:
            raise Interrupted(signal)
        if not progress.flops:
            raise ClientError(f"all {len(cohort)} clients of stage 1 failed; {done[0]}")
        self.parts.ledger.stage_1(
            Message(self.weights, self.mask),
            generator(self.seed, "sensitivity/mask").initial_seed(),
            {cohort[place]: flops for place, flops in sorted(progress.flops.items())},
            len(units),
        )
        return total.value() / len(progress.flops)

    def _make_start(self) -> None:
        """The mask and the weights from which every client starts."""
        mask = self.trainee.initial_mask(self.server, None, generator(self.seed, "sensitivity/mask"))
        mask, weights = mask.to(self.server.weights.device), self.server.weights.clone()
        self.parts.scheduler.first_mask.initialize(self.server.layout, weights, mask)
        self.weights, self.mask, _ = self.parts.ledger.link.down(weights, mask, None)

    def _train(self, client: int) -> tuple[Report, int]:
        """A client's report, and how many samples it has gone through."""
        batches: Any = self.data.client_batches(client)
        if not batches.samples:
            raise Fault("it has no samples")
        if self.stage.batches is not None:
            batches = FewBatches(batches, self.stage.batches)
        context = ClientContext(client, 0, self.stage.epochs, len(batches), self.seed, "sensitivity")
        self.parts.client.receive(self.weights, self.mask)
        report = self.parts.local.run(self.parts.client, self.trainee, batches, context)
        return report, self.stage.epochs * batches.samples


class FewBatches:
    """The first ``few`` batches of every epoch.

    Attributes:
        samples: of the last epoch.
    """

    def __init__(self, batches: Batches, few: int) -> None:
        self.batches, self.few, self.samples = batches, few, 0

    def __len__(self) -> int:
        return min(self.few, len(self.batches))

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """One epoch in an order drawn from ``generator``."""
        self.samples = 0
        for batch in islice(self.batches.shuffled(generator), self.few):
            self.samples += samples_in(batch)
            yield batch
