"""Lightning's Fabric as a run has it: devices, precision, processes."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from flash_pl.checks import check_booleans, check_integers, check_numbers
from flash_pl.errors import ConfigError, as_yaml

# Each with the one by which a process passes it on to those that it has started: by that they only note it. Windows has
# none to spare, there it is the same one.
SIGNALS: dict[signal.Signals, signal.Signals] = {
    signal.SIGTERM: getattr(signal, "SIGUSR2", signal.SIGTERM),
    signal.SIGINT: getattr(signal, "SIGUSR1", signal.SIGINT),
}
# A terminal, a launcher and a scheduler may all pass on the same request.
SAME_REQUEST = 1.0  # seconds


class StopSignals:
    """While it is open the first SIGTERM or SIGINT is only noted, for the run to stop when it next can; a second one,
    a second or more later, stops the process at once.

    Outside the main thread, where Python takes no handlers, it notes nothing.

    Args:
        forward: sends a signal to the processes that this one has started; the first request goes there as SIGUSR1 or
            SIGUSR2, since the same request may reach them directly as well, sooner or later.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self, forward: Callable[[int], None] = lambda number: None) -> None:
        self.received: int | None = None
        self.forward = forward
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number, passed in SIGNALS.items():
                for one, handler in {passed: self._note, number: self._handle}.items():
                    self._before[one] = signal.signal(one, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, passed: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = next(number for number, other in SIGNALS.items() if other == passed)
            self._since = time.monotonic()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
            self.forward(SIGNALS[signal.Signals(number)])
        elif now - self._since >= SAME_REQUEST:
            self.forward(number)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


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


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_devices(devices: Any) -> None:
    """Check the number of processes or the list of GPUs, in any form that Lightning's Trainer takes.

    >>> check_devices(2), check_devices("auto"), check_devices([0, 1]), check_devices("0,1"), check_devices(-1)
    (None, None, None, None, None)

    Raises:
        ConfigError: another value.
    """
    numbers = devices.split(",") if isinstance(devices, str) else devices if isinstance(devices, list) else []
    if isinstance(devices, int) and not isinstance(devices, bool) and (devices >= 1 or devices == -1):
        return
    if devices != "auto" and not (numbers and all(str(number).strip().isdecimal() for number in numbers)):
        hint = "give an integer of at least 1, auto, or a list of GPU numbers"
        raise ConfigError("devices", f"{as_yaml(devices)} is not a number of processes", hint)


def make_fabric(
    accelerator: str,
    devices: Any,
    num_nodes: int,
    precision: str,
    deterministic: bool,
    timeout: float,
    callbacks: Sequence[Any],
    loggers: Sequence[Logger],
) -> Fabric:
    """Fabric for one process, or for one of several; the arguments are those of ``FederatedTrainer``.

    Raises:
        ConfigError: by the argument, what is not allowed.
    """
    check_integers(num_nodes=num_nodes)
    check_booleans(deterministic=deterministic)
    check_devices(devices)
    check_numbers(timeout=timeout)
    if not timeout > 0:
        raise ConfigError("timeout", timeout, "a number of seconds above 0")
    if precision not in PRECISIONS:
        raise ConfigError("precision", precision, f"one of {', '.join(PRECISIONS)}")
    devices = processes_here() or devices
    several = processes_here() is not None or devices != 1 or num_nodes != 1
    fabric = Fabric(
        accelerator=accelerator,
        strategy=ProcessStrategy(timeout) if several else "auto",
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        loggers=list(loggers),
    )
    if deterministic and fabric.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return fabric
