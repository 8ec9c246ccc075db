"""FEMNIST: handwritten characters whose clients are the writers."""

import json
from pathlib import Path

import numpy as np
import torch

from flash_pl.data.files import StoredData
from flash_pl.data.samples import Samples

Writers = dict[str, dict[str, list]]  # of each writer by name: "x", the images, and "y", the labels


class FEMNIST(StoredData):
    """Handwritten digits and letters of 62 classes; the clients are the writers.

    Source: LEAF, Caldas et al., arXiv 1812.01097.

    Args:
        root: folder with LEAF's ``train/*.json`` and ``test/*.json``.
        clients: number of writers, drawn at random; None for all writers.
        **keywords: see ``FederatedDataModule``.
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
        ValueError: a writer is in two files, as when LEAF's preprocessing has run twice into the same folder.
    """
    writers: Writers = {}
    for path in sorted(folder.glob("*.json")):
        users = json.loads(path.read_text())["user_data"]
        if twice := sorted(writers.keys() & users.keys()):
            raise ValueError(
                f"writer {twice[0]} is in {path.name} and in a file before it; keep the files of one split"
            )
        writers |= users
    return writers


def _as_samples(writers: Writers, numbers: dict[str, int]) -> Samples:
    names = sorted(writers)
    images = [np.asarray(writers[name]["x"], dtype=np.float32).reshape(-1, 1, 28, 28) for name in names]
    labels = [torch.tensor(writers[name]["y"], dtype=torch.int64) for name in names]
    owners = [torch.full((len(part),), numbers[name]) for name, part in zip(names, labels, strict=True)]
    return Samples(torch.from_numpy(np.concatenate(images)), torch.cat(labels), torch.cat(owners))
