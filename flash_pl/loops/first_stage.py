"""Stage 1: some clients measure something before the first round, from which the scheduler makes its first mask."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.client import ClientContext, ClientState, samples_in
from flash_pl.costs import CostLedger
from flash_pl.data import Batches, FederatedData
from flash_pl.errors import ClientError, ModuleError
from flash_pl.loops.failures import Failure, Fault
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.settings import Participant
from flash_pl.loops.workers import Workers, WorkInterrupted
from flash_pl.schedulers import FirstStage, SparseScheduler
from flash_pl.seeding import generator
from flash_pl.server import ClientUpdate, OrderFreeSum, ServerState
from flash_pl.wire import Message


class Progress(Stateful):
    """The part of stage 1 that is done, so that an interrupted run goes on from there.

    Attributes:
        flops: of the training of each client that is done, by its position in the cohort.
        accumulator: the sum of the measurements, as in ``OrderFreeSum``; None before the first.
    """

    def __init__(self) -> None:
        self.flops: dict[int, float] = {}
        self.accumulator: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"flops": dict(self.flops), "accumulator": self.accumulator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.flops, self.accumulator = dict(state["flops"]), state["accumulator"]


class FirstStageLoop:
    """Trains a few clients from one start and averages what they measure; their weights are thrown away.

    All clients start from the mask of the stage's own trainee and from the server's weights, adapted to that mask as
    the scheduler adapts them to its first mask.

    Args:
        stage: how many clients, how long they train, what they measure.
        scheduler: adapts the initial weights.
        client, server, data, workers, local, ledger: of the run.
        seed: of the run.
        progress: of a run that was interrupted; new results are added to it.
        on_client_end: called after each client of this process with (clients done, clients in all).
    """

    def __init__(
        self,
        stage: FirstStage,
        *,
        scheduler: SparseScheduler,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        workers: Workers,
        local: LocalLoop,
        ledger: CostLedger,
        seed: int,
        progress: Progress,
        on_client_end: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.stage, self.scheduler, self.client, self.server, self.data = stage, scheduler, client, server, data
        self.workers, self.local, self.ledger, self.seed = workers, local, ledger, seed
        self.progress, self.on_client_end = progress, on_client_end
        self.trainee = stage.trainee(scheduler.first_mask)

    def run(self) -> Tensor:
        """The mean of the clients' measurements, float64 ``[stage.size(layout)]``.

        Raises:
            ClientError: a client failed and is not skipped, or all have failed.
            Interrupted: a signal came; the results so far are in ``progress``.
        """
        clients, progress = self.data.clients, self.progress
        order = torch.randperm(clients, generator=generator(self.seed, "sensitivity/cohort")).tolist()
        cohort = order[: self.stage.num_clients(clients)]
        self._make_start()
        accumulator = torch.zeros(self.stage.size(self.server.layout), dtype=torch.int64)
        total = OrderFreeSum(accumulator, len(cohort))
        missing = [position for position in range(len(cohort)) if position not in progress.flops]
        done_here = 0

        def measure(participant: Participant) -> float:
            """Train a client and add its measurement; returns the FLOPs that this took."""
            update, samples = self._train(participant.client)
            total.add(self.stage.measurement(update).cpu(), 1.0)
            return self.ledger.training_flops(samples, update)

        def report(flops: float) -> None:
            nonlocal done_here
            done_here += 1
            self.on_client_end(len(progress.flops) + done_here, len(cohort))

        sizes = self.data.client_sizes
        participants = [Participant(cohort[p], 0, sizes[cohort[p]], sizes[cohort[p]]) for p in missing]
        interrupted: WorkInterrupted | None = None
        try:
            measured = self.workers.map(measure, participants, 0, on_result=report)
            results = dict(enumerate(measured))
        except WorkInterrupted as error:
            interrupted, results = error, error.results
        self.workers.ranks.sum_(accumulator)
        if progress.accumulator is not None:
            accumulator += progress.accumulator
        progress.accumulator = accumulator
        progress.flops |= {missing[job]: flops for job, flops in results.items() if not isinstance(flops, Failure)}
        if interrupted is not None:
            raise interrupted
        if not progress.flops:
            raise ClientError(f"all {len(cohort)} clients of stage 1 failed; {results[0]}")
        self.ledger.add_first_stage(
            Message(self.weights, self.mask),
            mask_seed=generator(self.seed, "sensitivity/mask").initial_seed(),
            flops={cohort[position]: flops for position, flops in sorted(progress.flops.items())},
            numbers_sent=len(accumulator),
        )
        return total.value() / len(progress.flops)

    def _make_start(self) -> None:
        """The mask and the weights from which every client starts."""
        mask = self.trainee.initial_mask(self.server, None, generator(self.seed, "sensitivity/mask"))
        mask, weights = mask.to(self.server.weights.device), self.server.weights.clone()
        self.scheduler.first_mask.initialize(self.server.layout, weights, mask)
        self.weights, self.mask, _ = self.ledger.link.down(weights, mask, None)

    def _train(self, client: int) -> tuple[ClientUpdate, int]:
        """Train a client; returns its update and the number of samples it went through."""
        batches: Any = self.data.client_batches(client)
        if not batches.samples:
            raise Fault("it has no samples")
        if self.stage.batches is not None:
            batches = FirstBatches(batches, self.stage.batches)
        context = ClientContext(client, 0, self.stage.epochs, len(batches), self.seed, "sensitivity")
        self.client.receive(self.weights, self.mask)
        update = self.local.run(self.client, self.trainee, batches, context)
        return update, self.stage.epochs * getattr(batches, "epoch_samples", batches.samples)


class FirstBatches:
    """The first ``count`` batches of every epoch.

    Attributes:
        samples: number of samples of the last epoch.
    """

    def __init__(self, batches: Batches, count: int) -> None:
        self.batches, self.count, self.samples = batches, count, 0

    def __len__(self) -> int:
        return min(self.count, len(self.batches))

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """One epoch in an order drawn from ``generator``."""
        self.samples = 0
        for batch in islice(self.batches.shuffled(generator), self.count):
            try:
                self.samples += samples_in(batch)
            except ModuleError:  # a plain object; the other batches have as many samples on average
                self.samples += round(self.batches.samples / len(self.batches))
            yield batch
