"""Stage 2, the file to read: a round from the drawing of the cohort to the new server model."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.fabric import Fabric

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError
from flash_pl.loops.base import Loop
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.schedule import EvaluationSchedule, RoundDecay
from flash_pl.loops.sensitivity import SensitivityLoop
from flash_pl.report import Ballot
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive, generator, seed_global_
from flash_pl.server import ClientSampler, FedAvg, ServerState
from flash_pl.sparsity import SparsityBudget, mismatch, pairwise_mismatch


class FederatedLoop(Loop):
    """Trains the server's model over ``rounds`` rounds.

    Callbacks get ``on_run_start(loop)``, ``on_sensitivity_client_end(loop, done, total)``, then
    ``on_client_end(loop, report)``, ``on_round_end(loop, row)`` with the round's line of metrics, ``on_run_end(loop)``.

    Attributes:
        server: weights, mask and union.
        round: rounds done, so the index of the next one.
        metrics: the last round's row.
    """

    def __init__(
        self,
        fabric: Fabric,
        client: ClientState,
        server: ServerState,
        data: FederatedData,
        scheduler: SparseScheduler,
        *,
        rounds: int,
        cohort: int,
        local_epochs: int,
        seed: int,
        budget: SparsityBudget,
        aggregator: FedAvg,
        sampler: ClientSampler,
        decay: RoundDecay,
        evaluate: EvaluationSchedule,
        local: LocalLoop,
    ) -> None:
        self.fabric, self.client, self.server, self.data, self.scheduler = fabric, client, server, data, scheduler
        self.rounds, self.cohort, self.local_epochs, self.seed = rounds, cohort, local_epochs, seed
        self.budget, self.aggregator, self.sampler, self.decay = budget, aggregator, sampler, decay
        self.evaluate, self.local, self.evaluation = evaluate, local, EvaluationLoop(fabric)
        self.round = 0
        self.should_stop = False
        self.metrics: dict[str, float] = {}

    @property
    def done(self) -> bool:
        return self.should_stop or self.round >= self.rounds

    def on_run_start(self) -> None:
        self.fabric.call("on_run_start", loop=self)
        if self.round == 0:
            self.find_first_mask()

    def find_first_mask(self) -> None:
        """Stage 1 if the method has one, then the first server mask and the initial weights adapted to it."""
        found = None
        if self.scheduler.sensitivity is not None:
            found = SensitivityLoop(
                self.scheduler.sensitivity,
                self.scheduler,
                self.local,
                self.client,
                self.server,
                self.data,
                self.budget.density,
                self.seed,
                lambda done, total: self.fabric.call("on_sensitivity_client_end", loop=self, done=done, total=total),
            ).run()
        mask = self.scheduler.initial_mask(self.server.layout, self.budget.density, found, generator(self.seed, "mask"))
        self.server.mask = mask.to(self.server.weights.device)
        self.scheduler.first_mask.initialise(self.server.layout, self.server.weights, self.server.mask)

    def on_advance_start(self) -> None:
        self.started = time.perf_counter()

    def advance(self) -> None:
        server, scheduler = self.server, self.scheduler
        previous = server.mask

        # 1. The server draws a cohort and prunes its mask to every tier of devices.
        cohort = self.sampler(self.data.clients, self.cohort, self.seed, self.round)
        masks = self.budget.nest(server.layout, server.mask, server.weights)

        # 2. Every client trains under its mask; the aggregator sums up what it reports.
        ballots, logged = [], _WeightedMeans()
        self.aggregator.reset(server.weights, server.layout.maskable)
        for client in cohort:
            batches = self.data.client_batches(client)
            context = self.context(client, len(batches))
            self.client.receive(server.weights, scheduler.client_mask(masks[self.budget.tier(client)], context))
            report = self.local.run(self.client, scheduler, batches, context)
            self.aggregator.update(report)
            ballots.append(Ballot.of(report))
            logged.update(report.metrics, report.samples)
            self.fabric.call("on_client_end", loop=self, report=report)

        # 3. The aggregate replaces the server's weights; unpruned it is the union of the clients' models.
        server.weights.copy_(self.aggregator.compute())
        server.union.copy_(server.weights)

        # 4. The method votes on the mask and prunes the server to it.
        scheduler.on_aggregate(server, ballots, self.round)
        self.metrics = logged.compute() | {
            "density": float(server.mask.float().mean()),
            "density_union": float((server.union[: server.layout.maskable] != 0).float().mean()),
            "mismatch_clients": pairwise_mismatch([ballot.mask for ballot in ballots]),
            "mismatch_server": sum(mismatch(ballot.mask, server.mask) for ballot in ballots) / len(ballots),
            "mismatch_temporal": mismatch(server.mask, previous),
            "moved": int((server.mask & ~previous).sum()),
            "lr_scale": self.decay.scale(self.round),
        }

    def context(self, client: int, batches: int) -> ClientContext:
        """The facts of a client's training in this round."""
        return ClientContext(
            client, self.round, self.local_epochs, batches, self.seed, lr_scale=self.decay.scale(self.round)
        )

    def on_advance_end(self) -> None:
        self.round += 1
        trained = time.perf_counter()
        if self.evaluate.due(self.round, self.rounds):
            found = self.validate()
            if shared := self.metrics.keys() & found.keys():
                raise ConfigError("log", sorted(shared), "names that training, validation and the round do not share")
            self.metrics |= found
        self.metrics |= {"seconds_train": trained - self.started, "seconds": time.perf_counter() - self.started}
        self.fabric.call("on_round_end", loop=self, row={"round": self.round} | self.metrics)

    def on_run_end(self) -> None:
        self.fabric.call("on_run_end", loop=self)

    def validate(self) -> dict[str, float]:
        """Metrics of the model masked to d; the union's end in ``_union``, a smaller tier's in ``_d`` and its d."""
        seed_global_(derive(self.seed, "evaluation", self.round), self.fabric.device)
        server, batches = self.server, self.data.val_dataloader()
        masked = server.masked()
        metrics = self.evaluation.run(self.client, masked, batches)
        same = bool((masked == server.union).all())
        union = metrics if same else self.evaluation.run(self.client, server.union, batches)
        named = {f"{name}_union": value for name, value in union.items()}
        smaller = self.budget.nest(server.layout, server.mask, server.weights)[:-1]
        for tier, mask in zip(self.budget.tiers, smaller, strict=False):
            found = self.evaluation.run(self.client, server.masked(mask), batches)
            named |= {f"{name}_d{tier.density:g}": value for name, value in found.items()}
        return metrics | named

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "metrics": self.metrics,
            "server": self.server.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round, self.metrics = state["round"], dict(state["metrics"])
        self.server.load_state_dict(state["server"])
        self.scheduler.load_state_dict(state["scheduler"])


class _WeightedMeans:
    """Means of the clients' metrics, weighted by samples."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, int] = {}

    def update(self, metrics: Mapping[str, float], samples: int) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + samples * value
            self.weights[name] = self.weights.get(name, 0) + samples

    def compute(self) -> dict[str, float]:
        return {name: total / self.weights[name] for name, total in self.sums.items()}
