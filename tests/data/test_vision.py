"""Image data sets, read from small files in the published format, and the digits of scikit-learn."""

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from flash_pl.data import CIFAR10, CIFAR100, FEMNIST, MNIST, CropFlip, Digits, FashionMNIST, Synthetic, TinyImageNet
from flash_pl.errors import DataNotFoundError


def test_the_debian_package_is_unpacked_once_for_torchvision(
    tmp_path: Path, cache: Path, write_idx: Callable[[Path, bool], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_idx(tmp_path / "package", True)
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "package")
    data = FashionMNIST()
    data.prepare_data()
    assert torch.equal(torchvision.datasets.FashionMNIST(cache, train=True).data, images[:, 0])
    assert [path.name for path in cache.iterdir()] == ["FashionMNIST"]
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "removed")
    assert torch.equal(data.load()[0].inputs, images)


def test_fashion_mnist_names_all_three_remedies(cache: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        FashionMNIST().prepare_data()
    message = str(caught.value)
    assert "\n" not in message and "no network" in message
    assert all(remedy in message for remedy in ("root", "apt install dataset-fashion-mnist", "torchvision", str(cache)))


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FashionMNIST, "debian", Path("/usr/share/datasets/fashion-mnist"))
    train, test = FashionMNIST().load()
    assert train.inputs.shape == (60_000, 1, 28, 28) and test.inputs.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [6000] * 10
    pixels = train.inputs.float() / 255
    assert pixels.mean().item() == pytest.approx(FashionMNIST.mean[0], abs=1e-3)
    assert pixels.std().item() == pytest.approx(FashionMNIST.std[0], abs=1e-3)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("inside", [True, False])
def test_cifar_batches(kind: Any, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files are too small for the true checksums.
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
    assert torch.equal(test.inputs, torch.from_numpy(pixels).view(4, 3, 32, 32))


def test_cifar_is_augmented_by_default() -> None:
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
    assert train.inputs.shape == (4, 3, 64, 64) and train.inputs.dtype == torch.uint8
    assert train.labels.tolist() == [0, 0, 1, 1] and test.labels.tolist() == [1]
    assert train.inputs[2, 0].float().mean() > 150 > 50 > train.inputs[0].float().mean()
    assert (test.inputs[0, 0] == test.inputs[0, 2]).all()

    for path in folder.glob("*/**/*.JPEG"):
        path.unlink()
    again, _ = TinyImageNet(root=folder).load()
    assert torch.equal(again.inputs, train.inputs)


def test_digits() -> None:
    train, test = Digits().load()
    assert len(train) == 1437 and len(test) == 360
    test_counts, counts = test.labels.bincount(), train.labels.bincount() + test.labels.bincount()
    assert (test_counts - counts / 5).abs().max() < 1  # the test set is stratified
    assert train.inputs.mean().item() == pytest.approx(Digits.mean[0], abs=1e-3)
    assert train.inputs.std().item() == pytest.approx(Digits.std[0], abs=1e-3)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, CIFAR100, TinyImageNet, FEMNIST, Synthetic, Digits])
def test_every_keyword_is_in_a_signature(kind: type) -> None:
    names = {
        name
        for base in kind.__mro__[: kind.__mro__.index(object)]
        if base.__module__.startswith("flash_pl") and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    assert {"clients", "partition", "batch_size", "eval_batch_size", "augment", "seed"} <= names
