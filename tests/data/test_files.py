"""Data sets in files: idx files, the cache, downloads, and messages about missing files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from flash_pl.data import CIFAR10, CIFAR100, FEMNIST, MNIST, FashionMNIST, TinyImageNet
from flash_pl.data.files import IDX_FILES
from flash_pl.errors import ConfigError, DataNotFoundError

STORED = [MNIST, FashionMNIST, CIFAR10, CIFAR100, TinyImageNet, FEMNIST]
WriteIdx = Callable[[Path, bool], torch.Tensor]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("inside", ["raw", "."])
def test_idx_files_in_the_root(kind: Any, packed: bool, inside: str, tmp_path: Path, write_idx: WriteIdx) -> None:
    images = write_idx(tmp_path / "root" / (kind.folder if inside == "raw" else "."), packed)
    train, test = kind(root=tmp_path / "root").load()
    assert torch.equal(train.inputs, images) and train.labels.tolist() == list(range(6)) and len(test) == 2


def test_an_incomplete_idx_file_is_named(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "root", False)
    path = tmp_path / "root" / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataNotFoundError, match=IDX_FILES[0]):
        MNIST(root=tmp_path / "root").load()


def test_an_interrupted_download_leaves_no_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download_half(self: Any) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / IDX_FILES[0]).write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download_half)
    with pytest.raises(DataNotFoundError, match="connection lost"):
        MNIST().prepare_data()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("kind", STORED)
def test_missing_data_give_a_message_of_one_line(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"^{kind.__name__} was not found .*root.*$"):
        kind(root=tmp_path).prepare_data()


@pytest.mark.parametrize("kind", STORED)
def test_a_root_that_does_not_exist_is_named(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere") as error:
        kind(root=tmp_path / "nowhere").prepare_data()
    assert error.value.key == "root"
