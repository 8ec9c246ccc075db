"""FEMNIST."""

import json
from pathlib import Path

import numpy as np
import torch

from flash_pl.data.batches import Samples
from flash_pl.data.files import StoredData


class FEMNIST(StoredData):
    """Handwritten digits and letters of 62 classes whose clients are the writers (Caldas et al., LEAF, 1812.01097).

    Args:
        root: folder with LEAF's ``train/*.json`` and ``test/*.json``.
        clients: that many writers at random; None for all of them.
    """

    classes = 62
    shape = (1, 28, 28)
    folder = "femnist"
    remedies = (
        "give root, the folder with LEAF's train/*.json and test/*.json",
        "copy both to {cache}/femnist (FLASH_PL_DATA moves that); LEAF's preprocess.sh makes them",
    )

    def holds(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all(any((folder / split).glob("*.json")) for split in ("train", "test"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; the writers are numbered by name, those of the training set first."""
        splits = [_users(folder / split) for split in ("train", "test")]
        number: dict[str, int] = {}
        for split in splits:
            for name in sorted(split):
                number.setdefault(name, len(number))
        train, test = (_samples(split, number) for split in splits)
        return train, test


def _users(folder: Path) -> dict[str, dict[str, list]]:
    """All of LEAF's JSON files of a folder: each writer's ``x`` and ``y``."""
    users: dict[str, dict[str, list]] = {}
    for path in sorted(folder.glob("*.json")):
        users |= json.loads(path.read_text())["user_data"]
    return users


def _samples(users: dict[str, dict[str, list]], number: dict[str, int]) -> Samples:
    images = [np.asarray(users[name]["x"], dtype=np.float32).reshape(-1, 1, 28, 28) for name in sorted(users)]
    labels = [torch.tensor(users[name]["y"], dtype=torch.int64) for name in sorted(users)]
    owners = [torch.full((len(part),), number[name]) for name, part in zip(sorted(users), labels, strict=True)]
    return Samples(torch.from_numpy(np.concatenate(images)), torch.cat(labels), torch.cat(owners))
