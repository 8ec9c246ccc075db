"""Stage 2, the file to read: a round from the drawing of the cohort to the new server model."""

import time
from collections.abc import Iterator
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError
from flash_pl.loops.base import Loop
from flash_pl.loops.clients import ClientEvaluationLoop
from flash_pl.loops.consensus import consensus
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.means import WeightedMeans
from flash_pl.loops.schedule import EvaluationSchedule, RoundDecay
from flash_pl.loops.sensitivity import SensitivityLoop
from flash_pl.loops.tiers import evaluate_tiers
from flash_pl.report import Ballot
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive, generator, seed_global_
from flash_pl.server import ClientSampler, FedAvg, Population, ServerState
from flash_pl.sparsity import SparsityBudget, nested_masks


class FederatedLoop(Loop):
    """Trains the server's model over ``rounds`` rounds.

    Callbacks get ``on_run_start(loop)``, ``on_sensitivity_client_end(loop, done, total)``, then
    ``on_client_end(loop, report)``, ``on_round_end(loop, row)`` with the round's line of metrics, ``on_run_end(loop)``.

    Attributes:
        server: weights, mask and union.
        masks: what the server offers its tiers of devices: nested, the last one is the server's own mask.
        population: what the sampler knows of the clients.
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
        population: Population,
        aggregator: FedAvg,
        sampler: ClientSampler,
        decay: RoundDecay,
        evaluate: EvaluationSchedule,
        local: LocalLoop,
    ) -> None:
        self.fabric, self.client, self.server, self.data, self.scheduler = fabric, client, server, data, scheduler
        self.rounds, self.cohort, self.local_epochs, self.seed = rounds, cohort, local_epochs, seed
        self.budget, self.population, self.aggregator = budget, population, aggregator
        self.sampler, self.decay = sampler, decay
        self.evaluate, self.local, self.evaluation = evaluate, local, EvaluationLoop(fabric)
        self.clients = ClientEvaluationLoop(self.evaluation, local, evaluate.finetune_epochs)
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
        self.server.prune_()  # a masked average keeps what nobody holds, and that must be nothing
        self.nest()

    def nest(self) -> None:
        """Prune the server's mask to every tier of devices."""
        server = self.server
        self.masks = nested_masks(server.layout, server.mask, server.weights, self.budget.ratios)

    def on_advance_start(self) -> None:
        self.started = time.perf_counter()

    def advance(self) -> None:
        server, scheduler = self.server, self.scheduler
        previous = server.mask

        # 1. The server draws a cohort; each client belongs to a tier of devices, for which a mask is ready.
        cohort = self.sampler(self.population, self.cohort, self.seed, self.round)
        tiers = self.budget.tiers_of(cohort, self.population.tiers, self.round)
        scheduler.on_round_start(server, self.masks, self.round)

        # 2. Every client trains under its mask; the aggregator sums up what it reports.
        ballots, logged = [], WeightedMeans()
        self.aggregator.reset(server.weights, server.layout.maskable)
        for client, tier in zip(cohort, tiers, strict=True):
            batches = self.data.client_batches(client)
            context = self.context(client, len(batches), tier)
            self.client.receive(server.weights, scheduler.client_mask(self.masks[tier], context))
            report = self.local.run(self.client, scheduler, batches, context)
            self.aggregator.update(report)
            ballots.append(Ballot.of(report))
            logged.update(report.metrics, report.samples)
            self.fabric.call("on_client_end", loop=self, report=report)

        if ballots:  # a sampler may find nobody online
            # 3. The aggregate replaces the server's weights; unpruned it is the union of the clients' models.
            server.weights.copy_(self.aggregator.compute())
            server.union.copy_(server.weights)

            # 4. The method votes on the mask and prunes the server to it.
            scheduler.on_aggregate(server, ballots, self.round)
            self.nest()

        self.metrics = logged.compute() | consensus(server, previous, ballots, self.budget, self.masks)
        self.metrics |= {"participants": len(cohort), "lr_scale": self.decay.scale(self.round)}

    def context(self, client: int, batches: int, tier: int = 0) -> ClientContext:
        """The facts of a client's training in this round."""
        scale = self.decay.scale(self.round)
        return ClientContext(client, self.round, self.local_epochs, batches, self.seed, lr_scale=scale, tier=tier)

    def on_advance_end(self) -> None:
        self.round += 1
        trained = time.perf_counter()
        found = self.validate() if self.evaluate.due(self.round, self.rounds) else {}
        if self.evaluate.clients_due(self.round, self.rounds):
            found |= self.clients.run(self.client, self.offers(), self.data)
        if found:
            if shared := self.metrics.keys() & found.keys():
                raise ConfigError("log", sorted(shared), "names that training, validation and the round do not share")
            self.metrics |= found
        self.metrics |= {"seconds_train": trained - self.started, "seconds": time.perf_counter() - self.started}
        self.fabric.call("on_round_end", loop=self, row={"round": self.round} | self.metrics)

    def on_run_end(self) -> None:
        self.fabric.call("on_run_end", loop=self)

    def validate(self) -> dict[str, float]:
        """Metrics of the server's models, see :func:`evaluate_tiers`."""
        seed_global_(derive(self.seed, "evaluation", self.round), self.fabric.device)
        batches = self.data.val_dataloader()
        return evaluate_tiers(self.evaluation, self.client, self.server, self.budget.tiers, self.masks, batches)

    def offers(self) -> Iterator[tuple[Tensor, Tensor, ClientContext]]:
        """For every client what it would start from now: the server's arena, a mask, and the facts of a fine-tuning."""
        clients, scale = range(self.data.clients), self.decay.scale(self.round)
        for client, tier in zip(clients, self.budget.tiers_of(clients, self.population.tiers, self.round), strict=True):
            batches, epochs = len(self.data.client_batches(client)), self.evaluate.finetune_epochs
            context = ClientContext(client, self.round, epochs, batches, self.seed, "finetune", scale, tier)
            yield self.server.weights, self.scheduler.client_mask(self.masks[tier], context), context

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
        self.nest()
