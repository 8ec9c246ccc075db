"""Datasets of torch as federated data: equal to tensors bit for bit, for any number of workers; labels and owners."""

import os
import random
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from flash_pl import JMWST, Classifier, FederatedTrainer
from flash_pl.data import IID, ClientDatasets, Dirichlet, PartitionedDataModule, PartitionedDataset, TensorData
from flash_pl.data.labels import read_labels
from flash_pl.data.reader import DatasetBatches, Reader
from flash_pl.errors import ConfigError, RunError, SampleError
from flash_pl.seeding import generator

DRAWS = generator(0, "test_dataset")
X, Y = torch.randn(90, 1, 4, 4, generator=DRAWS), torch.arange(90) % 3
X[torch.arange(90), 0, 0, Y] += 3
TRAIN, TEST = (X[:60], Y[:60]), (X[60:], Y[60:])
SETTING = {"clients": 4, "batch_size": 8, "partition": Dirichlet(0.5)}


class Rows(Dataset):
    """Samples that are made one by one; ``noise`` is a random transform, from the generators of three libraries."""

    def __init__(self, x, y, noise=0.0):
        self.rows, self.answers, self.noise = x, y, noise

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        draw = torch.rand(()) + random.random() + np.random.rand()
        return self.rows[index] + self.noise * float(draw), int(self.answers[index])


def trained(data):
    """The server's weights after two rounds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    trainer = FederatedTrainer(JMWST(), density=0.3, rounds=2, cohort=2, accelerator="cpu")
    return trainer.fit(Classifier(net, classes=3), data).server.weights


@pytest.fixture(scope="module")
def weights_of_tensors():
    return trained(TensorData(TRAIN, TEST, **SETTING))


@pytest.mark.parametrize(
    "train, options",
    [
        (TensorDataset(*TRAIN), {}),
        (Rows(*TRAIN), {}),
        (Rows(*TRAIN), {"workers": 1}),
        (Rows(*TRAIN), {"workers": 2}),
        (DataLoader(Rows(*TRAIN), batch_size=8, num_workers=1), {}),
        (Subset(Rows(X, Y), range(60)), {}),
        (ConcatDataset([Rows(X[:20], Y[:20]), Rows(X[20:60], Y[20:60])]), {"targets": TRAIN[1]}),
    ],
    ids=["TensorDataset", "Dataset", "1 worker", "2 workers", "DataLoader", "Subset", "ConcatDataset"],
)
def test_a_dataset_trains_as_its_tensors_do(train, options, weights_of_tensors):
    """The draws of its random transform must not change those of dropout."""
    data = PartitionedDataset(train, TensorDataset(*TEST), **SETTING, **options)
    assert torch.equal(trained(data), weights_of_tensors)


def test_random_transforms_draw_the_same_for_any_number_of_workers():
    runs = [trained(PartitionedDataset(Rows(*TRAIN, noise=1.0), Rows(*TEST), **SETTING, workers=n)) for n in (0, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], trained(PartitionedDataset(Rows(*TRAIN), Rows(*TEST), **SETTING)))


def test_each_batch_has_draws_of_its_own_and_the_global_generators_stay():
    reader, batches = Reader(Rows(torch.zeros(4), torch.zeros(4), noise=1.0)), [[0, 1], [0, 1]]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    (first, _), (second, _) = reader.read(batches, seed=1)
    assert len({*first.tolist(), *second.tolist()}) == 4
    assert torch.equal(torch.stack([x for x, _ in reader.read(batches, seed=1)]), torch.stack([first, second]))
    assert not torch.equal(next(reader.read(batches, seed=2))[0], first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reader_goes_on_after_an_epoch_that_was_broken_off(workers):
    reader = Reader(list(range(20)), workers=workers)
    epoch = reader.read([[i] for i in range(20)], seed=0)
    assert next(epoch).tolist() == [0]
    assert [batch.tolist() for batch in reader.read([[3, 4], [5]], seed=0)] == [[3, 4], [5]]
    reader.close()
    assert [batch.tolist() for batch in reader.read([[1]], seed=0)] == [[1]]
    reader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named(workers):
    class Broken(Rows):
        def __getitem__(self, index):
            return self.rows[index], self.answers[1000 if index == 7 else index]

    with pytest.raises(RunError, match=r"^client \d in round 1: [^\n]*sample 7 of Broken [^\n]*IndexError[^\n]*$"):
        trained(PartitionedDataset(Broken(*TRAIN), TensorDataset(*TEST), targets=Y[:60], workers=workers, clients=2))


class Labeled(Rows):
    def __init__(self, *tensors, **names):
        super().__init__(*tensors)
        vars(self).update(names)


PLACES = list(range(60))


@pytest.mark.parametrize(
    "dataset, source",
    [
        (Rows(*TRAIN), None),
        (Labeled(X[:60], torch.zeros(60), targets=TRAIN[1].tolist()), None),
        (Labeled(X[:60], torch.zeros(60), kind=TRAIN[1].numpy()), "kind"),
        (TensorDataset(*TRAIN), None),
        (TensorDataset(TRAIN[1], X[:60]), lambda sample: int(sample[0])),
        ([{"x": x, "label": int(y)} for x, y in zip(*TRAIN, strict=True)], None),
        ([{"x": x, "mood": int(y)} for x, y in zip(*TRAIN, strict=True)], "mood"),
        (Subset(Labeled(X, Y, targets=Y), PLACES), None),
        (Rows(X[:60], torch.zeros(60)), TRAIN[1]),
    ],
)
def test_labels_are_found(dataset, source):
    assert read_labels("targets", dataset, source) == TRAIN[1].tolist()


@pytest.mark.parametrize(
    "dataset, source, value",
    [
        (Rows(*TRAIN), "kind", "'kind'"),
        ([{"x": 1.0}], "y", "'y'"),
        (Rows(*TRAIN), [0, 1], "2 values for 60"),
        (Rows(*TRAIN), 5, "5"),
    ],
)
def test_labels_that_are_not_there_are_refused(dataset, source, value):
    with pytest.raises(ConfigError, match=value) as error:
        read_labels("targets", dataset, source)
    assert error.value.key == "targets"


def test_labels_are_read_once_and_only_if_a_partition_needs_them():
    class Counted(Rows):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    dataset = Counted(*TRAIN)
    data = PartitionedDataset(dataset, TensorDataset(*TEST), clients=3, partition=IID())
    data.setup()
    assert dataset.reads == 0 and data.client_sizes == [20, 20, 20]
    PartitionedDataset(dataset, TensorDataset(*TEST), clients=3).setup()
    assert dataset.reads == 60


def test_samples_without_labels_are_divided_evenly_and_dirichlet_is_refused():
    lines = [f"line {i}" for i in range(12)]
    data = PartitionedDataset(lines, lines[:4], clients=3, batch_size=2)
    data.setup()
    assert data.client_sizes == [4, 4, 4]
    assert sorted(text for c in range(3) for batch in data.client_batches(c) for text in batch) == sorted(lines)
    assert sum(data.client_val_batches(client).samples for client in range(3)) == 4
    with pytest.raises(ConfigError) as error:
        PartitionedDataset(lines, lines[:4], clients=3, partition=Dirichlet(1)).setup()
    assert error.value.key == "partition"


def test_owners_are_clients_in_training_and_testing():
    people = ["ann", "bob", "eve"]
    train = [{"x": float(i), "who": people[i % 3]} for i in range(12)]
    test = [{"x": 100.0 + i, "who": who} for i, who in enumerate(["eve", "zoe", "ann", "eve"])]
    data = PartitionedDataset(train, test, owners="who", clients=None)
    data.setup()
    seen = {}
    for client in range(data.clients):
        (batch,) = data.client_batches(client)
        (who,) = set(batch["who"])
        seen[who] = batch["x"].tolist(), [x for b in data.client_val_batches(client) for x in b["x"].tolist()]
    expected = {who: [float(i) for i in range(12) if i % 3 == place] for place, who in enumerate(people)}
    tests = {"ann": [102.0], "bob": [], "eve": [100.0, 103.0]}
    assert seen == {who: (expected[who], tests[who]) for who in people}


def test_numbers_are_put_into_bins():
    prices = torch.rand(400, generator=DRAWS)
    samples = TensorDataset(torch.zeros(400, 2), prices)
    data = PartitionedDataset(samples, samples, clients=10, partition=Dirichlet(0.01))
    data.setup()
    spread = [float(prices[part].std()) for part in data._train_parts]
    assert sorted(torch.cat(data._train_parts).tolist()) == list(range(400))
    assert np.median(spread) < 0.1 < float(prices.std())


def test_one_dataset_or_loader_for_each_client():
    trains = [TensorDataset(X[a:b], Y[a:b]) for a, b in ((0, 10), (10, 40), (40, 60))]
    tests = [TensorDataset(X[a:b], Y[a:b]) for a, b in ((60, 61), (61, 61), (61, 90))]
    data = ClientDatasets(trains, tests, batch_size=64)
    data.setup()
    assert data.client_sizes == [10, 30, 20] and data.val_dataloader().samples == 30
    for client, (train, test) in enumerate(zip(trains, tests, strict=True)):
        (batch,) = data.client_batches(client)
        assert torch.equal(batch[0], train.tensors[0]) and torch.equal(batch[1], train.tensors[1])
        assert data.client_val_batches(client).samples == len(test)
    loaders = [DataLoader(part, batch_size=5, shuffle=True, drop_last=True) for part in trains]
    data = ClientDatasets(loaders, DataLoader(tests[2], batch_size=7))
    data.setup()
    assert [len(data.client_batches(client)) for client in range(3)] == [2, 6, 4]
    assert data.client_batches(0).epoch_samples == 10 and len(data.val_dataloader()) == 5
    trained(data)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1])


@pytest.mark.parametrize(
    "key, make",
    [
        ("trains", lambda: ClientDatasets([], None)),
        ("trains", lambda: ClientDatasets([TensorDataset(X[:0])], None)),
        ("trains[1]", lambda: ClientDatasets([TensorDataset(X), 5], None)),
        ("trains", lambda: ClientDatasets([DataLoader(TensorDataset(X), b) for b in (1, 2)], TensorDataset(X))),
        ("tests", lambda: ClientDatasets([TensorDataset(X)], [TensorDataset(X)] * 2)),
        ("clients", lambda: ClientDatasets([TensorDataset(X)], TensorDataset(X), clients=2)),
        ("test", lambda: PartitionedDataset(TensorDataset(X), clients=2).setup()),
        ("dataset", lambda: PartitionedDataset([DataLoader(TensorDataset(X))])),
        ("dataset", lambda: PartitionedDataset(iter([1, 2]))),
        (
            "dataset",
            lambda: PartitionedDataset(Stream()),
        ),
        ("test", lambda: PartitionedDataset(TensorDataset(X), DataLoader(TensorDataset(X), batch_size=None))),
        ("workers", lambda: PartitionedDataset(TensorDataset(X), TensorDataset(X), workers=-1)),
        ("collate_fn", lambda: PartitionedDataset(TensorDataset(X), TensorDataset(X), collate_fn=3)),
        ("clients", lambda: PartitionedDataset(TensorDataset(X), TensorDataset(X), clients=None).setup()),
        ("datamodule", lambda: PartitionedDataModule(TensorDataset(X))),
    ],
)
def test_what_cannot_be_divided_is_refused(key, make):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


class Points(L.LightningDataModule):
    """A data module as users have it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(stage)

    def train_dataloader(self):
        return DataLoader(Rows(*TRAIN), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(X[60:70], Y[60:70]), batch_size=4)

    def test_dataloader(self):
        return DataLoader(TensorDataset(X[70:], Y[70:]), batch_size=16)

    def teardown(self, stage):
        self.calls.append("teardown")


def test_a_lightning_data_module_is_divided(weights_of_tensors):
    module = Points()
    data = PartitionedDataModule(module, **{name: SETTING[name] for name in ("clients", "partition")})
    assert torch.equal(trained(data), weights_of_tensors)  # the server's weights do not depend on the evaluation
    assert module.calls == ["prepare_data", "fit", "teardown"]
    assert data.batch_size == 8 and len(data.val_dataloader()) == 3
    assert data.test_dataloader().samples == 20 and module.calls[-1] == "test"
    assert (data.classes, data.shape) == (3, (1, 4, 4))


def test_fit_takes_data_or_datamodule():
    trainer = FederatedTrainer(JMWST(), density=0.3, rounds=1, cohort=2, accelerator="cpu")
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ConfigError, match="100"):  # its default number of clients, and 60 samples
        trainer.fit(Classifier(net, classes=3), datamodule=Points())
    for arguments in ({}, {"data": Points(), "datamodule": Points()}):
        with pytest.raises(ConfigError) as error:
            trainer.fit(Classifier(net, classes=3), **arguments)
        assert error.value.key == "data"


def test_a_source_of_batches_is_checked_before_the_first_round():
    class OneLoader(TensorData):
        def client_batches(self, client):
            return DataLoader(TensorDataset(*TRAIN))

    with pytest.raises(ConfigError, match="DataLoader, which has no shuffled") as error:
        trained(OneLoader(TRAIN, TEST, clients=2))
    assert error.value.key == "data"


def test_batches_of_any_structure():
    """Dictionaries with sequences of different lengths, padded by a collate function."""

    class Tagger(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))

        def step(self, batch):
            features = nn.functional.one_hot(batch["bits"].clamp(min=0), 2).float().sum(1)
            return nn.functional.cross_entropy(self.net(features), batch["label"])

        def training_step(self, batch, batch_idx):
            return self.step(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.step(batch), batch_size=len(batch["label"]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def pad(samples):
        bits = nn.utils.rnn.pad_sequence([torch.tensor(s["bits"]) for s in samples], True, padding_value=-1)
        return {
            "bits": bits,
            "label": torch.tensor([s["label"] for s in samples]),
            "names": [s["name"] for s in samples],
        }

    samples = [{"bits": [i % 2] * (1 + i % 4), "label": i % 2, "name": f"s{i}"} for i in range(40)]
    data = PartitionedDataset(samples, samples[:8], collate_fn=pad, clients=4, batch_size=4)
    loop = FederatedTrainer(JMWST(), density=0.5, rounds=2, cohort=2, accelerator="cpu").fit(Tagger(), data)
    assert 0 < loop.metrics["val_loss"] < 1


EXIT = """
import torch
from flash_pl.data import PartitionedDataset
dataset = [(torch.zeros(3), index % 2) for index in range(100)]
data = PartitionedDataset(dataset, dataset, clients=2, workers=2)
data.setup()
batches = iter(data.client_batches(0))
next(batches)
"""


@pytest.mark.slow
def test_workers_end_with_the_program_also_in_the_middle_of_an_epoch():
    subprocess.run([sys.executable, "-c", EXIT], check=True, timeout=60)


def test_a_step_that_changes_its_batch_does_not_change_the_data():
    class Changing(Classifier):
        def validation_step(self, batch, batch_idx):
            batch[0].mul_(0.5)
            batch[1].fill_(0)
            self.log("val_sum", batch[0].abs().sum())

    labels = TEST[1].clone()
    data = TensorData(TRAIN, (TEST[0], labels), clients=2)
    trainer = FederatedTrainer(JMWST(), density=0.3, rounds=2, cohort=2, accelerator="cpu")
    loop = trainer.fit(Changing(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), classes=3), data)
    assert loop.metrics["val_sum"] == pytest.approx(0.5 * float(TEST[0].abs().sum()))
    assert torch.equal(labels, TEST[1])


@pytest.mark.parametrize(
    "parts",
    [
        None,
        [[0, 1], [2, 3], [4, 5]],
        [[0, 1], [2, 3, 4, 5]],
        [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]],
        [[True] * 8, [False] * 8],
        [range(4), range(3, 8)],
        [range(4), range(4, 9)],
        [range(-1, 4), range(4, 7)],
        [[[0, 1, 2, 3]], [[4, 5, 6, 7]]],
    ],
)
def test_a_wrong_partition_is_refused(parts):
    data = TensorData((X[:8], Y[:8]), TEST, clients=2, partition=lambda labels, clients, generator: parts)
    with pytest.raises(ConfigError) as error:
        data.setup()
    assert error.value.key == "partition"


def test_a_partition_may_return_lists_or_arrays():
    parts = [np.arange(3), list(range(3, 8))]
    data = TensorData((X[:8], Y[:8]), TEST, clients=2, partition=lambda labels, clients, generator: parts)
    data.setup()
    assert data.client_sizes == [3, 5]


def test_labels_may_be_any_integers():
    """The test samples of clients follow their classes; labels of a billion need no table of that size."""
    tens, strange = Y * 10, torch.tensor([-(10**15), 7, 10**15])[Y]
    splits = []
    for labels in (tens, strange):
        data = TensorData((X[:60], labels[:60]), (X[60:], labels[60:]), classes=3, clients=4, partition=Dirichlet(0.1))
        data.setup()
        parts = [torch.cat([x for x, _ in data.client_val_batches(client)]) for client in range(4)]
        splits.append((data.client_sizes, parts))
    assert splits[0][0] == splits[1][0]
    assert all(torch.equal(first, second) for first, second in zip(splits[0][1], splits[1][1], strict=True))


def sampled(sampler):
    return PartitionedDataset(DataLoader(TensorDataset(X), sampler=sampler))


@pytest.mark.parametrize(
    "key, make",
    [
        ("owners", lambda: TensorData((X, Y, torch.rand(90)), TEST)),
        ("train", lambda: TensorData((X[:0], Y[:0]), TEST)),
        ("test", lambda: TensorData(TRAIN, (X[:0], Y[:0]))),
        ("train", lambda: TensorData((np.array(["a", "b"]), np.arange(2)), TEST)),
        ("test", lambda: PartitionedDataset(TensorDataset(*TRAIN), TensorDataset(X[:0], Y[:0]), clients=2).setup()),
        ("owners", lambda: ClientDatasets([TensorDataset(X)], TensorDataset(X), owners=[1])),
        ("dataset", lambda: sampled(RandomSampler(X, num_samples=5))),
        ("dataset", lambda: sampled(RandomSampler(X, replacement=True))),
        ("dataset", lambda: sampled(SequentialSampler(range(10)))),
    ],
)
def test_what_would_be_silently_wrong_is_refused(key, make):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


def test_labels_are_the_second_tensor_and_not_weights():
    assert read_labels("targets", TensorDataset(*TRAIN, torch.rand(60))) == TRAIN[1].tolist()
    assert read_labels("targets", Labeled(*TRAIN, labels={i: "x" for i in range(60)})) == TRAIN[1].tolist()
    assert read_labels("targets", [(0, torch.tensor([3]))] * 2) == [3, 3]


def test_too_few_samples_at_once_are_an_error():
    class Short(Rows):
        def __getitems__(self, index):
            return [self[i] for i in index[:-1]]

    with pytest.raises(SampleError, match="7 samples for 8"):
        next(Reader(Short(*TRAIN)).read([range(8)], seed=0))


def test_a_workers_own_start_is_called():
    reader = Reader([0, 1], workers=1, collate_fn=lambda samples: os.environ.get("FLASH_PL_TEST"),
                    worker_init_fn=lambda worker: os.environ.update(FLASH_PL_TEST=f"worker {worker}"))  # fmt: skip
    assert list(reader.read([[0]], seed=0)) == ["worker 0"]
    reader.close()


@pytest.mark.parametrize(("samples", "sizes"), [(5, [2, 2]), (4, [2, 2]), (1, [1])])
def test_a_smaller_last_batch_of_a_dataset_is_left_out_in_both_orders(samples, sizes):
    batches = DatasetBatches(Reader(list(range(9)), list), torch.arange(samples), batch_size=2, drop_last=True)
    for epoch in (batches, batches.shuffled(torch.Generator().manual_seed(0))):
        assert [len(batch) for batch in epoch] == sizes
    assert len(batches) == len(sizes)
