"""Evaluates every client on its own test samples, with the model that its device gets."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import ClientTestData, FederatedData
from flash_pl.errors import Interrupted
from flash_pl.loops.cohort import CohortLoop
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.faults import Failure
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.plan import Member
from flash_pl.loops.spread import Spread
from flash_pl.schedulers import SparseScheduler


class ClientEvaluationLoop:
    """Means over clients and over the best and the worst tenth of them, of what ``validation_step`` logs.

    Args:
        evaluation, local: the loops that evaluate and train one client.
        finetune_epochs: also evaluate every client after that many epochs on its own training samples, under its mask
            held fixed (a personalised model, which is then thrown away).
    """

    def __init__(
        self, evaluation: EvaluationLoop, local: LocalLoop, cohorts: CohortLoop, finetune_epochs: int = 0
    ) -> None:
        self.evaluation, self.local, self.cohorts, self.finetune_epochs = evaluation, local, cohorts, finetune_epochs
        self.fixed = SparseScheduler()

    def run(
        self,
        client: ClientState,
        offer: Callable[[Member], tuple[Tensor, Tensor, ClientContext]],
        members: Sequence[Member],
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
