"""FEMNIST from small files in LEAF's format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flash_pl.data import FEMNIST
from flash_pl.errors import DataNotFoundError


def test_femnist_writers_are_clients(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 784))
    users = {"b": {"x": (pixels[:1] / 255).tolist(), "y": [61]}, "a": {"x": (pixels[1:] / 255).tolist(), "y": [5, 6]}}
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name, user in users.items():
            content = {"users": [name], "num_samples": [len(user["y"])], "user_data": {name: user}}
            (tmp_path / split / f"{name}.json").write_text(json.dumps(content))
    data = FEMNIST(root=tmp_path, clients=None)
    data.setup()
    train, _ = data.load()
    assert train.labels.tolist() == [5, 6, 61] and train.owners is not None and train.owners.tolist() == [0, 0, 1]
    assert data.clients == 2 and sorted(data.client_sizes) == [1, 2]
    pixels_seen = data.val_dataloader().inputs * 255
    torch.testing.assert_close(pixels_seen[2].flatten(), torch.from_numpy(pixels[0]).float())


def test_a_writer_in_two_files_is_refused(tmp_path: Path) -> None:
    content = {"users": ["a"], "num_samples": [1], "user_data": {"a": {"x": [[0.0] * 784], "y": [1]}}}
    for name in ("train/keep_0.json", "train/keep_64.json", "test/keep_0.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataNotFoundError, match=r"writer a .* keep_64\.json"):
        FEMNIST(root=tmp_path, clients=None).setup()
