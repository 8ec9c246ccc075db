"""Data that a user names on the command line: a Dataset, a data module, a function, federated data."""

import pytest
import torch

from flash_pl.cli import main
from flash_pl.config import build_data, compose
from flash_pl.data import PartitionedDataModule, PartitionedDataset
from flash_pl.errors import ConfigError

FILE = """
import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Subset

class Points(Dataset):
    def __init__(self, size: int = 40, train: bool = True):
        self.size, self.train = size, train
    def __len__(self):
        return self.size if self.train else 12
    def __getitem__(self, index):
        return torch.full((1, 8, 8), float(index % 4)), index % 4

class Splits(Points):
    def __init__(self, split: str):
        super().__init__(train=split == "train")
        assert split in ("train", "test")

class Alone(Points):
    def __init__(self):
        super().__init__()

def both(size: int = 40) -> tuple[Points, Points]:
    return Points(size), Points(train=False)

class Module(L.LightningDataModule):
    num_classes = 4
    def __init__(self, size: int = 40, batch_size: int = 4):
        super().__init__()
        self.size, self.batch_size = size, batch_size
    def train_dataloader(self):
        return DataLoader(Points(self.size), batch_size=self.batch_size)
    def val_dataloader(self):
        return DataLoader(Points(train=False), batch_size=6)

class Share(Module):
    def __init__(self, split: float = 0.8, train: bool = True):
        super().__init__()
        assert split == 0.8 and train

def pair() -> list[Points]:
    return [Points(), Points(train=False)]

class NeedsFile(Points):
    def __init__(this, path: str = "nowhere"):
        open(path)

class Unreadable(Points):
    def __getitem__(self, index):
        raise KeyError(index)

def text(samples):
    return [label for _, label in samples]

def number() -> int:
    return 5
"""


@pytest.fixture(autouse=True)
def users_file(tmp_path, monkeypatch):
    (tmp_path / "users_data.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)


def built(*arguments):
    config = compose({"scheduler": "jmwst"}, [*arguments, "model=digits_cnn", "clients=4", "cohort=2", "batch_size=8"])
    data = build_data(config)
    data.setup("fit")
    return data


@pytest.mark.parametrize("target", ["Points", "Splits", "both", "pair"])
def test_a_dataset_is_made_for_training_and_for_testing(target):
    data = built(f"data=users_data.{target}")
    assert type(data) is PartitionedDataset
    assert (data.client_sizes, data.val_dataloader().samples) == ([10] * 4, 12)
    assert (data.classes, data.shape, data.batch_size) == (4, (1, 8, 8), 8)


def test_arguments_go_to_the_dataset_or_to_its_division():
    divided = ["data.workers=1", "data.partition=dirichlet", "alpha=0.01", "data.collate_fn=users_data.text"]
    data = built("data=users_data.Points", "data.size=60", *divided)
    assert data.client_sizes == [15] * 4 and data.workers == 1 and data.partition.alpha == 0.01
    labels = [sorted({label for batch in data.client_batches(client) for label in batch}) for client in range(4)]
    assert all(len(own) == 1 for own in labels)
    data.teardown("fit")


def test_a_data_module_is_divided_with_the_runs_batch_size():
    data = built("data=users_data.Module", "data.size=80")
    assert type(data) is PartitionedDataModule
    assert data.client_sizes == [20] * 4 and data.batch_size == 8 and len(data.val_dataloader()) == 2


def test_an_argument_split_or_train_of_another_kind_is_left_alone():
    assert built("data=users_data.Share").client_sizes == [10] * 4


@pytest.mark.parametrize("options", [[], ["data.workers=1"], ["data.partition=iid"]])
def test_a_sample_that_cannot_be_read_is_one_line(options, capsys, tmp_path):
    data = ["data=users_data.Unreadable", "model=digits_cnn", "model.num_classes=4", "model.in_channels=1"]
    data += ["model.image_size=8", f"run_dir={tmp_path / 'run'}", "cohort=2", "clients=4", "trainer.accelerator=cpu"]
    assert main(["fit", "jmwst", *data, *options]) == 3
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sample 0 of Unreadable" in message and "KeyError" in message


@pytest.mark.parametrize(
    "key, arguments",
    [
        ("data.siz", ["data=users_data.Points", "data.siz=2"]),
        ("data.size", ["data=users_data.Points", "data.size=many"]),
        ("data.class_path", ["data=users_data.number"]),
        ("data", ["data=users_data.NeedsFile"]),
        ("data.class_path", ["data=users_data.Nothing"]),
        ("data.collate_fn", ["data=users_data.Points", "data.collate_fn=users_data.pad"]),
        ("data.workers", ["data=users_data.Points", "data.workers=-1"]),
    ],
)
def test_wrong_settings_name_their_key(key, arguments):
    with pytest.raises(ConfigError) as error:
        built(*arguments)
    assert error.value.key == key


def test_a_dataset_without_test_samples_needs_validation():
    with pytest.raises(ConfigError) as error:
        built("data=users_data.Alone")
    assert error.value.key == "test"
    assert built("data=users_data.Alone", "data.validation=0.2").val_dataloader().samples == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["data=users_data.Points", "model=digits_cnn"],
        ["data=users_data.Module", "model=digits_cnn", "model.in_channels=1", "model.image_size=8"],
        ["data=csv", "data.file=table.csv", "data.target=kind"],
    ],
)
def test_a_run_of_a_users_data(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{i % 5},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,kind", *rows]))
    setting = ["clients=4", "cohort=2", "rounds=1", "density=0.2", "trainer.accelerator=cpu", "run_dir=run"]
    assert main(["fit", "jmwst", *arguments, *setting]) == 0
    assert main(["validate", "run/checkpoints/last.ckpt", "--trust"]) == 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=False)
