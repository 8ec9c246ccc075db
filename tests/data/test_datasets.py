"""Every data set, read from small files in its true layout."""

import gzip
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from flash_pl.data import CIFAR10, CIFAR100, FEMNIST, MNIST, CropFlip, Digits, FashionMNIST, Synthetic, TinyImageNet
from flash_pl.data.files import FILES
from flash_pl.errors import ConfigError, DataNotFoundError

STORED = [MNIST, FashionMNIST, CIFAR10, CIFAR100, TinyImageNet, FEMNIST]


def no_download(*arguments: Any, **keywords: Any) -> None:
    """What a machine without internet answers."""
    raise RuntimeError("no network,\nnot even a slow one")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no other source of data than the test's own."""
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "no-package")
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_download)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", no_download)
    return tmp_path / "cache"


def write_idx(folder: Path, packed: bool) -> torch.Tensor:
    """Four idx files of 6 training and 2 test images; returns the training images."""
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
    for name, array in zip(FILES, (images, np.arange(6), images[:2], np.arange(2)), strict=True):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        data = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return torch.from_numpy(images).unsqueeze(1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("inside", ["raw", "."])
def test_idx_files_in_the_root(kind: Any, packed: bool, inside: str, tmp_path: Path) -> None:
    images = write_idx(tmp_path / "root" / (kind.folder if inside == "raw" else "."), packed)
    train, test = kind(root=tmp_path / "root").load()
    assert torch.equal(train.images, images) and train.labels.tolist() == list(range(6)) and len(test) == 2


def test_a_cut_idx_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_idx(tmp_path / "root", packed=False)
    path = tmp_path / "root" / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataNotFoundError, match=FILES[0]):
        MNIST(root=tmp_path / "root").load()


def test_debians_package_is_unpacked_once_for_torchvision(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_idx(tmp_path / "package", packed=True)
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "package")
    data = FashionMNIST()
    data.prepare_data()
    assert torch.equal(torchvision.datasets.FashionMNIST(cache, train=True).data, images[:, 0])
    assert [path.name for path in cache.iterdir()] == ["FashionMNIST"]
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "removed")
    assert torch.equal(data.load()[0].images, images)


def test_a_download_that_stops_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Any) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / FILES[0]).write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", half)
    with pytest.raises(DataNotFoundError, match="connection lost"):
        MNIST().prepare_data()
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FashionMNIST, "debian", Path("/usr/share/datasets/fashion-mnist"))
    train, test = FashionMNIST().load()
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10
    pixels = train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(FashionMNIST.mean[0], abs=1e-3)
    assert pixels.std().item() == pytest.approx(FashionMNIST.std[0], abs=1e-3)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("inside", [True, False])
def test_cifar_batches(kind: Any, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the checksums cannot be true for small files.
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    folder = tmp_path / kind.folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    key = "labels" if kind is CIFAR10 else "fine_labels"
    for name, _ in kind.source.train_list + kind.source.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: [0, 1, 2, 3]}))
    (folder / kind.source.meta["filename"]).write_bytes(pickle.dumps({kind.source.meta["key"]: ["name"]}))
    train, test = kind(root=folder if inside else tmp_path).load()
    assert len(train) == 4 * len(kind.source.train_list) and test.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(test.images, torch.from_numpy(pixels).view(4, 3, 32, 32))


def test_cifar_is_augmented_unless_told_otherwise() -> None:
    assert CIFAR10().augment == CIFAR100().augment == CropFlip()
    assert CIFAR10(augment=None).augment is None and CIFAR10(augment=CropFlip(2)).augment == CropFlip(2)


def test_tiny_imagenet_is_decoded_once(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    for label, wnid in enumerate(("n02", "n01")):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for index in range(2):
            path = folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG"
            Image.new("RGB", (64, 64), (200 * label, 0, 0)).save(path)
    Image.new("L", (64, 64), 100).save(folder / "val" / "images" / "val_0.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t63\t63\n")

    train, test = TinyImageNet(root=tmp_path).load()
    assert train.images.shape == (4, 3, 64, 64) and train.images.dtype == torch.uint8
    assert train.labels.tolist() == [0, 0, 1, 1] and test.labels.tolist() == [1]
    assert train.images[2, 0].float().mean() > 150 > 50 > train.images[0].float().mean()
    assert (test.images[0, 0] == test.images[0, 2]).all()

    for path in folder.glob("*/**/*.JPEG"):
        path.unlink()
    again, _ = TinyImageNet(root=folder).load()
    assert torch.equal(again.images, train.images)


def test_femnist_writers_are_clients(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 784))
    users = {"b": {"x": (pixels[:1] / 255).tolist(), "y": [61]}, "a": {"x": (pixels[1:] / 255).tolist(), "y": [5, 6]}}
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name, own in users.items():
            content = {"users": [name], "num_samples": [len(own["y"])], "user_data": {name: own}}
            (tmp_path / split / f"{name}.json").write_text(json.dumps(content))
    data = FEMNIST(root=tmp_path, clients=None)
    data.setup()
    train, _ = data.load()
    assert train.labels.tolist() == [5, 6, 61] and train.owners is not None and train.owners.tolist() == [0, 0, 1]
    assert data.clients == 2 and sorted(data.client_sizes) == [1, 2]
    pixels_seen = data.val_dataloader().images * 255
    torch.testing.assert_close(pixels_seen[2].flatten(), torch.from_numpy(pixels[0]).float())


def test_digits() -> None:
    train, test = Digits().load()
    assert len(train) == 1437 and len(test) == 360
    tested, every = test.labels.bincount(), train.labels.bincount() + test.labels.bincount()
    assert (tested - every / 5).abs().max() < 1  # stratified as far as whole samples allow
    assert train.images.mean().item() == pytest.approx(Digits.mean[0], abs=1e-3)
    assert train.images.std().item() == pytest.approx(Digits.std[0], abs=1e-3)


def test_synthetic_classes_can_be_told_apart() -> None:
    train, test = Synthetic(samples=400, test_samples=100, seed=3).load()
    templates = torch.stack([train.images[train.labels == label].mean(0) for label in range(10)]).flatten(1)
    guesses = torch.cdist(test.images.flatten(1), templates).argmin(1)
    assert (guesses == test.labels).float().mean() > 0.95
    assert torch.equal(train.images, Synthetic(samples=400, seed=3).load()[0].images)
    assert not torch.equal(train.images, Synthetic(samples=400, seed=4).load()[0].images)


def test_fashion_mnist_names_all_three_remedies(cache: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        FashionMNIST().prepare_data()
    message = str(caught.value)
    assert "\n" not in message and "no network" in message
    assert all(remedy in message for remedy in ("root", "apt install dataset-fashion-mnist", "torchvision", str(cache)))


@pytest.mark.parametrize("kind", STORED)
def test_data_that_are_nowhere_are_one_line(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"^{kind.__name__} was not found .*root.*$"):
        kind(root=tmp_path).prepare_data()


@pytest.mark.parametrize("kind", STORED)
def test_a_root_that_does_not_exist_is_named(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="root: .*nowhere"):
        kind(root=tmp_path / "nowhere").prepare_data()


@pytest.mark.parametrize("kind", [*STORED, Synthetic, Digits])
def test_every_keyword_is_reachable_by_signature(kind: type) -> None:
    names = {
        name
        for base in kind.__mro__[: kind.__mro__.index(object)]
        if base.__module__.startswith("flash_pl") and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    assert {"clients", "partition", "batch_size", "eval_batch_size", "augment", "seed"} <= names
