"""FEMNIST."""

import json
from pathlib import Path

import numpy as np
import torch

from flash_pl.data.samples import Samples
from flash_pl.data.stored import StoredData


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
        """See :class:`StoredData`."""
        return all(any((folder / split).glob("*.json")) for split in ("train", "test"))

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See :class:`StoredData`; the writers are numbered by name, over the training set alone."""
        return _read(folder / "train"), _read(folder / "test")


def _read(folder: Path) -> Samples:
    """All of LEAF's JSON files of a folder; owners are numbered by the order of the writers' names."""
    users: dict[str, dict[str, list]] = {}
    for path in sorted(folder.glob("*.json")):
        users |= json.loads(path.read_text())["user_data"]
    images = [np.asarray(users[name]["x"], dtype=np.float32).reshape(-1, 1, 28, 28) for name in sorted(users)]
    labels = [torch.tensor(users[name]["y"], dtype=torch.int64) for name in sorted(users)]
    owners = torch.arange(len(users)).repeat_interleave(torch.tensor([len(part) for part in labels]))
    return Samples(torch.from_numpy(np.concatenate(images)), torch.cat(labels), owners)
