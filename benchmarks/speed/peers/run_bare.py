"""The bare loop as a contender: against itself, which shows noise and bias, and as a user may tune it."""

from rounds import Rounds
from workload import BareLoop, Task, Workload


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    loop = BareLoop(workload, list(range(workload.clients)), tuned=task.variant == "tuned")
    rounds = Rounds(task, workload)
    rounds.mark()
    for cohort in workload.cohorts:
        loop.round(cohort)
        rounds.mark()
    loop.network.load_state_dict(loop.server)
    rounds.report(loop.network)


if __name__ == "__main__":
    main()
