"""Evaluates every client on its own test samples, with the model that its device gets."""

from collections.abc import Iterator

import torch
from torch import Tensor

from flash_pl.client import ClientContext, ClientState
from flash_pl.data import ClientTestData, FederatedData
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.spread import Spread
from flash_pl.schedulers import SparseScheduler


class ClientEvaluationLoop:
    """Means over clients and over the best and the worst tenth of them, of what ``validation_step`` logs.

    Args:
        evaluation, local: the loops that evaluate and train one client.
        finetune_epochs: also evaluate every client after that many epochs on its own training samples, under its mask
            held fixed (a personalised model, which is then thrown away).
    """

    def __init__(self, evaluation: EvaluationLoop, local: LocalLoop, finetune_epochs: int = 0) -> None:
        self.evaluation, self.local, self.finetune_epochs = evaluation, local, finetune_epochs
        self.fixed = SparseScheduler()

    def run(
        self, client: ClientState, offers: Iterator[tuple[Tensor, Tensor, ClientContext]], data: FederatedData
    ) -> dict[str, float]:
        """``offers`` are, for every client, the server's arena, the client's mask and its context.

        Metrics end in ``_clients`` for the mean, ``_clients_lowest`` and ``_clients_highest`` for the mean of the tenth
        of clients with the smallest and the largest values; after fine-tuning ``_finetuned`` stands for ``_clients``.
        Clients without test samples do not count.
        """
        assert isinstance(data, ClientTestData)
        spreads: dict[str, Spread] = {}
        for weights, mask, context in offers:
            batches = data.client_val_batches(context.client)
            if not batches.samples:
                continue
            client.receive(weights, mask)
            self._add(spreads, "clients", self.evaluation.run(client, client.arena, batches))
            if self.finetune_epochs:
                client.receive(weights, mask)
                self.local.run(client, self.fixed, data.client_batches(context.client), context)
                self._add(spreads, "finetuned", self.evaluation.run(client, client.arena, batches))
        return {
            name if kind == "mean" else f"{name}_{kind}": float(value)
            for name, spread in spreads.items()
            for kind, value in spread.compute().items()
        }

    def _add(self, spreads: dict[str, Spread], suffix: str, found: dict[str, float]) -> None:
        for name, value in found.items():
            spreads.setdefault(f"{name}_{suffix}", Spread()).update(torch.tensor(value, dtype=torch.float64))
