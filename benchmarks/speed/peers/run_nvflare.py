"""NVIDIA FLARE: ``FedAvgRecipe`` in its simulator, which starts a process for every client in every round.

A round lasts from the start of its first client's training to that of the next round's first client. The bare loop
cannot run between these rounds; it runs before the simulation and after it.
"""

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from rounds import save
from workload import LR, BareLoop, Task, Workload, train

STARTS = "PEERS_STARTS"  # the file to which the clients write


def client() -> None:
    import nvflare.client as flare

    flare.init()
    index = int(flare.get_site_name().rsplit("-", 1)[1]) - 1
    workload = Workload(Task.given())
    network, order = workload.network(), torch.Generator().manual_seed(index)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        with open(os.environ[STARTS], "a") as file:
            print(message.current_round, time.time(), file=file)
        network.load_state_dict({name: torch.as_tensor(value) for name, value in message.params.items()})
        images, labels = workload.client(index)
        train(network, images, labels, order, optimizer)
        trained = {name: value.cpu() for name, value in network.state_dict().items()}
        flare.send(flare.FLModel(params=trained, meta={"NUM_STEPS_CURRENT_ROUND": len(labels)}))


def bare_seconds(task: Task, workload: Workload, rounds: int = 3) -> list[float]:
    if not task.bare:
        return []
    loop, seconds = BareLoop(workload, workload.cohorts[0]), []
    for _ in range(rounds):
        begun = time.perf_counter()
        loop.round(workload.cohorts[0])
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def main() -> None:
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe import SimEnv

    task = Task.given()
    workload = Workload(task)
    network, before = workload.network(), bare_seconds(task, workload)
    folder = Path(tempfile.mkdtemp())
    os.environ[STARTS] = str(folder / "starts")
    recipe = FedAvgRecipe(
        name="peers",
        model=network,
        min_clients=workload.per_round,
        num_rounds=task.rounds,
        train_script=__file__,
        train_args="client",
    )
    recipe.execute(SimEnv(num_clients=workload.clients, num_threads=1, workspace_root=str(folder)))
    starts: dict[int, float] = {}
    for line in Path(os.environ[STARTS]).read_text().splitlines():
        round, at = line.split()
        starts.setdefault(int(round), float(at))
    firsts = [starts[round] for round in sorted(starts)]
    seconds = [later - earlier for earlier, later in pairwise(firsts)]
    (saved,) = folder.rglob("FL_global_model.pt")
    state = torch.load(saved, weights_only=False)
    network.load_state_dict(state.get("model", state))
    bare = before + bare_seconds(task, workload)
    save(task, workload.judge(network), "nvflare", seconds, bare, firsts[1] if len(firsts) > 1 else time.time())


if __name__ == "__main__":
    client() if sys.argv[1:] == ["client"] else main()
