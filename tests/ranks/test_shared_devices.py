"""Several processes share a GPU; two GPUs are pretended here."""

import os

import pytest
import torch
from lightning.fabric.accelerators import cuda
from lightning.fabric.accelerators.cuda import CUDAAccelerator

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.launch import make_fabric
from flash_pl.ranks import Ranks


@pytest.fixture
def two_gpus(monkeypatch):
    """Lightning finds two GPUs; nothing can be computed on them."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))
    monkeypatch.setattr(cuda, "num_cuda_devices", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "LOCAL_", "WORLD_SIZE", "RANK"))]:
        monkeypatch.delenv(name)


def fabric(devices, processes_per_device, deterministic=False, accelerator="cuda"):
    return make_fabric(
        accelerator,
        devices,
        processes_per_device,
        num_nodes=1,
        precision="32-true",
        deterministic=deterministic,
        timeout=60,
        callbacks=[],
        loggers=[],
    )


@pytest.mark.parametrize(
    ("devices", "processes", "expected"),
    [(1, 3, [0, 0, 0]), (2, 2, [0, 0, 1, 1]), ([1], 2, [1, 1]), ("auto", 1, [0, 1])],
)
def test_neighboring_ranks_share_a_gpu(two_gpus, devices, processes, expected):
    strategy = fabric(devices, processes).strategy
    assert [device.index for device in strategy.parallel_devices] == expected
    assert strategy.num_processes == len(expected)
    assert strategy._get_process_group_backend() == ("gloo" if processes > 1 else "nccl")


def test_torchrun_says_how_many_processes_there_are(two_gpus, monkeypatch):
    started = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "6", "WORLD_SIZE": "6", "RANK": "4", "LOCAL_RANK": "4"}
    for name, value in (started | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "GROUP_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    shared = fabric(1, 3)  # torchrun's number counts
    assert [device.index for device in shared.strategy.parallel_devices] == [0, 0, 0, 1, 1, 1]
    assert shared.device == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="torchrun started 6 processes on this machine, no multiple of 4"):
        fabric(1, 4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"cohort": 3}, "of 4 processes 1 would have no client: a cohort has 3; use fewer processes or"),
        ({"processes_per_device": 17, "devices": 1, "cohort": 20}, "17 processes on 16 cores would wait"),
        ({"processes_per_device": 0}, "0 is not an integer of at least 1"),
        ({"accelerator": "cpu"}, "accelerator=cpu finds none of CUDA; on a CPU every process is a device: devices=2"),
    ],
)
def test_what_cannot_help_is_refused(two_gpus, settings, problem):
    settings = {"accelerator": "cuda", "devices": 2, "processes_per_device": 2, "deterministic": False} | settings
    with pytest.raises(ConfigError, match=f"processes_per_device: .*{problem}"):
        FederatedTrainer(PDST(), **settings)


def test_without_a_gpu_there_is_nothing_to_share(monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    with pytest.raises(ConfigError, match="processes_per_device: 4 processes would share a GPU"):
        FederatedTrainer(PDST(), processes_per_device=4)


class OnAnotherDevice(torch.Tensor):
    """A tensor that must be copied to the host, as one on a GPU."""

    def cpu(self):
        return self.as_subclass(torch.Tensor).clone()


def test_sums_go_through_the_host(run_ranks):
    def sums(rank):
        processes = fabric(2, 1, accelerator="cpu")
        processes.launch()
        ranks = Ranks(processes, timeout=30)
        tensor = (torch.arange(3) + rank).as_subclass(OnAnotherDevice)
        ranks.sum_(tensor)
        return tensor.tolist()

    assert run_ranks(2, sums) == [[1, 3, 5]] * 2


def test_deterministic_kernels_do_not_fill_new_tensors(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: asked.append(mode))
    fabric(1, 1, deterministic=True)
    assert asked == [True] and not torch.utils.deterministic.fill_uninitialized_memory
