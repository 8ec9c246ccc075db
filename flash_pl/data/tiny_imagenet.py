"""Tiny-ImageNet."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flash_pl.data.samples import Samples
from flash_pl.data.stored import StoredData


class TinyImageNet(StoredData):
    """100,000 + 10,000 colour images of 200 classes (Stanford's course CS231N); the validation set is the test set.

    The JPEG files are decoded once, into ``decoded.pt`` beside them if that folder is writable; delete it after
    changing an image.

    Args:
        root: folder with ``tiny-imagenet-200``, or that folder.
    """

    classes = 200
    shape = (3, 64, 64)
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    folder = "tiny-imagenet-200"
    remedies = (
        "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {cache} (FLASH_PL_DATA moves that)",
        "give root, a folder with tiny-imagenet-200",
    )

    def holds(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all((folder / name).exists() for name in ("wnids.txt", "train", "val/val_annotations.txt"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; images are uint8, grey ones have three equal channels."""
        cached = folder / "decoded.pt"
        if cached.exists():
            train_x, train_y, test_x, test_y = torch.load(cached, weights_only=True)
            return Samples(train_x, train_y), Samples(test_x, test_y)
        train, test = _decode(*_train_files(folder)), _decode(*_test_files(folder))
        if os.access(folder, os.W_OK):
            # Written elsewhere and renamed, since another process may read it at any moment.
            partial = folder / f".decoded-{os.getpid()}.pt"
            torch.save([train.images, train.labels, test.images, test.labels], partial)
            partial.replace(cached)
        return train, test


def _class_of(folder: Path) -> dict[str, int]:
    """WordNet ids in the order of ``wnids.txt``, which numbers the classes."""
    return {wnid: index for index, wnid in enumerate((folder / "wnids.txt").read_text().split())}


def _train_files(folder: Path) -> tuple[list[Path], list[int]]:
    files = [
        (path, label)
        for wnid, label in _class_of(folder).items()
        for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    return [path for path, _ in files], [label for _, label in files]


def _test_files(folder: Path) -> tuple[list[Path], list[int]]:
    """Every line of the annotations is a file name, a WordNet id and a bounding box, separated by tabs."""
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    fields = [line.split("\t") for line in lines]
    class_of = _class_of(folder)
    return [folder / "val" / "images" / field[0] for field in fields], [class_of[field[1]] for field in fields]


def _decode(paths: Sequence[Path], labels: Sequence[int]) -> Samples:
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        images = list(pool.map(_pixels, paths))
    return Samples(torch.stack(images), torch.tensor(labels))


def _pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
