"""What a run is made of."""

from dataclasses import dataclass, field
from typing import Any

from lightning.fabric import Fabric

from flash_pl.client import ClientState
from flash_pl.costs import CostLedger
from flash_pl.data import FederatedData
from flash_pl.loops.local import LocalLoop
from flash_pl.loops.settings import Plan
from flash_pl.loops.workers import CohortLoop
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.server import FedAvg, RoundAverage, ServerOptimizer, ServerState
from flash_pl.server.updates import Ballot


@dataclass(frozen=True)
class Federation:
    """The parts that the loops of a run share.

    Args:
        fabric, ranks: devices, precision, loggers and callbacks; the processes.
        client: the module that every client trains in turn.
        server, scheduler, aggregator: the server's model, the method, the average.
        data: of all clients.
        plan: who trains when, for how long and at what rate.
        local, cohorts: train one client, and those between two states of the server.
        server_optimizer: what the server makes of the clients' mean, None to take it as it is.
        round_average: over rounds, None to deploy the last round's model.
        ledger: what it all costs.
    """

    fabric: Fabric
    ranks: Ranks
    client: ClientState
    server: ServerState
    data: FederatedData
    scheduler: SparseScheduler
    plan: Plan
    aggregator: FedAvg
    local: LocalLoop
    cohorts: CohortLoop
    ledger: CostLedger
    server_optimizer: ServerOptimizer | None = None
    round_average: RoundAverage | None = None

    def stateful(self) -> dict[str, Any]:
        """What has a state of its own, by the names that it has in a checkpoint."""
        stepping = {} if self.server_optimizer is None else {"server_optimizer": self.server_optimizer}
        return {
            "server": self.server,
            "scheduler": self.scheduler,
            "voter": self.scheduler.voter,
            "sampler": self.plan.sampler,
            "aggregator": self.aggregator,
            "ledger": self.ledger,
        } | stepping


@dataclass(frozen=True)
class Trained:
    """The ballots of a cohort, in its order; those of clients that came ``late`` have no say in the round.

    ``wasted`` are all those of each attempt before, in which too many clients failed: they have had costs, no effect.
    """

    ballots: list[Ballot]
    late: list[Ballot]
    wasted: list[list[Ballot]] = field(default_factory=list)
