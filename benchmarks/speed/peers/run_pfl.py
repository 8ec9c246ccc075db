"""pfl-research: ``FederatedAveraging`` on ``SimulatedBackend`` with PyTorch, as its benchmarks do.

Its data sets do not shuffle their batches, so a user's data set is shuffled when it is made, in every round.
"""

import contextlib
import io

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from rounds import Rounds
from torch import Tensor
from torch.nn import functional as F
from workload import BATCH, LR, NETWORKS, Task, Workload

NEVER = 10**9


class Timing(TrainingProcessCallback):
    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
        self.rounds.mark()
        return False, Metrics()


def with_loss(network: torch.nn.Module, base: type[torch.nn.Module]) -> torch.nn.Module:
    """The network with the two methods that pfl calls."""

    class Network(base):  # type: ignore[misc, valid-type]
        def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
            self.train()
            return F.cross_entropy(self(inputs), targets)

        @torch.no_grad()
        def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Weighted]:
            return {"loss": Weighted(len(targets) * F.cross_entropy(self(inputs), targets).item(), len(targets))}

    network.__class__ = Network
    return network


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    clients, order = workload.all_clients(), torch.Generator().manual_seed(1)
    cohorts = iter(sum(workload.cohorts, []))
    np.random.seed(0)

    def user_data(user: int) -> PyTorchTensorDataset:
        images, labels = clients[user]
        rows = torch.randperm(len(labels), generator=order)
        return PyTorchTensorDataset((images[rows], labels[rows]), user_id=str(user))

    network = with_loss(workload.network(), NETWORKS[task.workload])
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    data = FederatedDataset(user_data, lambda: next(cohorts))
    algorithm = NNAlgorithmParams(
        central_num_iterations=task.rounds,
        evaluation_frequency=NEVER,
        train_cohort_size=workload.per_round,
        val_cohort_size=0,
    )
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH)
    backend = SimulatedBackend(data, data, [WeightByUser()])
    rounds = Rounds(task, workload)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its metrics in every round
        rounds.mark()
        FederatedAveraging().run(algorithm, backend, model, local, callbacks=[Timing(rounds)])
    rounds.report(network, "pfl")


if __name__ == "__main__":
    main()
