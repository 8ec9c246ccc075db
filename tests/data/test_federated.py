"""The data module, by itself and under a stock Trainer."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from flash_pl.data import (
    IID,
    Batches,
    Digits,
    Dirichlet,
    FederatedData,
    FederatedDataModule,
    Samples,
    Synthetic,
    TensorData,
)
from flash_pl.errors import ConfigError


class Mine(FederatedDataModule):
    """A user's data set."""

    classes = 3
    shape = (2, 4, 4)
    mean, std = (0.25, 0.5), (0.5, 2.0)
    loads = 0

    def load(self) -> tuple[Samples, Samples]:
        self.loads += 1
        images = torch.randint(256, (30, 2, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        labels = torch.arange(30) % 3
        return Samples(images[:24], labels[:24]), Samples(images[24:], labels[24:])


def owned(owners: list[int], **keywords: object) -> TensorData:
    labels = torch.zeros(len(owners), dtype=torch.int64)
    split = Samples(torch.zeros(len(owners), 1, 2, 2), labels, torch.tensor(owners))
    return TensorData(split, split, **keywords)  # type: ignore[arg-type]


def ready(data: FederatedDataModule) -> FederatedData:
    """Doubles as a check that the module is what the loops ask for."""
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_subclass_with_load_is_a_data_set() -> None:
    data = Mine(clients=4, batch_size=4, partition=IID())
    ready(data)
    data.setup("test")
    assert data.loads == 1 and data.clients == 4 and data.client_sizes == [6] * 4
    assert [len(y) for _, y in data.client_batches(3)] == [4, 2]


def test_pixels_are_normalized_as_torchvision_does() -> None:
    data = Mine(clients=1, eval_batch_size=100)
    ready(data)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.25, 0.5], [0.5, 2.0])])
    (images, labels), *rest = data.val_dataloader()
    assert not rest and torch.equal(labels, torch.arange(24, 30) % 3)
    torch.testing.assert_close(images, reference(data.load()[1].images))


def test_clients_together_have_the_training_set() -> None:
    data = Mine(clients=5)
    ready(data)
    own = torch.cat([data.client_batches(client).images for client in range(5)])
    everything = data.train_dataloader().batches.images
    assert sorted(own.flatten(1).sum(1).tolist()) == pytest.approx(sorted(everything.flatten(1).sum(1).tolist()))


def test_the_test_set_is_normalized_once_and_moves() -> None:
    data = Mine(clients=2)
    ready(data)
    before = data.val_dataloader()
    assert data.val_dataloader() is before and data.test_dataloader() is before
    data.to_(torch.device("cpu"))
    assert torch.equal(data.val_dataloader().images, before.images)


def test_the_seed_decides_the_partition() -> None:
    def labels(seed: int) -> Tensor:
        data = Synthetic(samples=200, clients=4, seed=0)
        data.seed = seed
        ready(data)
        return torch.stack([data.client_batches(client).labels for client in range(4)])

    assert torch.equal(labels(1), labels(1)) and not torch.equal(labels(1), labels(2))


def test_natural_owners_are_the_clients() -> None:
    data = owned([7, 3, 7, 3, 3, 9], clients=None)
    ready(data)
    assert data.clients == 3 and sorted(data.client_sizes) == [1, 2, 3]
    fewer = owned([7, 3, 7, 3, 3, 9], clients=2)
    ready(fewer)
    assert fewer.clients == 2 and set(fewer.client_sizes) < {1, 2, 3}


def test_a_partition_overrules_the_owners() -> None:
    data = owned([0, 0, 0, 0, 0, 1], clients=3, partition=IID())
    ready(data)
    assert data.client_sizes == [2, 2, 2]


def test_clients_that_the_data_do_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="clients"):
        ready(owned([0, 1], clients=3))
    with pytest.raises(ConfigError, match="clients"):
        ready(Mine(clients=None))
    with pytest.raises(ConfigError, match="clients"):
        Mine(clients=0)


def test_tensors_of_the_caller() -> None:
    images, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    data = TensorData((images, labels), (images, labels), clients=1, eval_batch_size=12)
    ready(data)
    assert data.classes == 3 and data.shape == (1, 4, 4)
    assert torch.equal(next(iter(data.val_dataloader()))[0], images)


@pytest.mark.parametrize(
    "split",
    [
        (torch.zeros(3, 4, 4), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 1, 4, 4), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_samples_that_do_not_fit_are_refused(split: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="images"):
        Samples(*split)


class Linear(L.LightningModule):
    """Logistic regression."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_stock_trainer_trains_on_all_samples() -> None:
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Linear(), datamodule=Digits())
    assert trainer.callback_metrics["acc"] > 0.85
    assert isinstance(trainer.val_dataloaders, Batches)


def test_images_in_double_precision_become_single():
    images, labels = torch.rand(12, 1, 4, 4, dtype=torch.float64), torch.arange(12) % 3
    data = TensorData((images, labels), (images, labels), clients=2, partition=IID(), seed=1)
    data.setup("fit")
    batches = data.client_batches(0)
    assert batches.images.dtype == torch.float32 and data.val_dataloader().images.dtype == torch.float32


def test_numpy_arrays_are_taken_as_they_are():
    images, labels = torch.rand(6, 1, 2, 2), torch.arange(6)
    ours, theirs = ((images, labels), (images.numpy(), labels.numpy()))
    data = [TensorData(split, split, clients=2, partition=IID()) for split in (ours, theirs)]
    for one in data:
        one.setup()
    assert torch.equal(data[0].train.images, data[1].train.images) and data[0].classes == data[1].classes == 6


GOOD = torch.rand(6, 1, 2, 2), torch.arange(6)
BAD = [
    (lambda: TensorData(GOOD, None), "test: 'NoneType' .* Samples, or"),
    (lambda: TensorData(GOOD[0], GOOD), "train: 'Tensor' .* Samples, or"),
    (lambda: TensorData(([1], [2]), GOOD), "train: 'tuple' .* Samples, or"),
    (lambda: Samples(*GOOD, owners=[1]), r"owners: \[1\] .* class Tensor"),
    (lambda: TensorData(GOOD, GOOD, partition="dirichlet"), "partition: 'dirichlet' .* such as Dirichlet"),
    (lambda: TensorData(GOOD, GOOD, validation="a"), "validation: 'a' .* a number"),
    (lambda: Dirichlet("a"), "alpha: 'a' .* a number"),
]


@pytest.mark.parametrize("make, words", BAD)
def test_data_that_cannot_be_are_one_line(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
