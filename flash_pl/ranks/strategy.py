"""How the processes of a run start on one machine."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from flash_pl.errors import ConfigError

GRACE = 30.0  # seconds for the other processes to end by themselves, once the first one has


def processes_here() -> int | None:
    """How many processes torchrun has started on this machine, None if it started none."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched else None


def restarts() -> int:
    """How many times torchrun has started this process again in place of one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


class ProcessStrategy(DDPStrategy):
    """Fabric's strategy of one process per device, without its launcher.

    Lightning's launcher kills the whole run, checkpoint under way or not, some seconds after a child has ended with an
    error. Here the ranks notice by themselves (``Ranks``) and end in order.
    """

    def __init__(self, timeout: float) -> None:
        self.patience = timedelta(seconds=timeout)
        super().__init__(timeout=self.patience)

    def _setup_distributed(self) -> None:
        # By default torchrun keeps its store for all attempts; without a prefix gloo would find the addresses of dead
        # processes in it.
        attempt = restarts()
        if attempt and not dist.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            store = PrefixStore(f"attempt {attempt}", store)
            backend = self._get_process_group_backend()
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=self.patience)
        super()._setup_distributed()

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
        self.met = threading.Event()

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
        threading.Thread(target=self._watch, daemon=True).start()
        found = function(*args, **kwargs)
        self.met.set()  # from here on the ranks notice by themselves
        return found

    def _watch(self) -> None:
        """End the run if another process dies before all have met; this one would wait for it."""
        while not self.met.wait(0.2):
            for rank, child in enumerate(self.children, start=1):
                if child.poll() is not None:
                    print(f"flash-pl: error: rank {rank}: it ended while it started", file=sys.stderr, flush=True)
                    for other in self.children:
                        other.kill()
                    os._exit(3)

    def forward(self, number: int) -> None:
        """Send a signal to the others."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def end(self) -> None:
        """Wait for the others, not for ever."""
        end = time.monotonic() + GRACE
        for child in self.children:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
