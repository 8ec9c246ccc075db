"""FedLab: ``SGDSerialClientTrainer`` and ``SyncServerHandler`` in its ``StandalonePipeline``.

Its trainer takes any iterable, here the bare loop's batches; with a DataLoader, as in its own data sets, it is slower.
"""

import logging
from collections.abc import Iterable

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.core.standalone import StandalonePipeline
from rounds import Rounds
from torch import Tensor
from workload import BATCH, LR, Task, Workload, batches


class Data:
    def __init__(self, workload: Workload) -> None:
        self.clients, self.order = workload.all_clients(), torch.Generator().manual_seed(1)

    def get_dataloader(self, client: int, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
        return Epoch(*self.clients[client], self.order)


class Epoch:
    def __init__(self, images: Tensor, labels: Tensor, order: torch.Generator) -> None:
        self.arguments = images, labels, order

    def __iter__(self):  # type: ignore[no-untyped-def]
        return batches(*self.arguments)


def main() -> None:
    task = Task.given()
    logging.getLogger().setLevel(logging.WARNING)
    workload = Workload(task)
    network, cohorts = workload.network(), iter(workload.cohorts)

    class SharedCohorts(SyncServerHandler):
        def sample_clients(self) -> list[int]:
            return next(cohorts)

    class Timed(StandalonePipeline):
        def evaluate(self) -> None:
            rounds.mark()

    handler = SharedCohorts(network, task.rounds, workload.per_round / workload.clients)
    trainer = SGDSerialClientTrainer(network, workload.clients)
    trainer.setup_dataset(Data(workload))
    trainer.setup_optim(1, BATCH, LR)
    rounds = Rounds(task, workload)
    rounds.mark()
    Timed(handler, trainer).main()
    rounds.report(handler.model, "fedlab")


if __name__ == "__main__":
    main()
