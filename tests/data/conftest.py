"""An empty cache without downloads, and idx files as MNIST has them."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from flash_pl.data import FashionMNIST
from flash_pl.data.files import IDX_FILES


def no_download(*arguments: Any, **keywords: Any) -> None:
    """Fail as on a machine without internet."""
    raise RuntimeError("no network,\nnot even a slow one")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the files that a test writes itself are the only source of data."""
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "no-package")
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_download)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", no_download)
    return tmp_path / "cache"


@pytest.fixture
def write_idx() -> Callable[[Path, bool], torch.Tensor]:
    """A function that writes four idx files of 6 training and 2 test images and returns the training images."""

    def write(folder: Path, packed: bool) -> torch.Tensor:
        folder.mkdir(parents=True)
        images = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
        for name, array in zip(IDX_FILES, (images, np.arange(6), images[:2], np.arange(2)), strict=True):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            data = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
        return torch.from_numpy(images).unsqueeze(1)

    return write
