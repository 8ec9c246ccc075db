"""How the processes of a run start on one machine."""

import atexit
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy

from flash_pl.errors import ConfigError

GRACE = 30.0  # seconds for the other processes to end by themselves, once the first one has


def processes_here() -> int | None:
    """How many processes torchrun has started on this machine, None if it started none."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched else None


class ProcessStrategy(DDPStrategy):
    """Fabric's strategy of one process per device, without its launcher.

    Lightning's launcher kills the whole run, checkpoint under way or not, some seconds after a child has ended with an
    error. Here the ranks notice by themselves (:class:`Ranks`) and end in order.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout=timedelta(seconds=timeout))

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally:
            self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)  # type: ignore[assignment]


class Launcher:
    """Repeats this process's own command once for every further rank on this machine."""

    is_interactive_compatible = False

    def __init__(self, environment: ClusterEnvironment, processes: int, nodes: int) -> None:
        self.environment, self.processes, self.nodes = environment, processes, nodes
        self.children: list[subprocess.Popen[bytes]] = []

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start the others, then go on as rank 0 with ``function``.

        Raises:
            ConfigError: from a notebook or a console there is no command to repeat.
        """
        if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
            raise ConfigError("devices", self.processes, "1 in a notebook; several processes take a script or torchrun")
        os.environ |= {
            "MASTER_ADDR": self.environment.main_address,
            "MASTER_PORT": str(self.environment.main_port),
            "NODE_RANK": str(self.environment.node_rank()),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.processes * self.nodes),
        }
        command = [sys.executable, *sys.orig_argv[1:]]
        for rank in range(1, self.processes):
            self.children.append(subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)}))
        atexit.register(self.end)
        return function(*args, **kwargs)

    def forward(self, number: int) -> None:
        """Send a signal to the others."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def end(self) -> None:
        """Wait for the others, not for ever."""
        for child in self.children:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
