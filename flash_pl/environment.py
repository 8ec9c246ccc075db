"""What launchers such as torchrun, SLURM and MPI put into the environment of the processes that they start."""

import os


def torchrun_processes() -> int | None:
    """Return how many processes torchrun started on this machine, None if torchrun did not start this process."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def restarts() -> int:
    """Return how many times torchrun has restarted this process after a process of the run died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


# Where launchers put the number of a process; the first one that is set counts, as for Lightning.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK")


def starts_as_rank_0() -> bool:
    """Return whether this process will be rank 0, by what its launcher has put into the environment."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    node = "0" if "RANK" in os.environ else os.environ.get("NODE_RANK", "0")
    return not any(number.isdecimal() and int(number) for number in (rank, node))
