"""Finished runs with checkpoints to export."""

import os
from pathlib import Path

import pytest

from flash_pl.cli import main

SYNTHETIC = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY = ["clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]
CNN = ["model=digits_cnn", "model.hidden=16"]

# Networks of a user with integer buffers, a non-persistent buffer and a shared weight, and LightningModules.
NETS = '''
import torch
import lightning as L
from torch import nn
from flash_pl.data import FederatedDataModule, Samples


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.twin = nn.Linear(16, 16), nn.Linear(16, 16)
        self.twin.weight = self.fc.weight
        self.head = nn.Linear(16, 4)
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, images):
        features = nn.functional.max_pool2d(self.norm(self.conv(images)), 3).flatten(1)
        return self.head(torch.relu(self.twin(torch.relu(self.fc(features)))))


class Larger(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(4, 4)


class Shapeless(FederatedDataModule):
    """Data without the attribute ``shape``."""

    classes = 4

    def load(self):
        images, labels = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(100) % 4
        return Samples(images[:95], labels[:95]), Samples(images[95:], labels[95:])


class Silent(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Net()
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(4))

    def training_step(self, batch, index):
        return self.loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Own(Silent):
    def forward(self, images):
        return self.model(images)


class Branching(Net):
    def forward(self, images):
        return super().forward(images if images.sum() > 0 else -images)
'''


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The checkpoint of each run by name; the file with the networks is in the same folder."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "export_nets.py").write_text(NETS)
    commands = {
        "jmwst": ["jmwst", *CNN, "scheduler.sensitivity.epochs=1"],
        "hetero": ["hetero_jmwst", *CNN, "scheduler.sensitivity.epochs=1"],
        "fiarse": ["fiarse", *CNN, "budget.tiers=[{density: 0.1, share: 0.5}, {density: 0.2, share: 0.5}]"],
        "dense": ["dense", *CNN, "rounds=1"],
        **{name.lower(): ["pdst", f"model.class_path=export_nets.{name}"] for name in ("Net", "Silent", "Own")},
        "shapeless": ["pdst", "data.class_path=export_nets.Shapeless", "model.class_path=export_nets.Net"],
        "branching": ["pdst", "model.class_path=export_nets.Branching", "rounds=1"],
    }
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name, (config, *arguments) in commands.items():
            data = [] if name == "shapeless" else SYNTHETIC
            assert main(["fit", config, *data, *TINY, *arguments, f"run_dir={folder / name}"]) == 0
    finally:
        os.chdir(before)
    return {name: folder / name / "checkpoints" / "last.ckpt" for name in commands}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder in which a test runs its commands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
