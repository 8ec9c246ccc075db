"""What is evaluated after a round: the server's model, each tier's, the union, and every client's."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from flash_pl.client import ClientContext
from flash_pl.data import ClientTestData
from flash_pl.errors import ConfigError
from flash_pl.loops.clients import ClientEvaluationLoop
from flash_pl.loops.consensus import suffix
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.federation import Federation
from flash_pl.loops.plan import Member
from flash_pl.loops.schedule import EvaluationSchedule


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

        found = ranks.gather_jobs({job: evaluate(job) for job in ranks.mine([1] * len(models))})
        metrics = found[0]
        named = {f"{name}_union": value for name, value in found[0 if same else len(masks)].items()}
        if len(tiers) > 1:
            for job, tier in reversed(list(enumerate(tiers[::-1]))):
                named |= {name + suffix(tier.density): value for name, value in found[job].items()}
        return metrics | named

    def offer(self, masks: Sequence[Tensor], member: Member, done: int) -> tuple[Tensor, Tensor, ClientContext]:
        """What a client would be given now: the deployed arena, a mask, and the facts of a fine-tuning."""
        parts = self.parts
        batches = len(parts.data.client_batches(member.client))
        facts = parts.plan.context(member, batches, done)
        context = replace(facts, purpose="finetune", epochs=self.schedule.finetune_epochs)
        held = parts.accounts.link.held(member.client)
        return parts.server.deployed, parts.scheduler.deployed_mask(masks[member.tier], held, context), context
