"""Flower: ClientApp and ServerApp in its simulation on Ray, one actor with one CPU.

The client trains by the bare loop on tensors in memory, so all else is Flower's. Flower samples the clients itself.
"""

import os
import random
import time

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from rounds import Rounds
from workload import LR, Task, Workload, train

client_app = ClientApp()


class Kept:
    """What the actor keeps between messages: the clients' tensors, the network, the optimizer."""

    def __init__(self) -> None:
        workload = Workload(Task.given())
        self.clients, self.network = workload.all_clients(), workload.network()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LR)
        self.order = torch.Generator().manual_seed(1)


kept: list[Kept] = []


@client_app.train()
def train_client(message: Message, context: Context) -> Message:
    if not kept:
        kept.append(Kept())
    (own,) = kept
    own.network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = own.clients[int(context.node_config["partition-id"])]
    train(own.network, images, labels, own.order, own.optimizer)
    arrays = ArrayRecord(own.network.state_dict())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(labels)})})
    return Message(content=content, reply_to=message)


def main() -> None:
    import run_flower  # the actor imports this file by its name
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    task = Task.given()
    workload = Workload(task)
    rounds = Rounds(task, workload, time.thread_time)
    network, server_app = workload.network(), ServerApp()
    random.seed(0)

    def after_round(done: int, arrays: ArrayRecord) -> None:  # Flower calls it before the first round too
        network.load_state_dict(arrays.to_torch_state_dict())
        rounds.mark()

    @server_app.main()
    def serve(grid, context) -> None:  # type: ignore[no-untyped-def]
        strategy = FedAvg(
            fraction_train=workload.per_round / workload.clients,
            fraction_evaluate=0.0,
            min_train_nodes=workload.per_round,
            min_available_nodes=workload.clients,
        )
        arrays = ArrayRecord(workload.network().state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=task.rounds, evaluate_fn=after_round)

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(
        server_app=server_app,
        client_app=run_flower.client_app,
        num_supernodes=workload.clients,
        backend_config={"init_args": {"num_cpus": 1, "include_dashboard": False}, "client_resources": resources},
    )
    rounds.report(network, "flwr")


if __name__ == "__main__":
    main()
