"""The facts about machine and installation: those on which the bits of a run depend, and those that a result names."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch

from flash_pl import __version__
from flash_pl.errors import ConfigError
from flash_pl.kernels import library

Facts = dict[str, str | int | bool]

# What to do if a fact differs between the processes of a run.
SAME_INSTALLATION = "install the same versions on all machines"
REMEDIES = {
    "processor": "use machines with equal processors",
    "threads": "set trainer.threads to a number, or call torch.set_num_threads in every process",
    "kernels": f"compile the kernels on all machines or on none, and let {library.ISA_VARIABLE} choose what all have",
    "device": "use equal GPUs",
    "deterministic": "set torch's deterministic mode in every process alike",
    "precision of float32 products": "call torch.set_float32_matmul_precision in every process alike",
}


def machine_facts(device: torch.device) -> Facts:
    """Return the facts of this process, which computes on ``device``.

    >>> facts = machine_facts(torch.device("cpu"))
    >>> list(facts)[:4], facts["device"]
    (['flash_pl', 'torch', 'numpy', 'processor'], 'cpu')
    """
    compiled = library.library()
    return {
        "flash_pl": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "processor": f"{_vendor()} {torch.backends.cpu.get_cpu_capability()}".strip(),
        "kernels": "none" if compiled is None else f"{compiled.isa}, version {library.INTERFACE}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "deterministic": torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark,
        "precision of float32 products": _matmul_precision(),
    }


def versions() -> dict[str, str]:
    """Return the versions of flash_pl, Python and the packages that compute."""
    return {
        "flash_pl": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": L.__version__,
    }


def host_facts(device: torch.device) -> Facts:
    """Return what a reader of a result wants to know of the machine, whose process computes on ``device``.

    >>> list(host_facts(torch.device("cpu")))
    ['system', 'processor', 'cores', 'threads', 'kernels', 'device']
    """
    facts = machine_facts(device)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": facts["processor"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        **{name: facts[name] for name in ("threads", "kernels", "device")},
    }


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Return the largest memory that this process has used so far, in MB of 10^6 bytes.

    Returns:
        ``host``, missing on systems without /proc, and ``device`` if that is a GPU of CUDA.

    >>> all(amount > 10 for amount in peak_memory_mb(torch.device("cpu")).values())
    True
    """
    peak = {}
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak["host"] = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):
        pass
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return {place: round(count / 1e6, 1) for place, count in peak.items()}


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by torch's newer settings, of each backend
        return f"{torch.backends.cuda.matmul.fp32_precision}, {torch.backends.mkldnn.matmul.fp32_precision}"  # type: ignore[attr-defined]


def _vendor() -> str:
    """The maker of the processor, empty if the system does not say. Matrix products depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def check_ranks(facts: Sequence[Facts]) -> None:
    """Check that the processes of a run, given by rank, have the same facts.

    Each process aggregates for itself, so with other bits they would not stay equal.

    >>> check_ranks([{"device": "cpu"}, {"device": "mps"}])
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: devices: rank 1 computes other bits than rank 0 (device mps, not cpu); use equal GPUs

    Raises:
        ConfigError: a process has other facts than rank 0.
    """
    for rank, other in enumerate(facts):
        if differing := [name for name in facts[0] | other if facts[0].get(name) != other.get(name)]:
            values = ", ".join(f"{name} {other.get(name)}, not {facts[0].get(name)}" for name in differing)
            remedies = dict.fromkeys(REMEDIES.get(name, SAME_INSTALLATION) for name in differing)
            problem = f"rank {rank} computes other bits than rank 0 ({values})"
            raise ConfigError("devices", problem, "; ".join(remedies))


def changes(before: Facts, now: Facts) -> str:
    """What differs between the machine of a checkpoint and this one, empty if nothing does.

    >>> changes({"torch": "2.11.0", "threads": 1}, {"torch": "2.14.1", "threads": 1})
    'torch 2.11.0 -> 2.14.1'
    """
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} -> {now.get(name)}" for name in names)
