"""Image data sets, read from small files in the published format, and the digits of scikit-learn."""

import hashlib
import inspect
import os
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


def write_cifar(kind: Any, folder: Path, protocol: int = 2, labels: Any = (0, 1, 2, 3)) -> np.ndarray:
    """Four images of one's own in the format of the published files."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    key = "labels" if kind is CIFAR10 else "fine_labels"
    labels = list(labels) if isinstance(labels, tuple) else labels
    for name, _ in kind.source.train_list + kind.source.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: labels, "filenames": ["a"] * 4}, protocol))
    return pixels


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_batches_of_ones_own(kind: Any, inside: bool, protocol: int, tmp_path: Path) -> None:
    folder = tmp_path / kind.folder
    pixels = write_cifar(kind, folder, protocol)
    root = folder if inside else tmp_path
    train, test = kind(root=root, checksum=False).load()
    assert len(train) == 4 * len(kind.source.train_list) and test.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(test.inputs, torch.from_numpy(pixels).view(4, 3, 32, 32))
    with pytest.raises(DataNotFoundError, match="data_batch_1|train.* data.checksum=false"):
        kind(root=root).load()


def test_the_published_files_of_cifar_are_known_by_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written as by Python 2, whose strings are Latin-1."""
    monkeypatch.setattr(CIFAR10, "source", type("Source", (), {}), raising=False)
    raw = bytes(range(256)) * 12
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\1tR(K\3U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array += b"(K\1(K\1M\x00\x0ct" + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    batch = b"\x80\x02}(U\x06labels]K\7aU\x04data" + array + b"u."
    assert pickle.loads(batch, encoding="latin1")["data"].shape == (1, 3072)
    files = [("data_batch_1", hashlib.md5(batch).hexdigest())]
    monkeypatch.setattr(CIFAR10.source, "train_list", files, raising=False)
    monkeypatch.setattr(CIFAR10.source, "test_list", files, raising=False)
    (tmp_path / CIFAR10.folder).mkdir()
    path = tmp_path / CIFAR10.folder / "data_batch_1"
    path.write_bytes(batch)
    train, _ = CIFAR10(root=tmp_path).load()
    assert train.labels.tolist() == [7] and train.inputs.flatten().tolist() == list(raw)
    path.write_bytes(batch.replace(b"K\7", b"K\6"))
    with pytest.raises(DataNotFoundError, match="data_batch_1 .*checksum"):
        CIFAR10(root=tmp_path).load()


class Hostile:
    def __reduce__(self) -> Any:
        return (os.system, ("touch owned",))


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:-100],
        lambda good: pickle.dumps(Hostile()),
        lambda good: pickle.dumps({"data": Hostile(), "labels": [0]}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072), np.uint8)}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3071), np.uint8), "labels": [0] * 4}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072)), "labels": [0] * 4}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 3}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 10]}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 2**70]}),
        lambda good: pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": ["cat"] * 4}),
        lambda good: pickle.dumps({"data": [[0] * 3072] * 4, "labels": [0] * 4}),
        lambda good: good.replace((3072).to_bytes(2, "little"), (3073).to_bytes(2, "little")),
    ],
)
def test_a_damaged_batch_of_cifar_is_named_and_runs_no_code(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(CIFAR10, tmp_path / CIFAR10.folder)
    path = tmp_path / CIFAR10.folder / "data_batch_3"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataNotFoundError, match="data_batch_3") as error:
        CIFAR10(root=tmp_path, checksum=False).load()
    assert "\n" not in str(error.value) and not (tmp_path / "owned").exists()


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

    (folder / "decoded.pt").write_bytes(b"cut off")
    with pytest.raises(DataNotFoundError, match="decoded.pt .*delete"):
        TinyImageNet(root=folder).load()
    (folder / "decoded.pt").unlink()
    (folder / "train" / "n01" / "images" / "n01_0.JPEG").write_bytes(b"no picture")
    with pytest.raises(DataNotFoundError, match="n01_0.JPEG"):
        TinyImageNet(root=folder).load()
    Image.new("RGB", (65, 64)).save(folder / "train" / "n01" / "images" / "n01_0.JPEG")
    with pytest.raises(DataNotFoundError, match="n01_0.JPEG .*65x64"):
        TinyImageNet(root=folder).load()
    Image.new("RGB", (64, 64)).save(folder / "train" / "n01" / "images" / "n01_0.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\nval_0.JPEG\n")
    with pytest.raises(DataNotFoundError, match="line 2 of val_annotations.txt"):
        TinyImageNet(root=folder).load()


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
