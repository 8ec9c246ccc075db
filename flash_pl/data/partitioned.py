"""A training set that is divided over clients: which samples are whose, for training, validation and testing."""

from abc import abstractmethod
from typing import Any, Protocol, TypedDict

import lightning as L
import torch
from lightning.fabric.utilities import rank_zero_info
from torch import Tensor

from flash_pl.checks import check_booleans, check_integers, check_numbers
from flash_pl.data.batches import Batches, Shuffled
from flash_pl.data.labels import LabelBins
from flash_pl.data.partition import IID, Dirichlet, Partition, checked_parts, hold_out, split_test_samples
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.seeding import generator


class SampleSet(Protocol):
    """A training or a test set, as far as its division over clients needs it."""

    def __len__(self) -> int:
        """Number of samples n."""
        ...

    @property
    def targets(self) -> Tensor | None:
        """One label for each sample, int64 classes or floating-point numbers ``[n]``; None if they have none."""
        ...

    @property
    def owners(self) -> Tensor | None:
        """The number of each sample's natural client, int64 ``[n]``; None without natural clients."""
        ...


class PartitionKeywords(TypedDict, total=False):
    """The keyword arguments that every class of data passes on to ``PartitionedData``."""

    clients: int | None
    partition: Partition | None
    batch_size: int
    eval_batch_size: int
    validation: float
    seed: int
    drop_last: bool


class PartitionedData(L.LightningDataModule):
    """A LightningDataModule with a training set that is divided over clients.

    A subclass defines what the samples are (``load``) and how batches are made of them (``train_batches``,
    ``eval_batches``). ``FederatedDataModule`` does it for tensors, ``PartitionedDataset`` for torch's datasets.

    Without a validation split the server is evaluated on the test set. With one, the server is evaluated on the
    validation samples of all clients together and each client on its own; only ``test_dataloader`` reads the test set.

    A stock ``lightning.Trainer`` can use the module too: it trains on the samples of all clients.

    Args:
        clients: number of clients N; None for all natural clients (owners of samples).
        partition: divides the training set over the clients. By default samples with owners stay with their owners, of
            which ``clients`` are drawn; others are divided by ``Dirichlet(1)``, or by ``IID()`` if they have no labels.
        batch_size: samples per batch in the training of a client.
        eval_batch_size: samples per batch in evaluations.
        validation: share of each client's training samples for validation, in [0, 1).
        seed: of the partition, the validation split and the test split.
        drop_last: leave out the last training batch of an epoch if it is smaller, as batch normalization may need. A
            client with fewer samples than ``batch_size`` keeps its only batch. Clients count by all their samples.

    Raises:
        ConfigError: an argument outside of its range, or, from ``setup``, one that does not fit the samples.
    """

    train: Any  # a SampleSet of the subclass's own class; ``load`` returns it
    test: Any  # the same, or None

    def __init__(
        self,
        clients: int | None = 100,
        partition: Partition | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 100,
        validation: float = 0.0,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        check_booleans(drop_last=drop_last)
        check_integers(optional=True, clients=clients)
        check_integers(batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_numbers("[0, 1)", validation=validation)
        if partition is not None and not callable(partition):
            problem = f"{as_yaml(partition)} is not a partition"
            raise ConfigError("partition", problem, "give null or an object, such as Dirichlet(0.1) or IID()")
        self.requested_clients, self.partition, self.validation, self.seed = clients, partition, validation, seed
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self._train_parts: list[Tensor] | None = None  # sample indices of each client

    # What a subclass defines

    def load(self) -> tuple[SampleSet, SampleSet | None]:
        """Return the training and the test samples; None for no test samples."""
        raise TypeError(f"{type(self).__name__} must define load(self) -> (train, test)")

    @abstractmethod
    def train_batches(self, index: Tensor) -> Batches:
        """Training batches of the samples ``index`` (int64) of the training set."""

    @abstractmethod
    def eval_batches(self, samples: Any, index: Tensor | None = None) -> Batches:
        """Evaluation batches of ``samples``, the training or the test set: those of ``index``, None for all."""

    # Who has which samples

    def setup(self, stage: str | None = None) -> None:
        """Load the samples and divide them over the clients, at the first call only."""
        if self._train_parts is not None:
            return
        self.train, self.test = self.load()
        if not len(self.train):
            raise ConfigError("train", "there are no training samples")
        draws = generator(self.seed, "validation")
        train_parts, self._val_parts = hold_out(self.divide_train(self.train), self.validation, draws)
        if self.validation and not any(map(len, self._val_parts)):
            problem = f"{self.validation} leaves every client without validation samples"
            raise ConfigError("validation", problem, "give a larger share, or 0 for no validation split")
        if not self.validation and (self.test is None or not len(self.test)):
            raise ConfigError("test", "there are no samples to evaluate the server", "give test samples, or validation")
        self._val: Batches | None = None
        self._test_parts: list[Tensor] | None = None
        self._train_parts = train_parts  # last, so that a call after a failed one fails with the same sentence

    def divide_train(self, train: SampleSet) -> list[Tensor]:
        """The training samples of each client, int64: of a partition, or of natural clients."""
        draws = generator(self.seed, "partition")
        if self.partition is not None or train.owners is None:
            return self._partition(train, draws)
        owners, order = train.owners.sort(stable=True)
        parts = order.split(owners.unique_consecutive(return_counts=True)[1].tolist())
        clients = len(parts) if self.requested_clients is None else self.requested_clients
        if clients > len(parts):
            raise ConfigError("clients", f"{clients} is more than the {len(parts)} natural clients of these samples")
        return [parts[i] for i in torch.randperm(len(parts), generator=draws)[:clients].tolist()]

    def _partition(self, train: SampleSet, draws: torch.Generator) -> list[Tensor]:
        if self.requested_clients is None and train.owners is None:
            raise ConfigError("clients", "null means all natural clients, but these samples have none", "give a number")
        if self.requested_clients is None:
            problem = "null means all natural clients, but a partition replaces them"
            raise ConfigError("clients", problem, "give a number, or set partition=null")
        needs_labels = getattr(self.partition, "needs_labels", True)
        targets = train.targets if needs_labels else None
        if targets is None and needs_labels and self.partition is not None:
            problem = f"{as_yaml(self.partition)} divides samples by their labels, and these samples have none"
            raise ConfigError("partition", problem, "give one label for each sample as targets, or take IID()")
        partition = self.partition or (IID() if targets is None else Dirichlet())
        labels = torch.zeros(len(train), dtype=torch.int64) if targets is None else LabelBins(targets)(targets)
        if targets is None and self.partition is None:
            rank_zero_info(f"{type(self).__name__}: the samples have no labels, so they are divided at random")
        try:
            parts = partition(labels, self.requested_clients, draws)
        except ConfigError as error:
            raise (error if error.key == "clients" else error.within("partition")) from error
        return checked_parts(parts, self.requested_clients, len(train))

    def divide_test(self, train_parts: list[Tensor]) -> list[Tensor]:
        """The test samples of each client: its own if it is a natural client, otherwise by its classes.

        Samples without labels are divided in proportion to the clients' numbers of training samples.
        """
        train, test = self.train, self.test
        if train.owners is None or test.owners is None or self.partition is not None:
            both = train.targets, test.targets
            if any(targets is None for targets in both):
                both = torch.zeros(len(train), dtype=torch.int64), torch.zeros(len(test), dtype=torch.int64)
            labels, test_labels = map(LabelBins(both[0]), both)
            return split_test_samples([labels[part] for part in train_parts], test_labels, generator(self.seed, "test"))
        order = test.owners.sort(stable=True)
        starts = [torch.searchsorted(order.values, train.owners[part[0]]).item() for part in train_parts]
        ends = [torch.searchsorted(order.values, train.owners[part[0]], right=True).item() for part in train_parts]
        return [order.indices[start:end] for start, end in zip(starts, ends, strict=True)]

    def __str__(self) -> str:
        """Clients and samples in one line; Lightning's own text supposes loaders of torch."""
        if self._train_parts is None:
            return f"{type(self).__name__}, not set up"
        return f"{type(self).__name__}: {sum(self.client_sizes)} training samples of {self.clients} clients"

    # FederatedData

    def to_(self, device: torch.device) -> None:
        """Move samples that are tensors to ``device``; others go there batch by batch."""

    @property
    def clients(self) -> int:
        """Number of clients N; call ``setup`` first."""
        return len(self.client_sizes)

    @property
    def client_sizes(self) -> list[int]:
        """Number of training samples n_i of each client; call ``setup`` first."""
        return [len(part) for part in self._divided()]

    def client_batches(self, client: int) -> Batches:
        """The training batches of a client."""
        return self.train_batches(self._divided()[client])

    def client_val_batches(self, client: int) -> Batches:
        """The batches on which a client is evaluated; they may be empty.

        With a validation split they are the client's validation samples. Without one they are its part of the test
        set: its own test samples if it is a natural client, otherwise samples of the classes on which it trains
        (``split_test_samples``).
        """
        parts = self._divided()
        if self.validation:
            return self.eval_batches(self.train, self._val_parts[client])
        if self._test_parts is None:
            self._test_parts = self.divide_test(parts)
        return self.eval_batches(self.test, self._test_parts[client])

    def train_dataloader(self) -> Shuffled:
        """The training samples of all clients together, for training without a federation."""
        batches = self.train_batches(torch.cat(self._divided()).sort().values)
        return Shuffled(batches, generator(self.seed, "train_dataloader"))

    def val_dataloader(self) -> Batches:
        """The validation samples of all clients; without a validation split the test set."""
        self._divided()
        if self._val is None:
            if self.validation:
                self._val = self.eval_batches(self.train, torch.cat(self._val_parts))
            else:
                self._val = self.eval_batches(self.test)
        return self._val

    def test_dataloader(self) -> Batches:
        """The test set; the validation samples if there is none."""
        return self.eval_batches(self.test) if self.validation and self.test is not None else self.val_dataloader()

    def _divided(self) -> list[Tensor]:
        assert self._train_parts is not None, "call setup() first"
        return self._train_parts
