"""Evaluation after a round: the server's model, that of every tier, the union, and every client on its own data."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from flash_pl.client import ClientContext, ClientState
from flash_pl.client.module import evaluating
from flash_pl.costs import Link
from flash_pl.data import ClientTestData, FederatedData
from flash_pl.errors import ConfigError
from flash_pl.loops.failures import Failure
from flash_pl.loops.local import LocalLoop, Step, Transfer, step_with_index
from flash_pl.loops.settings import EvaluationSchedule, Participant, Plan
from flash_pl.loops.workers import Workers
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed, seed_global_rng_
from flash_pl.server import ServerState
from flash_pl.sparsity import unchanged


class EvaluationLoop:
    """Evaluates one model with the module's own ``validation_step``.

    The client's arena is overwritten; every client receives the server's weights before it trains anyway.

    Args:
        fabric: precision and devices.
        seed: of the run. A module that draws during an evaluation draws the same numbers whatever ran before.

    Attributes:
        names: what ``validation_step`` logs, as ``try_model`` has found before the run.
    """

    def __init__(self, fabric: Fabric, seed: int) -> None:
        self.fabric, self.seed = fabric, seed
        self.names: frozenset[str] = frozenset()

    @torch.no_grad()
    def run(
        self, client: ClientState, weights: Tensor, batches: Iterable[Any], round: int = 0, model: int = 0
    ) -> dict[str, float]:
        """What ``validation_step`` logs, reduced over all batches.

        Args:
            client: whose module is evaluated.
            weights: the model, an arena ``[layout.size]``.
            batches: of the data.
            round, model: name the module's draws.
        """
        seed_global_rng_(derive_seed(self.seed, "evaluation", round, model), self.fabric.device)
        client.arena.copy_(weights)
        client.backend.set_mask(client.weights != 0)
        client.reset()
        with evaluating(client.module):  # leaves evaluation mode on errors too: the next client trains with this module
            client.validating = True
            try:
                self._run(client, batches)
            finally:
                client.validating = False
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
                output = self.step(client, validation_step, index)
            module.on_validation_batch_end(output, batch, index)
        client.batch = None
        module.on_validation_epoch_end()
        module.on_validation_end()
        client.check_tensors()

    def step(self, client: ClientState, validation_step: Step, index: int) -> Any:
        """Evaluate ``client.batch``; returns what ``validation_step`` returns."""
        return validation_step(client.batch, index)


class RoundEvaluator:
    """Evaluates after a round what the schedule asks for.

    Args:
        loop: evaluates one model.
        client, server, scheduler, data, plan, local, workers, link: of the run.
        schedule: says after which rounds the server and the clients are evaluated.

    Raises:
        ConfigError: clients are to be evaluated, and the data have no test samples for each client.
    """

    def __init__(
        self,
        loop: EvaluationLoop,
        schedule: EvaluationSchedule,
        *,
        client: ClientState,
        server: ServerState,
        scheduler: SparseScheduler,
        data: FederatedData,
        plan: Plan,
        local: LocalLoop,
        workers: Workers,
        link: Link,
    ) -> None:
        if schedule.eval_clients_every is not None and not isinstance(data, ClientTestData):
            problem = f"{type(data).__name__} has no method client_val_batches, which evaluates every client"
            raise ConfigError("data", problem, "write it, or set eval_clients_every=null")
        self.loop, self.schedule, self.client, self.server, self.scheduler = loop, schedule, client, server, scheduler
        self.data, self.plan, self.local, self.workers, self.link = data, plan, local, workers, link
        self.fixed_mask = SparseScheduler()  # fine-tuning keeps the mask

    def run(self, tier_masks: Sequence[Tensor], done: int) -> dict[str, float]:
        """Metrics after ``done`` rounds under the nested ``tier_masks``; none if no evaluation is due.

        Raises:
            ClientError: a client failed and is not skipped.
            Interrupted: a signal asked to stop.
        """
        metrics = self.server_metrics(tier_masks, done) if self.schedule.server_due(done, self.plan.rounds) else {}
        if self.schedule.clients_due(done, self.plan.rounds):
            metrics |= self.client_metrics(tier_masks, done)
        return metrics

    def server_metrics(self, tier_masks: Sequence[Tensor], done: int) -> dict[str, float]:
        """Metrics of the model masked to d; names of the union's end in ``_union``, those of a tier in ``_d0.05``.

        With an average over rounds there is no union: what is deployed was averaged after every round was masked. Each
        model is evaluated by one process: a module may look at all outputs of an evaluation together.
        """
        server, ranks, tiers = self.server, self.workers.ranks, self.plan.budget.tiers
        masks: list[Tensor | None] = [*reversed(tier_masks)]
        union_differs = self.union_differs()
        if union_differs:
            masks.append(None)  # the union
        batches = self.data.val_dataloader()

        def evaluate(job: int) -> dict[str, float]:
            mask = masks[job]
            weights = server.union if mask is None else server.masked(mask)
            return self.loop.run(self.client, weights, batches, done, job)

        results = ranks.gather_jobs({job: evaluate(job) for job in ranks.my_share([1] * len(masks))})
        metrics = dict(results[0])
        if server.round_average is None:
            union = results[len(tier_masks) if union_differs else 0]
            metrics |= {f"{name}_union": value for name, value in union.items()}
        if len(tiers) > 1:
            for job, tier in reversed(list(enumerate(reversed(tiers)))):
                metrics |= {name + tier_suffix(tier.density): value for name, value in results[job].items()}
        return metrics

    def union_differs(self) -> bool:
        """Whether the union is a model of its own, beside the masked one."""
        server = self.server
        return server.round_average is None and not bool((server.masked() == server.union).all())

    def client_metrics(self, tier_masks: Sequence[Tensor], done: int) -> dict[str, float]:
        """How metrics spread over all clients, each on its own test samples with the model of its tier.

        Names end in ``_clients`` for the mean, ``_clients_lowest`` and ``_clients_highest`` for the means of the tenth
        of clients with the smallest and the largest values, and in ``_finetuned`` in place of ``_clients`` after
        fine-tuning. Clients without test samples do not count.
        """
        spreads: dict[str, Spread] = {}
        results = self.workers.map(
            lambda participant: self._evaluate_client(tier_masks, participant, done), self.plan.everyone(done), done
        )
        for metrics in results:
            if not isinstance(metrics, Failure):
                for name, value in metrics.items():
                    spreads.setdefault(name, Spread()).update(torch.tensor(value, dtype=torch.float64))
        return {
            name if kind == "mean" else f"{name}_{kind}": float(value)
            for name, spread in spreads.items()
            for kind, value in spread.compute().items()
        }

    def _evaluate_client(self, tier_masks: Sequence[Tensor], participant: Participant, done: int) -> dict[str, float]:
        assert isinstance(self.data, ClientTestData)
        client, data = self.client, self.data
        weights, mask, context = self.client_model(tier_masks, participant, done)
        test_batches = data.client_val_batches(participant.client)
        if not test_batches.samples:
            return {}
        client.receive(weights, mask)
        draws = context.round, 1 + context.client
        before = self.loop.run(client, client.arena, test_batches, *draws)
        metrics = {f"{name}_clients": value for name, value in before.items()}
        if self.schedule.finetune_epochs:
            client.receive(weights, mask)
            self.local.run(client, self.fixed_mask, data.client_batches(participant.client), context)
            after = self.loop.run(client, client.arena, test_batches, *draws)
            metrics |= {f"{name}_finetuned": value for name, value in after.items()}
        return metrics

    def client_model(
        self, tier_masks: Sequence[Tensor], participant: Participant, done: int
    ) -> tuple[Tensor, Tensor, ClientContext]:
        """The model that a client would get now: the deployed arena, a mask, and the facts of a fine-tuning."""
        batches = len(self.data.client_batches(participant.client))
        facts = self.plan.context(participant, batches, done)
        context = replace(facts, purpose="finetune", epochs=self.schedule.finetune_epochs)
        previous = self.link.previous_mask(participant.client, self.server.mask.device)
        tier_mask, hook = tier_masks[participant.tier], f"{type(self.scheduler).__name__}.deployed_mask"
        with unchanged(tier_mask, hook, "make a new tensor"):
            mask = self.scheduler.deployed_mask(tier_mask, previous, context)
        return self.server.deployed, mask, context


class Spread(Metric):
    """Mean of the clients' values, mean of the lowest tenth and of the highest tenth (at least one client each).

    >>> import torch
    >>> spread = Spread()
    >>> for accuracy in (0.9, 0.5, 0.7):
    ...     spread.update(torch.tensor(accuracy))
    >>> {name: round(float(value), 2) for name, value in spread.compute().items()}
    {'mean': 0.7, 'lowest': 0.5, 'highest': 0.9}
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.values: list[Tensor]
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, value: Tensor) -> None:
        """Add one client's value."""
        self.values.append(value.double().reshape(1))

    def compute(self) -> dict[str, Tensor]:
        """``mean``, ``lowest`` and ``highest``, float64 scalars."""
        values = dim_zero_cat(self.values).sort().values
        tenth = max(1, len(values) // 10)
        return {"mean": values.mean(), "lowest": values[:tenth].mean(), "highest": values[-tenth:].mean()}


def tier_suffix(density: float) -> str:
    """The end of the names of a tier's metrics.

    >>> tier_suffix(0.05)
    '_d0.05'
    """
    return f"_d{density:g}"
