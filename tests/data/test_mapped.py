"""Data in a file that is mapped into memory: equal results, and memory for a part of the data only."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from flash_pl import JMWST, Classifier, FederatedTrainer
from flash_pl.data import CropFlip, TensorData


def arrays(folder, count=120, side=8):
    labels = np.arange(count) % 4
    images = np.random.default_rng(0).integers(0, 60, (count, 1, side, side), dtype=np.uint8)
    images[np.arange(count), 0, labels, labels] += 180
    np.save(folder / "images.npy", images)
    return images, labels


def trained(images, labels, **settings):
    torch.manual_seed(0)
    data = TensorData((images[:100], labels[:100]), (images[100:], labels[100:]), clients=4, batch_size=8, **settings)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    trainer = FederatedTrainer(JMWST(), density=0.3, rounds=2, cohort=2, accelerator="cpu")
    loop = trainer.fit(Classifier(net, classes=4), data)
    return loop.server.weights, loop.metrics["val_loss"]


@pytest.mark.parametrize("augment", [None, CropFlip(padding=1)])
def test_mapped_data_train_as_data_in_memory(augment, tmp_path):
    images, labels = arrays(tmp_path)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    options = {"augment": augment, "mean": (0.2,), "std": (0.3,), "validation": 0.2}
    weights, loss = trained(images, labels, **options)
    again, loss_again = trained(mapped, labels, **options)
    assert torch.equal(weights, again) and loss == loss_again


# The limit is on private memory, as an array of numpy or a tensor has it; the pages of a mapped file are not private.
SCRIPT = """
import resource, sys
import numpy as np, torch
from torch import nn
from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.data import TensorData

def private():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData"))

count, limit = 32_000, int(sys.argv[2])
labels = torch.arange(count) % 4

def train(images):
    trainer = FederatedTrainer(PDST(), density=0.5, rounds=2, cohort=2, accelerator="cpu")
    net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(16, 4))
    n = len(images) * 7 // 8
    trainer.fit(Classifier(net, classes=4), TensorData((images[:n], labels[:n]), (images[n:], labels[n:len(images)])))

train(np.zeros((800, 1, 64, 64), np.uint8))  # what libraries allocate at their first use is not that of the data
resource.setrlimit(resource.RLIMIT_DATA, (private() + limit,) * 2)
train(np.load(sys.argv[1], mmap_mode="r"))
print("trained on the mapped file")
train(np.load(sys.argv[1]))
"""


@pytest.mark.slow
def test_data_four_times_as_large_as_the_memory(tmp_path):
    limit = 32_000 * 64 * 64 // 4  # bytes
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (32_000, 1, 64, 64))
    images[:, 0, 0, 0] = np.arange(32_000) % 4
    images.flush()

    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "images.npy"), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", "PATH": ""})
    assert run.stdout.strip() == "trained on the mapped file", run.stderr
    assert run.returncode != 0 and "MemoryError" in run.stderr
