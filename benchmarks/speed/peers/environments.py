"""What the contenders need: a virtual environment per framework, and the arrays of the workloads.

An environment borrows torch and numpy from the one that runs this file, so that nothing big is installed twice.
"""

import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BORROWED = ("torch", "torchvision", "numpy")

# The arguments of each ``pip install``.
PACKAGES: dict[str, list[list[str]]] = {
    "flower": [["flwr[simulation]==1.42.0"]],
    "pfl": [["pfl[pytorch]==0.6.0"]],
    "fluke": [["fluke-fl==0.8.1"]],
    "fedlab": [["fedlab==1.3.0"]],
    "flsim": [["--no-deps", "flsim==0.1.0"], ["pandas", "opacus", "hydra-core"]],
    "fedjax": [["fedjax==0.0.17"]],
    "nvflare": [["nvflare==2.9.0"]],
}


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def make(folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Make the environment anew. Its packages come before the borrowed ones, and pip may not replace the borrowed."""
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version(name)}\n" for name in BORROWED))
    for command in commands:
        subprocess.run([python_of(folder), "-m", "pip", "install", "-q", "-c", constraints, *command], check=True)


def prepare_data(folder: Path) -> None:
    """Write the arrays of both workloads: images ``[clients, n, C, S, S]`` and labels of clients, test samples.

    The random images have no test set: the first two clients stand for it.
    """
    import torch

    from flash_pl.data import IID, FashionMNIST

    def samples(batches):  # type: ignore[no-untyped-def]
        return [torch.cat(parts) for parts in zip(*batches, strict=True)]

    data = FashionMNIST(clients=100, partition=IID(), seed=1)
    data.setup("fit")
    clients = zip(*(samples(data.client_batches(client)) for client in range(100)), strict=True)
    save(folder / "lenet5", *(torch.stack(parts) for parts in clients), *samples(data.val_dataloader()))
    torch.manual_seed(0)
    images, labels = torch.randn(10, 64, 3, 32, 32), torch.randint(10, (10, 64))
    save(folder / "resnet18", images, labels, images[:2].flatten(0, 1), labels[:2].flatten())


def save(folder: Path, images: Any, labels: Any, test_images: Any, test_labels: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}
    for name, array in arrays.items():
        np.save(folder / name, array.numpy())
