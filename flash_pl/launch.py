"""How the processes of a run start, and on which device each of them computes."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.accelerators.cuda import CUDAAccelerator
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from flash_pl.checks import check_booleans, check_choice, check_integers, check_numbers
from flash_pl.environment import restarts, torchrun_processes
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.parent import child_environment

MOST_PROCESSES = max(64, 8 * (os.cpu_count() or 1))  # on this machine
MOST_NODES = 2**16
TIMEOUTS = "[1, 10000000]"  # seconds; the longest are 116 days, torch cannot take much more
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_devices(devices: Any) -> None:
    """Check the number of processes or the list of GPUs, in any form that Lightning's Trainer takes.

    >>> check_devices(2), check_devices("2"), check_devices("auto"), check_devices([0]), check_devices("0,1")
    (None, None, None, None, None)

    Raises:
        ConfigError: another value.
    """
    numbers = devices.split(",") if isinstance(devices, str) else devices if isinstance(devices, list) else []
    if isinstance(devices, str) and devices.strip().isdecimal() and len(devices) < 10:  # a number, not a list of GPUs
        devices = int(devices)
    if isinstance(devices, int) and not isinstance(devices, bool) and (1 <= devices <= MOST_PROCESSES or devices == -1):
        return
    several = len(numbers) > 1 or (isinstance(devices, list) and devices)
    if devices != "auto" and not (several and all(str(number).strip().isdecimal() for number in numbers)):
        hint = f"give an integer from 1 to {MOST_PROCESSES}, auto, or a list of GPU numbers"
        raise ConfigError("devices", f"{as_yaml(devices)} is not a number of processes", hint)


def make_fabric(
    accelerator: str,
    devices: Any,
    processes_per_device: int,
    num_nodes: int,
    precision: str,
    deterministic: bool,
    timeout: float,
    callbacks: Sequence[Any],
    loggers: Sequence[Logger],
) -> Fabric:
    """Return a Fabric for this process, with the arguments of ``FederatedTrainer``. If torchrun started this process,
    its number of processes replaces ``devices``.

    >>> fabric = make_fabric("cpu", 1, 1, 1, "32-true", deterministic=True, timeout=60, callbacks=[], loggers=[])
    >>> fabric.device, fabric.world_size
    (device(type='cpu'), 1)

    Raises:
        ConfigError: an argument has an impossible value.
    """
    check_integers(most=MOST_NODES, num_nodes=num_nodes)
    check_integers(most=MOST_PROCESSES, processes_per_device=processes_per_device)
    check_booleans(deterministic=deterministic)
    check_devices(devices)
    check_numbers(TIMEOUTS, timeout=timeout)
    check_choice(*PRECISIONS, precision=precision)
    shared, started = processes_per_device > 1, torchrun_processes()
    if started is not None:
        devices = _devices_of(started, processes_per_device)
    several = started is not None or devices != 1 or num_nodes != 1 or shared
    try:
        fabric = Fabric(
            accelerator=shared_gpus(accelerator, processes_per_device) if shared else accelerator,
            # NCCL refuses two processes on one GPU.
            strategy=ProcessStrategy(timeout, backend="gloo" if shared else None) if several else "auto",
            devices=devices,
            num_nodes=num_nodes,
            precision=precision,  # type: ignore[arg-type]
            callbacks=list(callbacks),
            loggers=list(loggers),
        )
    except TypeError as error:  # a list of devices, which only GPUs have
        raise ConfigError("devices", f"{as_yaml(devices)} does not fit accelerator={accelerator} ({error})") from error
    if deterministic and fabric.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # In this mode torch fills every new tensor with NaN, to show programs that read memory before they write it.
        # That is one more kernel for each tensor, and no result depends on it.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return fabric


def shared_gpus(accelerator: str, processes: int) -> CUDAAccelerator:
    """Return an accelerator on which every GPU counts as ``processes`` devices: ranks 0 to ``processes`` - 1 get the
    first one, and so on.

    Raises:
        ConfigError: there are no GPUs of CUDA, or ``accelerator`` asks for something else.
    """
    if accelerator not in ("auto", "cuda", "gpu") or not CUDAAccelerator.is_available():
        problem = f"{processes} processes would share a GPU, and accelerator={accelerator} finds none of CUDA"
        raise ConfigError("processes_per_device", problem, f"on a CPU every process is a device: devices={processes}")

    class SharedGPUs(CUDAAccelerator):  # Fabric asks the class, not the object
        @staticmethod
        def get_parallel_devices(devices: list[int]) -> list[torch.device]:
            return [gpu for gpu in CUDAAccelerator.get_parallel_devices(devices) for _ in range(processes)]

    return SharedGPUs()


def _devices_of(processes: int, processes_per_device: int) -> int:
    """The number of devices for the processes that torchrun has started on this machine."""
    if processes % processes_per_device:
        problem = f"torchrun started {processes} processes on this machine, no multiple of {processes_per_device}"
        raise ConfigError("processes_per_device", problem)
    return processes // processes_per_device


def check_sharing(fabric: Fabric, processes_per_device: int, cohort: int) -> None:
    """Check that processes that share devices can all work at the same time.

    Args:
        fabric: not launched yet.
        processes_per_device: how many share each device.
        cohort: clients of a round.

    Raises:
        ConfigError: there are more of them than clients or than cores.
    """
    if processes_per_device == 1 or not isinstance(strategy := fabric.strategy, DDPStrategy):
        return
    here = strategy.num_processes
    if (processes := here * strategy.num_nodes) > cohort:
        problem = f"of {processes} processes {processes - cohort} would have no client: a cohort has {cohort}"
        raise ConfigError("processes_per_device", problem, "use fewer processes or a larger cohort")
    if here > (cores := len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1):
        problem = f"{here} processes on {cores} cores would wait for each other, and not for the GPU"
        raise ConfigError("processes_per_device", problem, "use fewer processes")


def check_graphs(graphs: Any, fabric: Fabric) -> None:
    """Check the trainer's option ``graphs``: auto, or whether to capture steps, which needs a GPU of CUDA.

    Raises:
        ConfigError: another value, or no such GPU.
    """
    if graphs != "auto" and not isinstance(graphs, bool):
        raise ConfigError("graphs", f"{as_yaml(graphs)} is not auto, true or false")
    if graphs is True and fabric.device.type != "cuda":
        problem = f"steps are captured on GPUs of CUDA, and this process computes on {fabric.device.type}"
        raise ConfigError("graphs", problem, "set graphs=auto")


class ProcessStrategy(DDPStrategy):
    """Fabric's strategy of one process per device, with another launcher.

    Some seconds after a child process ended with an error, Lightning's launcher kills the whole run, even while it
    writes a checkpoint. With ``Launcher`` the ranks notice a lost rank themselves (``Ranks``) and end in order.

    Args:
        timeout: see ``Ranks``.
        backend: of torch.distributed; None takes NCCL for GPUs and gloo for CPUs.
    """

    def __init__(self, timeout: float, backend: str | None = None) -> None:
        self.timeout = timedelta(seconds=timeout)
        super().__init__(timeout=self.timeout, process_group_backend=backend)

    def _setup_distributed(self) -> None:
        # torchrun uses one store for all attempts. Without a prefix per attempt, gloo would find the addresses of dead
        # processes in it.
        attempt = restarts()
        if attempt and not dist.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            store = PrefixStore(f"attempt {attempt}", store)
            backend = self._get_process_group_backend()
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=self.timeout)
        super()._setup_distributed()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally:
            self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)  # type: ignore[assignment]


GRACE = 30.0  # seconds that rank 0 waits at its own end for the other processes to end


class Launcher:
    """Starts the other ranks of this machine: one process each, with the command of this process, which is rank 0.

    Args:
        environment: has the address of the first machine and the number of this one.
        processes: how many per machine.
        nodes: how many machines.

    Attributes:
        children: the processes of ranks 1, 2, ... on this machine.
        connected: to be set when all ranks have met; from then on they notice a lost rank themselves.
    """

    is_interactive_compatible = False

    def __init__(self, environment: ClusterEnvironment, processes: int, nodes: int) -> None:
        self.environment, self.processes, self.nodes = environment, processes, nodes
        self.children: list[subprocess.Popen[bytes]] = []
        self.connected = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start the other ranks, then return the result of ``function``, which waits for them.

        Raises:
            ConfigError: a notebook or a Python console has no command that could be started again.
        """
        if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
            problem = f"{self.processes} processes cannot be started from a notebook or a console"
            raise ConfigError("devices", problem, "set devices=1, or run a script or torchrun")
        os.environ |= {
            "MASTER_ADDR": self.environment.main_address,
            "MASTER_PORT": str(self.environment.main_port),
            "NODE_RANK": str(self.environment.node_rank()),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.processes * self.nodes),
        }
        command = [sys.executable, *sys.orig_argv[1:]]
        for rank in range(1, self.processes):
            self.children.append(subprocess.Popen(command, env=child_environment(LOCAL_RANK=str(rank))))
        atexit.register(self._wait_for_children)
        threading.Thread(target=self._watch_start, daemon=True).start()
        return function(*args, **kwargs)

    def _watch_start(self) -> None:
        """End the run if a child dies before all ranks are connected, since rank 0 would wait for it."""
        while not self.connected.wait(0.2):
            for rank, child in enumerate(self.children, start=1):
                if child.poll() is not None:
                    print(f"flash-pl: error: rank {rank}: it ended while it started", file=sys.stderr, flush=True)
                    for process in self.children:
                        process.kill()
                    os._exit(3)

    def _wait_for_children(self) -> None:
        """Wait until the other processes have ended, and kill them after ``GRACE`` seconds."""
        deadline = time.monotonic() + GRACE
        for child in self.children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def forward(self, number: int) -> None:
        """Send a signal to the other processes."""
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)
