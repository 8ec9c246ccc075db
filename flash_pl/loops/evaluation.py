"""Evaluates a model of the server with the module's own validation_step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from flash_pl.client import ClientContext, ClientState, samples_in
from flash_pl.client.module import evaluating
from flash_pl.costs import Flops, count_flops
from flash_pl.data import ClientTestData, FederatedData
from flash_pl.errors import ConfigError, Interrupted, ModuleError
from flash_pl.loops.federation import Federation
from flash_pl.loops.local import LocalLoop, Transfer, step_with_index
from flash_pl.loops.round_metrics import suffix
from flash_pl.loops.settings import EvaluationSchedule, Participant
from flash_pl.loops.workers import CohortLoop, Failure, reason
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed, seed_global_rng_


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
        """``mean``, ``lowest`` and ``highest``, all float64 scalars."""
        values = dim_zero_cat(self.values).sort().values
        tenth = max(1, len(values) // 10)
        return {"mean": values.mean(), "lowest": values[:tenth].mean(), "highest": values[-tenth:].mean()}


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
        seed_global_rng_(derive_seed(self.seed, "evaluation", round, model), self.fabric.device)
        client.arena.copy_(weights)
        client.backend.set_mask(client.weights != 0)
        client.reset()
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


def flops_of(client: ClientState, evaluation: EvaluationLoop, data: FederatedData) -> Flops | None:
    """FLOPs of one sample, see ``count_flops``; None where no ``validation_step`` runs the model.

    Raises:
        ModuleError: the model cannot be evaluated on the data.
    """
    module = client.module
    batches = list(islice(iter(data.val_dataloader()), 1))
    if not batches or not is_overridden("validation_step", module, parent=L.LightningModule):
        return None
    weights, names = client.arena.clone(), [layer.name for layer in client.layout.layers]
    try:
        with client.backend.eager():  # the counter knows torch's own operations only
            found = count_flops(module, names, lambda: evaluation.run(client, weights, batches))
    except (ConfigError, ModuleError):
        raise
    except Exception as error:  # whatever a user's module does with the data
        raise ModuleError(f"a batch of the data cannot be evaluated: {reason(error)}") from error
    return found.of_each(samples_in(batches[0])) if found.forward(found.dense) else None


class ClientEvaluationLoop:
    """Means over clients and over the best and the worst tenth of them, of what ``validation_step`` logs.

    Args:
        evaluation, local: the loops that evaluate and train one client.
        finetune_epochs: also evaluate every client after that many epochs on its own training samples, under its mask
            held fixed (a personalized model, which is then thrown away).
    """

    def __init__(
        self, evaluation: EvaluationLoop, local: LocalLoop, cohorts: CohortLoop, finetune_epochs: int = 0
    ) -> None:
        self.evaluation, self.local, self.cohorts, self.finetune_epochs = evaluation, local, cohorts, finetune_epochs
        self.fixed = SparseScheduler()

    def run(
        self,
        client: ClientState,
        offer: Callable[[Participant], tuple[Tensor, Tensor, ClientContext]],
        members: Sequence[Participant],
        data: FederatedData,
        round: int,
        state: Callable[[], int],
    ) -> dict[str, float]:
        """Evaluate the clients ``members``; ``offer`` gives for each the server's arena, its mask and its context.

        Metrics end in ``_clients`` for the mean, ``_clients_lowest`` and ``_clients_highest`` for the mean of the tenth
        of clients with the smallest and the largest values; after fine-tuning ``_finetuned`` stands for ``_clients``.
        Clients without test samples do not count. ``round`` and ``state`` are for ``CohortLoop.run``.

        Raises:
            ClientError: a client failed and is not to be skipped.
            Interrupted: a signal came.
        """
        done, signal = self.cohorts.run(
            [member.client for member in members],
            [member.samples for member in members],
            round,
            state,
            lambda place: self._evaluate(client, *offer(members[place]), data),
            lambda metrics: metrics,
        )
        if signal is not None:
            raise Interrupted(signal)
        spreads: dict[str, Spread] = {}
        for metrics in done.values():
            if isinstance(metrics, Failure):
                continue
            for name, value in metrics.items():
                spreads.setdefault(name, Spread()).update(torch.tensor(value, dtype=torch.float64))
        return {
            name if kind == "mean" else f"{name}_{kind}": float(value)
            for name, spread in spreads.items()
            for kind, value in spread.compute().items()
        }

    def _evaluate(
        self, client: ClientState, weights: Tensor, mask: Tensor, context: ClientContext, data: FederatedData
    ) -> dict[str, float]:
        assert isinstance(data, ClientTestData)
        batches = data.client_val_batches(context.client)
        if not batches.samples:
            return {}
        client.receive(weights, mask)
        draws = context.round, 1 + context.client
        found = self.evaluation.run(client, client.arena, batches, *draws)
        metrics = {f"{name}_clients": value for name, value in found.items()}
        if self.finetune_epochs:
            client.receive(weights, mask)
            self.local.run(client, self.fixed, data.client_batches(context.client), context)
            found = self.evaluation.run(client, client.arena, batches, *draws)
            metrics |= {f"{name}_finetuned": value for name, value in found.items()}
        return metrics


class RoundEvaluation:
    """Evaluates what is due.

    Args:
        federation: the run's parts.
        schedule: says what is due when.

    Raises:
        ConfigError: clients are to be evaluated, and the data have no test samples of theirs.
    """

    def __init__(self, federation: Federation, schedule: EvaluationSchedule) -> None:
        data = federation.data
        if schedule.clients_every is not None and not isinstance(data, ClientTestData):
            raise ConfigError("data", type(data).__name__, "data with client_val_batches, to evaluate every client")
        self.parts, self.schedule = federation, schedule
        self.evaluation = EvaluationLoop(federation.fabric, federation.plan.seed)
        self.clients = ClientEvaluationLoop(
            self.evaluation, federation.local, federation.cohorts, schedule.finetune_epochs
        )

    def run(self, masks: Sequence[Tensor], done: int) -> dict[str, float]:
        """Metrics after ``done`` rounds, under the nested ``masks``, one a tier; none where nothing is due."""
        rounds = self.parts.plan.rounds
        found = self.server(masks, done) if self.schedule.due(done, rounds) else {}
        if self.schedule.clients_due(done, rounds):
            found |= self.clients.run(
                self.parts.client,
                lambda member: self.offer(masks, member, done),
                self.parts.plan.everyone(done),
                self.parts.data,
                done,
                self.parts.server.fingerprint,
            )
        return found

    def server(self, masks: Sequence[Tensor], done: int) -> dict[str, float]:
        """Metrics of the model masked to d; the union's end in ``_union``, a tier's in ``_d`` and its density.

        Each model is evaluated whole, on one rank: a module may look at all outputs of an evaluation together.
        """
        server, ranks, tiers = self.parts.server, self.parts.ranks, self.parts.plan.budget.tiers
        same = bool((server.masked() == server.union).all())
        models = [*masks[::-1]] + ([] if same else [None])  # None for the union
        batches = self.parts.data.val_dataloader()

        def evaluate(job: int) -> dict[str, float]:
            mask = models[job]
            weights = server.union if mask is None else server.masked(mask)
            return self.evaluation.run(self.parts.client, weights, batches, done, job)

        found = ranks.gather_jobs({job: evaluate(job) for job in ranks.my_share([1] * len(models))})
        metrics = found[0]
        named = {f"{name}_union": value for name, value in found[0 if same else len(masks)].items()}
        if len(tiers) > 1:
            for job, tier in reversed(list(enumerate(tiers[::-1]))):
                named |= {name + suffix(tier.density): value for name, value in found[job].items()}
        return metrics | named

    def offer(self, masks: Sequence[Tensor], member: Participant, done: int) -> tuple[Tensor, Tensor, ClientContext]:
        """What a client would be given now: the deployed arena, a mask, and the facts of a fine-tuning."""
        parts = self.parts
        batches = len(parts.data.client_batches(member.client))
        facts = parts.plan.context(member, batches, done)
        context = replace(facts, purpose="finetune", epochs=self.schedule.finetune_epochs)
        held = parts.ledger.link.held(member.client)
        return parts.server.deployed, parts.scheduler.deployed_mask(masks[member.tier], held, context), context
