"""Lightning, one training per client: a new ``Trainer`` and its ``fit``, or Fabric, which is set up once.

``barebones=True`` is the Trainer's own switch for the least overhead.
"""

import logging
import warnings
from collections.abc import Iterator

import lightning as L
import torch
from lightning.fabric import Fabric
from rounds import Rounds
from torch import Tensor
from torch.nn import functional as F
from workload import BATCH, LR, Task, Workload, batches

warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Epoch:
    """An iterable with a length, as ``Trainer.fit`` takes it in place of a DataLoader."""

    def __init__(self, images: Tensor, labels: Tensor, order: torch.Generator) -> None:
        self.tensors, self.order = (images, labels), order

    def __len__(self) -> int:
        return -(-len(self.tensors[1]) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(*self.tensors, self.order)


class Module(L.LightningModule):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=LR)


class WithTrainer:
    def __init__(self, network: torch.nn.Module) -> None:
        self.module = Module(network)

    def train(self, epoch: Epoch) -> None:
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", devices=1, barebones=True)
        trainer.fit(self.module, epoch)


class WithFabric:
    def __init__(self, network: torch.nn.Module) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.fabric.launch()
        optimizer = torch.optim.SGD(network.parameters(), lr=LR)
        self.network, self.optimizer = self.fabric.setup(network, optimizer)

    def train(self, epoch: Epoch) -> None:
        for images, labels in epoch:
            self.optimizer.zero_grad()
            self.fabric.backward(F.cross_entropy(self.network(images), labels))
            self.optimizer.step()


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    clients, network, order = workload.all_clients(), workload.network(), torch.Generator().manual_seed(1)
    client = {"trainer": WithTrainer, "fabric": WithFabric}[task.variant](network)
    server = {name: value.clone() for name, value in network.state_dict().items()}
    rounds = Rounds(task, workload)
    rounds.mark()
    for cohort in workload.cohorts:
        total = {name: torch.zeros_like(value) for name, value in server.items() if value.is_floating_point()}
        for index in cohort:
            network.load_state_dict(server)
            client.train(Epoch(*clients[index], order))
            trained = network.state_dict()
            for name, value in total.items():
                value.add_(trained[name], alpha=1 / len(cohort))
        server |= total
        rounds.mark()
    network.load_state_dict(server)
    rounds.report(network, "lightning")


if __name__ == "__main__":
    main()
