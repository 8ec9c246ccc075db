"""FEMNIST: handwritten characters whose clients are the writers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_pl.data.files import StoredData
from flash_pl.data.formats import check_labels
from flash_pl.data.samples import Samples

Writers = dict[str, tuple[np.ndarray, Tensor]]  # images [n, 1, 28, 28] and labels [n] of each writer by name


class FEMNIST(StoredData):
    """Handwritten digits and letters of 62 classes; the clients are the writers.

    Source: LEAF, Caldas et al., arXiv 1812.01097.

    Args:
        root: folder with LEAF's ``train/*.json`` and ``test/*.json``.
        clients: number of writers, drawn at random; None for all writers.
        **keywords: see ``FederatedDataModule``.

    >>> data = FEMNIST(root="data", clients=100)  # 100 of the writers
    >>> data.classes, data.shape
    (62, (1, 28, 28))
    """

    classes = 62
    shape = (1, 28, 28)
    folder = "femnist"
    remedies = (
        "set root to a folder with LEAF's train/*.json and test/*.json",
        "copy both folders to {cache}/femnist (set FLASH_PL_DATA to change that); LEAF's preprocess.sh makes them",
    )

    def has_files(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all(any((folder / split).glob("*.json")) for split in ("train", "test"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``. Writers are numbered by name; the writers of the training set come first."""
        splits = [_read_writers(folder / split) for split in ("train", "test")]
        numbers: dict[str, int] = {}
        for writers in splits:
            for name in sorted(writers):
                numbers.setdefault(name, len(numbers))
        train, test = (_as_samples(writers, numbers) for writers in splits)
        return train, test


def _read_writers(folder: Path) -> Writers:
    """The writers in all JSON files of a folder, in LEAF's format.

    Raises:
        ValueError: a file is damaged, or a writer is in two files, as when LEAF's preprocessing has run twice into the
            same folder; names the file and the writer.
    """
    writers: Writers = {}
    for path in sorted(folder.glob("*.json")):
        try:
            users = json.loads(path.read_bytes())["user_data"]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise ValueError(f"{path.name} is not a JSON file of LEAF ({type(error).__name__}: {error})") from error
        if not isinstance(users, dict):
            raise ValueError(f"{path.name}: user_data has no writers")
        if twice := sorted(writers.keys() & users.keys()):
            raise ValueError(
                f"writer {twice[0]} is in {path.name} and in a file before it; keep the files of one split"
            )
        for name, user in users.items():
            try:
                writers[name] = _images_and_labels(user)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"{path.name}: writer {name}: {type(error).__name__}: {error}") from error
    return writers


def _images_and_labels(user: Any) -> tuple[np.ndarray, Tensor]:
    """The images ``"x"`` and the labels ``"y"`` of a writer."""
    labels = torch.tensor(user["y"], dtype=torch.int64)
    for index, pixels in enumerate(user["x"]):
        if len(pixels) != 28 * 28:
            raise ValueError(f"image {index} has {len(pixels)} pixels, not {28 * 28}")
    images = np.asarray(user["x"], dtype=np.float32).reshape(-1, 1, 28, 28)
    if not np.isfinite(images).all():
        raise ValueError(f"image {int(np.argwhere(~np.isfinite(images))[0, 0])} has a pixel that is not finite")
    check_labels("y", labels, FEMNIST.classes, len(images))
    return images, labels


def _as_samples(writers: Writers, numbers: dict[str, int]) -> Samples:
    names = sorted(writers)
    images, labels = [writers[name][0] for name in names], [writers[name][1] for name in names]
    owners = [torch.full((len(part),), numbers[name]) for name, part in zip(names, labels, strict=True)]
    return Samples(torch.from_numpy(np.concatenate(images)), torch.cat(labels), torch.cat(owners))
