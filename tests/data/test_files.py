"""Data sets in files: idx files, the cache, downloads, and messages about missing files."""

import gzip
import json
import tracemalloc
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


def test_a_packed_file_is_read_up_to_the_length_in_its_header(tmp_path: Path, write_idx: WriteIdx) -> None:
    """A megabyte of zeros and more, in a file that promises six images or four billion."""
    write_idx(tmp_path / "root", True)
    path = tmp_path / "root" / f"{IDX_FILES[0]}.gz"
    good = gzip.decompress(path.read_bytes())
    for header, reason in ((good[:16], "more bytes"), (good[:4] + b"\xff" * 4 + good[8:16], "less bytes")):
        path.write_bytes(gzip.compress(header + bytes(2**25)))
        tracemalloc.start()
        with pytest.raises(DataNotFoundError, match=f"{path.name} has {reason}"):
            MNIST(root=tmp_path / "root").load()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


FEMNIST_FILES = {
    "no JSON": "{",
    "no writers": "[]",
    "writers in a list": '{"user_data": []}',
    "no images": '{"user_data": {"ann": {"y": [1]}}}',
    "a short image": '{"user_data": {"ann": {"x": [[0, 1]], "y": [1]}}}',
    "words": '{"user_data": {"ann": {"x": ["a"], "y": ["b"]}}}',
    "a label too much": json.dumps({"user_data": {"ann": {"x": [[0] * 784], "y": [1, 2]}}}),
    "a label of no class": json.dumps({"user_data": {"ann": {"x": [[0] * 784], "y": [62]}}}),
    "NaN": json.dumps({"user_data": {"ann": {"x": [[float("nan")] * 784], "y": [1]}}}),
}


@pytest.mark.parametrize("text", FEMNIST_FILES.values(), ids=FEMNIST_FILES)
def test_a_damaged_file_of_femnist_is_named(text: str, tmp_path: Path) -> None:
    good = json.dumps({"user_data": {"bob": {"x": [[0.5] * 784], "y": [61]}}})
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.json").write_text(good)
    assert len(FEMNIST(root=tmp_path).load()[0]) == 1
    (tmp_path / "train" / "b.json").write_text(text)
    with pytest.raises(DataNotFoundError, match="b.json") as error:
        FEMNIST(root=tmp_path).load()
    assert "\n" not in str(error.value) and ("ann" in str(error.value) or '"ann"' not in text)
