"""Every row of the table in docs/howto/data.md, what you have and what you write, trains a round, in 3 lines."""

import csv
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from flash_pl import SPDST, FederatedTrainer
from flash_pl import data as flash_data

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "data.md"
LINES = PAGE.read_text().partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
ROWS = {have.strip(): write.split("<br>") for have, write in (line.strip("| ").split(" | ") for line in LINES)}
CODE = {have: [line.strip().strip("`") for line in lines] for have, lines in ROWS.items() if lines[0].startswith("`")}


class AnyBatch(L.LightningModule):
    """Fits a number to the mean of a batch's first tensor of numbers, whatever the structure of the batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        tensor = next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
        return self.net(tensor.float().reshape(len(tensor), -1).mean(1, keepdim=True)).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Points(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(200, 3), torch.arange(200) % 4), batch_size=4)

    def val_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(20, 3), torch.arange(20) % 4), batch_size=4)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the rows take for granted."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "pets" / split / label).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (5, 5), (i, 0, 0)).save(tmp_path / "pets" / split / label / f"{i}.png")
        with Path(f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("x", "y", "mood"), *((i, i * i, ("sad", "glad")[i % 2]) for i in range(40))])
    Path("books").mkdir()
    for name in ("ann", "bob", "eve"):
        Path(f"books/{name}.txt").write_text(f"{name} was here, and nobody saw it. " * 40)
    images, labels = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32), np.arange(40) % 4
    np.save("images.npy", images)
    made = TensorDataset(torch.randn(40, 3), torch.arange(40) % 4)
    records = [{"x": torch.ones(3) * i, "mood": i % 2, "author": "SM"[i % 2]} for i in range(40)]
    texts = ["ab" * (1 + i % 5) for i in range(40)]
    return {name: getattr(flash_data, name) for name in flash_data.__all__} | {
        "np": np,
        "ImageFolder": ImageFolder,
        "ToTensor": ToTensor,
        "images": images,
        "labels": labels,
        "owners": np.arange(40) % 5,
        "test_images": images[:8],
        "test_labels": labels[:8],
        "test_owners": np.arange(8) % 5,
        "dataset": made,
        "test_dataset": made,
        "datasets": [TensorDataset(torch.randn(n, 3)) for n in (3, 5)],
        "loaders": [DataLoader(TensorDataset(torch.randn(n, 3)), batch_size=2) for n in (3, 5)],
        "test_loader": DataLoader(TensorDataset(torch.randn(4, 3)), batch_size=2),
        "records": records,
        "test_records": records,
        "texts": texts,
        "test_texts": texts[:4],
        "pad": lambda batch: torch.stack([torch.tensor(list(text.ljust(10).encode())) for text in batch]),
        "rows": torch.randn(40, 6),
        "prices": np.linspace(1, 2, 40),
        "test_rows": torch.randn(4, 6),
        "test_prices": np.linspace(1, 2, 4),
        "datamodule": Points(),
        "module": AnyBatch(),
        "trainer": FederatedTrainer(SPDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu"),
    }


def test_the_table_has_what_people_have():
    assert len(CODE) >= 15 and all(len(lines) <= 3 for lines in CODE.values())


@pytest.mark.parametrize("have", CODE)
def test_a_row_trains(have, names):
    code = "\n".join(CODE[have])
    if "load_dataset" in code:
        if not find_spec("datasets"):
            pytest.skip("the package datasets is not installed")
        import datasets

        datasets.disable_progress_bars()
        names["load_dataset"] = lambda *args, **kwargs: datasets.load_dataset(*args, cache_dir="cache", **kwargs)
    exec(compile(code, have, "exec"), names)
    loop = names["loop"] if "loop" in names else names["trainer"].fit(names["module"], names["data"])
    assert loop.round == 1 and np.isfinite(loop.metrics["val_loss"])
