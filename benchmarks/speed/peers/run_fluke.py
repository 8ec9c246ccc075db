"""fluke: ``CentralizedFL``, which is FedAvg, in memory, with its own ``FastDataLoader``.

By default each client keeps its model after its first round (``persistency``); variant ``forgetful`` keeps none.
"""

from fluke import DDict, FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.server import Server
from fluke.utils import FederationObserver
from rounds import Rounds
from workload import BATCH, LR, Task, Workload

NEVER = 10**9


class Timing(FederationObserver):
    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def end_round(self, *arguments, **keywords) -> None:  # type: ignore[no-untyped-def]
        self.rounds.mark()


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    environment = FlukeENV()
    environment.set_seed(1)
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    environment.set_evaluator(ClassificationEval(eval_every=NEVER, n_classes=10))
    loaders = [
        FastDataLoader(*tensors, num_labels=10, batch_size=BATCH, shuffle=True) for tensors in workload.all_clients()
    ]
    container = DummyDataContainer(loaders, [None] * workload.clients, None, 10)
    cohorts = iter(workload.cohorts)

    class SharedCohorts(Server):
        def get_eligible_clients(self, eligible_perc):  # type: ignore[no-untyped-def]
            return [self.clients[index] for index in next(cohorts)]

    class Algorithm(CentralizedFL):
        def get_server_class(self):  # type: ignore[no-untyped-def]
            return SharedCohorts

        def finalize(self) -> None:
            """Would send the final model to all clients."""

    client = {
        "batch_size": BATCH,
        "local_epochs": 1,
        "loss": "CrossEntropyLoss",
        "optimizer": {"name": "SGD", "lr": LR},
        "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
        "persistency": task.variant != "forgetful",
    }
    settings = DDict(client=client, server={"weighted": False}, model=workload.network())
    algorithm = Algorithm(workload.clients, DataSplitter(container), settings)
    rounds = Rounds(task, workload)
    algorithm.set_callbacks([Timing(rounds)])
    rounds.mark()
    algorithm.run(task.rounds, workload.per_round / workload.clients)
    rounds.report(algorithm.server.model, "fluke-fl")


if __name__ == "__main__":
    main()
