"""A rehearsal of a run: a few steps of a few clients, from which bytes, FLOPs and the time of the run are estimated."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flash_pl.data import FederatedData
from flash_pl.errors import ClientError
from flash_pl.loops.federated import FederatedLoop
from flash_pl.loops.first_stage import FirstBatches
from flash_pl.loops.settings import Participant
from flash_pl.server import ClientUpdate
from flash_pl.sparsity import Layout

SHORT, LONG = 1, 5  # batches of an epoch in two trainings of a client; the difference of their times is that of steps


@dataclass(frozen=True)
class Estimate:
    """What a run will take, as far as a rehearsal can tell.

    Attributes:
        densities: layer densities of the first mask, float64 ``[layers]``.
        scales: the factor by which the initial weights of each layer fit the first mask, float64 ``[layers]``; 0 for a
            layer without active weights.
        exact: they are those with which the run will start; else stage 1 decides, and the rehearsal of it was short.
        bytes_down, bytes_up: of a round, all clients together, once a client has had a mask.
        flops: of the training of a round; None if they cannot be counted.
        flops_ratio: the same over those of dense training.
        steps: number of steps that were measured.
        step: seconds of a step.
        round: seconds of a round without its evaluation.
        evaluation: seconds of an evaluation of the server.
        first_stage: seconds of stage 1.
        total: seconds of all rounds and evaluations of the server, and of stage 1. What else a run does, such as
            evaluations of clients and checkpoints, is left out.
    """

    densities: Tensor
    scales: Tensor
    exact: bool
    bytes_down: float
    bytes_up: float
    flops: float | None
    flops_ratio: float
    steps: int
    step: float
    round: float
    evaluation: float
    first_stage: float
    total: float


class FewBatches:
    """The data of a run with the first ``count`` batches of each client and of the test set."""

    def __init__(self, data: FederatedData, count: int, clients: int | None = None) -> None:
        self.data, self.count = data, count
        self.clients = data.clients if clients is None else clients

    def client_batches(self, client: int) -> Any:
        batches: Any = FirstBatches(self.data.client_batches(client), self.count)
        batches.samples = self.data.client_batches(client).samples  # until an epoch has counted its own
        return batches

    def val_dataloader(self) -> list[Any]:
        return list(islice(self.data.val_dataloader(), self.count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)


def rehearse(loop: FederatedLoop) -> Estimate:
    """Estimate the run of a ``loop`` that has not begun, inside of ``FederatedTrainer.running``.

    One client of each tier trains a few batches by the scheduler's own rules, and the server is evaluated on a few test
    batches. Stage 1 is rehearsed with one client. The loop is used up: make a new one for the run.

    Raises:
        ClientError: a client failed.
    """
    data, plan, rounds = loop.data, loop.plan, loop.plan.rounds
    loop.ledger.clock = None  # a deadline would drop updates
    cohort = plan.sample_cohort(0) or plan.everyone(0)[: plan.cohort]
    loop.data = FewBatches(data, SHORT, clients=1)  # type: ignore[assignment]  # it passes on what it does not change
    drawn = loop.server.weights.clone()
    loop.count_training()
    loop.make_first_mask()
    densities = loop.server.layout.densities(loop.server.mask)
    scales = _scales(loop.server.layout, drawn, loop.server.weights)

    measured = {one.tier: _Measured(loop, data, one) for one in {one.tier: one for one in cohort}.values()}
    of_cohort = [(one, measured[one.tier]) for one in cohort]
    processes = loop.ranks.size
    per_round = sum(
        one.start + plan.local_epochs * len(data.client_batches(client.client)) * one.step for client, one in of_cohort
    )
    slowest = max(measured.values(), key=lambda one: one.step)
    flops, ratio = _flops(loop, of_cohort)
    moves = any(bool((one.update.mask != one.received).any()) for one in measured.values())
    evaluation = _evaluation(loop, data, union=moves and loop.round_average is None)
    evaluations = sum(loop.evaluator.schedule.server_due(done, rounds) for done in range(1, rounds + 1))
    stage = _first_stage(loop, data, slowest.step)
    return Estimate(
        densities=densities,
        scales=scales,
        exact=loop.scheduler.first_stage is None,
        bytes_down=sum(one.update.costs["bytes_down"] for _, one in of_cohort),
        bytes_up=sum(one.update.costs["bytes_up"] for _, one in of_cohort),
        flops=flops,
        flops_ratio=ratio,
        steps=sum(one.steps for one in measured.values()),
        step=slowest.step,
        round=per_round / processes,
        evaluation=evaluation,
        first_stage=stage / processes,
        total=(stage + rounds * per_round) / processes + evaluations * evaluation,
    )


def _scales(layout: Layout, drawn: Tensor, weights: Tensor) -> Tensor:
    """The factor between two arenas in each maskable layer, read off the layer's largest weight."""
    scales = torch.zeros(len(layout.layers), dtype=torch.float64)
    for layer, (before, after) in enumerate(zip(layout.split(drawn), layout.split(weights), strict=True)):
        largest = after.abs().argmax()
        if after[largest]:
            scales[layer] = after[largest].double() / before[largest]
    return scales


class _Measured:
    """A client's training, measured.

    Attributes:
        received: the mask that it got.
        update: of its last training.
        start: seconds that do not depend on the number of steps.
        step: seconds of a step.
        steps: number of steps that were measured.
    """

    def __init__(self, loop: FederatedLoop, data: FederatedData, participant: Participant) -> None:
        first, _ = self._train(loop, data, participant, SHORT)  # some kernels are made at their first use
        loop.ledger.link.remember([first])
        _, short = self._train(loop, data, participant, SHORT)
        self.update, long = self._train(loop, data, participant, LONG)
        self.received = loop.tier_masks[participant.tier]
        batches = len(data.client_batches(participant.client))
        epochs = loop.plan.local_epochs
        more = epochs * (min(LONG, batches) - min(SHORT, batches))
        self.steps = epochs * (min(LONG, batches) + min(SHORT, batches))
        # A client with a single batch, or a clock that noise has turned back.
        self.step = (long - short) / more if more and long > short else long / (epochs * min(LONG, batches))
        self.start = max(0.0, short - epochs * min(SHORT, batches) * self.step)

    def _train(
        self, loop: FederatedLoop, data: FederatedData, participant: Participant, batches: int
    ) -> tuple[ClientUpdate, float]:
        loop.data = FewBatches(data, batches)  # type: ignore[assignment]
        started = time.perf_counter()
        result = loop.train_cohort([participant])
        _synchronize(loop)
        seconds = time.perf_counter() - started
        if result.failures:
            raise ClientError(str(result.failures[0]), result.failures[0].trace)
        return result.updates[0], seconds


def _flops(loop: FederatedLoop, of_cohort: Sequence[tuple[Participant, _Measured]]) -> tuple[float | None, float]:
    """FLOPs of the training of a round, and their ratio to dense training."""
    flops, epochs = loop.ledger.training, loop.plan.local_epochs
    if flops is None:
        return None, 0.0
    spent = sum(loop.ledger.training_flops(epochs * client.samples, one.update) for client, one in of_cohort)
    dense = sum(epochs * client.samples for client, _ in of_cohort) * flops.training(flops.dense)
    return spent, spent / dense


def _evaluation(loop: FederatedLoop, data: FederatedData, union: bool) -> float:
    """Seconds of an evaluation of the server, from a few test batches; the ``union`` is one model more."""

    def seconds(batches: int) -> float:
        loop.evaluator.data = FewBatches(data, batches)  # type: ignore[assignment]
        started = time.perf_counter()
        loop.evaluator.server_metrics(loop.tier_masks, done=1)
        _synchronize(loop)
        return time.perf_counter() - started

    batches, models = len(data.val_dataloader()), len(loop.tier_masks)
    evaluated = models + loop.evaluator.union_differs()
    seconds(SHORT)  # some kernels are made at their first use
    short, long = seconds(SHORT), seconds(LONG)
    measured = min(LONG, batches)
    each = (long - short) / (measured - SHORT) if measured > SHORT and long > short else long / measured
    return (short + (batches - SHORT) * each) * (models + union) / evaluated


def _first_stage(loop: FederatedLoop, data: FederatedData, step: float) -> float:
    """Seconds of stage 1 in one process."""
    stage = loop.scheduler.first_stage
    if stage is None:
        return 0.0
    batches = sum(len(data.client_batches(client)) for client in range(data.clients)) / data.clients
    return stage.num_clients(data.clients) * stage.epochs * min(batches, stage.batches or batches) * step


def _synchronize(loop: FederatedLoop) -> None:
    if loop.fabric.device.type == "cuda":
        torch.cuda.synchronize(loop.fabric.device)
