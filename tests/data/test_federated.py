"""The data module: partition, validation split, normalization, natural clients, and use under a stock Trainer."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from flash_pl import FederatedTrainer
from flash_pl.data import (
    IID,
    CropFlip,
    Digits,
    FederatedData,
    FederatedDataModule,
    LabelShards,
    Samples,
    Synthetic,
    TensorBatches,
    TensorData,
)
from flash_pl.data.federated import check_federated
from flash_pl.errors import ClientError, ConfigError
from flash_pl.schedulers import PDST


class ThreeClasses(FederatedDataModule):
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
    """Black images whose natural clients are ``owners``."""
    labels = torch.zeros(len(owners), dtype=torch.int64)
    split = Samples(torch.zeros(len(owners), 1, 2, 2), labels, torch.tensor(owners))
    return TensorData(split, split, **keywords)  # type: ignore[arg-type]


def ready(data: FederatedDataModule) -> FederatedData:
    """The module after ``setup``; the annotation checks that it has the interface of the loops."""
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_subclass_with_load_is_a_data_set() -> None:
    data = ThreeClasses(clients=4, batch_size=4, partition=IID())
    ready(data)
    data.setup("test")
    assert data.loads == 1 and data.clients == 4 and data.client_sizes == [6] * 4
    assert [len(y) for _, y in data.client_batches(3)] == [4, 2]


def test_pixels_are_normalized_as_torchvision_does() -> None:
    data = ThreeClasses(clients=1, eval_batch_size=100)
    ready(data)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.25, 0.5], [0.5, 2.0])])
    (images, labels), *rest = data.val_dataloader()
    assert not rest and torch.equal(labels, torch.arange(24, 30) % 3)
    torch.testing.assert_close(images, reference(data.load()[1].inputs))


def test_training_images_are_padded_then_normalized_as_in_torchvisions_recipes() -> None:
    data = ThreeClasses(clients=1, partition=IID(), augment=CropFlip(padding=2, flip=False))
    ready(data)
    raw = data.load()[0].inputs
    padded = v2.Compose([v2.Pad(2), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.25, 0.5], [0.5, 2.0])])(
        raw
    )  # the value of black is -0.5 and -0.25
    crops = torch.stack([padded[..., top : top + 4, left : left + 4] for top in range(5) for left in range(5)])
    for images, _ in data.client_batches(0).shuffled(torch.Generator().manual_seed(0)):
        distances = (crops.flatten(0, 1)[None] - images[:, None]).abs().amax(dim=(2, 3, 4))
        assert distances.amin(dim=1).max() < 1e-6
    plain = torch.cat([images for images, _ in data.client_batches(0)])  # in order and without augmentation
    torch.testing.assert_close(plain.sort(dim=0).values, data.normalize(raw).sort(dim=0).values)


def test_all_clients_together_have_the_training_set() -> None:
    data = ThreeClasses(clients=5)
    ready(data)
    own = torch.cat([data.client_batches(client).inputs for client in range(5)])
    everything = data.train_dataloader().batches.inputs
    assert sorted(own.flatten(1).sum(1).tolist()) == pytest.approx(sorted(everything.flatten(1).sum(1).tolist()))


def test_the_test_set_is_normalized_once() -> None:
    data = ThreeClasses(clients=2)
    ready(data)
    before = data.val_dataloader()
    assert data.val_dataloader() is before and data.test_dataloader() is before
    data.to_(torch.device("cpu"))
    assert torch.equal(data.val_dataloader().inputs, before.inputs)


def test_the_seed_decides_the_partition() -> None:
    def labels(seed: int) -> Tensor:
        data = Synthetic(samples=200, clients=4, seed=0)
        data.seed = seed
        ready(data)
        return torch.stack([data.client_batches(client).labels for client in range(4)])

    assert torch.equal(labels(1), labels(1)) and not torch.equal(labels(1), labels(2))


def test_owners_are_the_clients() -> None:
    data = owned([7, 3, 7, 3, 3, 9], clients=None)
    ready(data)
    assert data.clients == 3 and sorted(data.client_sizes) == [1, 2, 3]
    fewer = owned([7, 3, 7, 3, 3, 9], clients=2)
    ready(fewer)
    assert fewer.clients == 2 and set(fewer.client_sizes) < {1, 2, 3}


def test_a_partition_replaces_the_natural_clients() -> None:
    data = owned([0, 0, 0, 0, 0, 1], clients=3, partition=IID())
    ready(data)
    assert data.client_sizes == [2, 2, 2]


def test_clients_that_the_data_do_not_have_are_refused() -> None:
    cases = [
        ("3 .* 2 ", lambda: ready(owned([0, 1], clients=3))),
        ("null .* samples", lambda: ready(ThreeClasses(clients=None))),
        ("null .* partition", lambda: ready(owned([0, 1], clients=None, partition=IID()))),
        ("0", lambda: ThreeClasses(clients=0)),
        ("25 .* 24 ", lambda: ready(ThreeClasses(clients=25))),
    ]
    for value, make in cases:
        with pytest.raises(ConfigError, match=value) as error:
            make()
        assert error.value.key == "clients"


def test_an_error_of_the_partition_is_within_its_section() -> None:
    with pytest.raises(ConfigError, match="9 ") as error:
        ready(ThreeClasses(clients=4, partition=LabelShards(9)))
    assert error.value.key == "partition.shards_per_client"


def test_natural_clients_keep_their_own_test_samples() -> None:
    images = torch.zeros(6, 1, 2, 2)
    train = Samples(images, torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([2, 2, 0, 0, 1, 1]))
    test = Samples(images[:4], torch.tensor([0, 1, 1, 0]), torch.tensor([1, 2, 1, 7]))
    data = TensorData(train, test, clients=None)
    data.setup()
    labels_by_owner = {}
    for client in range(3):
        owner = int(train.owners[data._train_parts[client][0]])
        labels_by_owner[owner] = data.client_val_batches(client).labels.tolist()
    assert labels_by_owner == {0: [], 1: [0, 1], 2: [1]}


def digits(validation: float, **keywords: object) -> Digits:
    data = Digits(clients=10, partition=IID(), validation=validation, **keywords)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_the_server_and_the_clients_are_evaluated_on_validation_samples() -> None:
    plain, data = digits(0.0), digits(0.2)
    assert sum(plain.client_sizes) == len(plain.train)
    validation = data.val_dataloader()
    assert data.client_sizes == [n - round(0.2 * n) for n in plain.client_sizes]
    assert validation.samples == sum(round(0.2 * n) for n in plain.client_sizes)
    assert sum(data.client_val_batches(client).samples for client in range(10)) == validation.samples
    assert len(data.train_dataloader()) == -(-sum(data.client_sizes) // data.batch_size)
    assert torch.equal(data.test_dataloader().inputs, plain.val_dataloader().inputs)
    trained = torch.cat([data.client_batches(client).inputs for client in range(10)])
    known = {image.numpy().tobytes() for image in trained}
    fresh = [image.numpy().tobytes() not in known for image in validation.inputs]
    assert sum(fresh) > 0.99 * len(fresh)  # a few images occur twice in the data set


def test_setup_fails_alike_every_time() -> None:
    data = ThreeClasses(clients=12, partition=IID(), validation=0.1)  # of two samples each
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            data.setup()
        assert error.value.key == "validation"


def test_the_seed_decides_the_validation_split() -> None:
    first, again, other = (digits(0.2, seed=seed).val_dataloader().inputs for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_run_reports_the_accuracy_on_validation_samples(unaware, tiny_data):
    tiny_data.validation = 0.5
    loop = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(unaware(), tiny_data)
    count = tiny_data.val_dataloader().samples
    hits = loop.metrics["val_acc"] * count
    assert count != len(tiny_data.test) and hits == pytest.approx(round(hits), abs=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, "a"])
def test_validation_must_be_a_share(share: object) -> None:
    with pytest.raises(ConfigError, match=str(share)) as error:
        Digits(validation=share)  # type: ignore[arg-type]
    assert error.value.key == "validation"


def test_a_share_of_less_than_one_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match="0.0001") as error:
        digits(1e-4)
    assert error.value.key == "validation"


def test_a_partition_by_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'dirichlet'") as error:
        Digits(partition="dirichlet")  # type: ignore[arg-type]
    assert error.value.key == "partition"


def test_data_without_the_methods_of_federated_data_are_refused() -> None:
    check_federated(Digits())
    with pytest.raises(ConfigError, match="DataLoader .* prepare_data") as error:
        check_federated(torch.utils.data.DataLoader([]))
    assert error.value.key == "data"


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
    assert isinstance(trainer.val_dataloaders, TensorBatches)


def with_last_batches_of_one(**settings):
    """4 clients with 9 samples each, in batches of 4."""
    images, labels = torch.randn(36, 1, 8, 8), torch.arange(36) % 4
    test = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    return TensorData((images, labels), test, clients=4, partition=IID(), batch_size=4, **settings)


class Normalized(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        self.sizes = []

    def training_step(self, batch, batch_idx):
        if self._client.context.purpose == "round":
            self.sizes.append(len(batch[1]))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_drop_last_is_the_remedy_for_batch_normalization_of_one_sample():
    trainer = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=4, local_epochs=2, accelerator="cpu")
    with pytest.raises(ClientError, match=r"more than 1 value per channel.*data\.drop_last=true"):
        trainer.fit(Normalized(), with_last_batches_of_one())
    module = Normalized()
    loop = trainer.fit(module, with_last_batches_of_one(drop_last=True))
    assert module.sizes == [4] * 16
    of_sample = loop.ledger.flops.training(loop.server.layout.densities(loop.server.mask))
    assert loop.metrics["flops"] == pytest.approx(4 * 2 * 8 * of_sample)  # 8 samples of 9, 2 epochs, 4 clients


def test_drop_last_must_be_true_or_false():
    with pytest.raises(ConfigError) as error:
        with_last_batches_of_one(drop_last="no")
    assert error.value.key == "drop_last"
