"""The data of a federation: a training set divided over clients, and a test set at the server."""

from collections.abc import Sequence
from functools import cache
from typing import Protocol, TypedDict, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from flash_pl.checks import check_booleans, check_integers, check_numbers
from flash_pl.data.batches import Augment, Batches, Samples, Shuffled
from flash_pl.data.partition import Dirichlet, Partition, hold_out, split_test_samples
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.seeding import generator


class FederatedData(Protocol):
    """The interface between data and loops. Any object with these members can be used as data.

    ``FederatedDataModule`` implements it. The loops call ``prepare_data``, ``setup`` and ``to_`` in this order, then
    the other members any number of times.
    """

    def prepare_data(self) -> None:
        """Download missing files. Only one process calls it, so it must not set attributes."""
        ...

    def setup(self, stage: str) -> None:
        """Load the data and divide them over the clients; a second call changes nothing."""
        ...

    def to_(self, device: torch.device) -> None:
        """Move all samples to ``device``."""
        ...

    @property
    def clients(self) -> int:
        """Number of clients N."""
        ...

    @property
    def client_sizes(self) -> Sequence[int]:
        """Number of training samples n_i of each client, at least 1."""
        ...

    def client_batches(self, client: int) -> Batches:
        """The training batches of a client, 0 to N - 1."""
        ...

    def val_dataloader(self) -> Batches:
        """The batches on which the server is evaluated."""
        ...


@runtime_checkable
class ClientTestData(Protocol):
    """Federated data with test samples for each client. Only the evaluation of single clients needs them."""

    def client_val_batches(self, client: int) -> Batches:
        """The batches on which a client, 0 to N - 1, is evaluated; they may be empty."""
        ...


def check_federated(data: object) -> None:
    """Check that ``data`` has the methods of ``FederatedData``; a ``DataLoader``, for example, does not.

    Raises:
        ConfigError: names the first missing method.
    """
    for method in ("prepare_data", "setup", "to_", "client_batches", "val_dataloader"):
        if not callable(getattr(data, method, None)):
            problem = f"an object of class {type(data).__name__} is not federated data: it has no method {method}"
            raise ConfigError("data", problem, "wrap it, for example in flash_pl.data.TensorData(train, test)")


class FederatedKeywords(TypedDict, total=False):
    """The keyword arguments that every data set passes on to ``FederatedDataModule``."""

    clients: int | None
    partition: Partition | None
    batch_size: int
    eval_batch_size: int
    augment: Augment | None
    validation: float
    seed: int
    drop_last: bool


class FederatedDataModule(L.LightningDataModule):
    """A LightningDataModule with a training set that is divided over clients. A data set only implements ``load``.

    Without a validation split the server is evaluated on the test set. With one, the server is evaluated on the
    validation samples of all clients together and each client on its own; only ``test_dataloader`` reads the test set.

    A stock ``lightning.Trainer`` can use the module too: it trains on the samples of all clients.

    Args:
        clients: number of clients N; None for all natural clients (``Samples.owners``).
        partition: divides the training set over the clients. By default ``Dirichlet(1)``; samples with owners stay with
            their owners, of which ``clients`` are drawn.
        batch_size: samples per batch in the training of a client.
        eval_batch_size: samples per batch in evaluations.
        augment: augmentation of training batches, such as ``CropFlip()``. It gets the pixels of ``load``, uint8 scaled
            to [0, 1]; its result is normalized.
        validation: share of each client's training samples for validation, in [0, 1).
        seed: of the partition, the validation split and the test split.
        drop_last: leave out the last training batch of an epoch if it is smaller, as batch normalization may need. A
            client with fewer samples than ``batch_size`` keeps its only batch. Clients count by all their samples.

    Attributes:
        classes: number of classes; the subclass sets it.
        shape: of an image, (C, H, W); the subclass sets it.
        mean, std: of each channel, with pixels in [0, 1]; images are normalized to (x - mean) / std.

    >>> from flash_pl.data import IID
    >>> class Stripes(FederatedDataModule):
    ...     classes, shape = 2, (1, 4, 4)
    ...
    ...     def load(self):
    ...         labels = torch.arange(12) % 2
    ...         images = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    ...         return Samples(images[:8], labels[:8]), Samples(images[8:], labels[8:])
    >>> data = Stripes(clients=2, partition=IID(), batch_size=3)
    >>> data.setup()
    >>> data.client_sizes, data.val_dataloader().samples
    ([4, 4], 4)
    >>> [tuple(images.shape) for images, labels in data.client_batches(0)]
    [(3, 1, 4, 4), (1, 1, 4, 4)]

    Raises:
        ConfigError: an argument outside of its range, or, from ``setup``, one that does not fit the samples.
    """

    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __init__(
        self,
        clients: int | None = 100,
        partition: Partition | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 100,
        augment: Augment | None = None,
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
        self.batch_size, self.eval_batch_size, self.augment = batch_size, eval_batch_size, augment
        self.drop_last = drop_last
        self._train_parts: list[Tensor] | None = None  # sample indices of each client

    def load(self) -> tuple[Samples, Samples]:
        """Return the training and the test samples. A subclass must define this method."""
        raise TypeError(f"{type(self).__name__} must define load(self) -> (train, test)")

    def setup(self, stage: str | None = None) -> None:
        """Load the samples and divide them over the clients, at the first call only."""
        if self._train_parts is not None:
            return
        self.train, self.test = self.load()
        draws = generator(self.seed, "validation")
        train_parts, self._val_parts = hold_out(self._divide_train(self.train), self.validation, draws)
        if self.validation and not any(map(len, self._val_parts)):
            problem = f"{self.validation} leaves every client without validation samples"
            raise ConfigError("validation", problem, "give a larger share, or 0 for no validation split")
        self._val: Batches | None = None
        self._test_parts: list[Tensor] | None = None
        self._train_parts = train_parts  # last, so that a call after a failed one fails with the same sentence

    def _divide_train(self, train: Samples) -> list[Tensor]:
        """The training samples of each client: of a partition, or of natural clients."""
        draws = generator(self.seed, "partition")
        if train.owners is None or self.partition is not None:
            return self._partition(train, draws)
        owners, order = train.owners.sort(stable=True)
        parts = order.split(owners.unique_consecutive(return_counts=True)[1].tolist())
        clients = len(parts) if self.requested_clients is None else self.requested_clients
        if clients > len(parts):
            raise ConfigError("clients", f"{clients} is more than the {len(parts)} natural clients of these samples")
        return [parts[i] for i in torch.randperm(len(parts), generator=draws)[:clients].tolist()]

    def _partition(self, train: Samples, draws: torch.Generator) -> list[Tensor]:
        if self.requested_clients is None and train.owners is None:
            raise ConfigError("clients", "null means all natural clients, but these samples have none", "give a number")
        if self.requested_clients is None:
            problem = "null means all natural clients, but a partition replaces them"
            raise ConfigError("clients", problem, "give a number, or set partition=null")
        try:
            return (self.partition or Dirichlet())(train.labels, self.requested_clients, draws)
        except ConfigError as error:
            raise (error if error.key == "clients" else error.within("partition")) from error

    def _divide_test(self, train_parts: list[Tensor]) -> list[Tensor]:
        """The test samples of each client: its own if it is a natural client, otherwise by its classes."""
        train, test = self.train, self.test
        if train.owners is None or test.owners is None or self.partition is not None:
            labels = train.labels.cpu()
            draws = generator(self.seed, "test")
            return split_test_samples([labels[part] for part in train_parts], test.labels.cpu(), draws)
        order = test.owners.sort(stable=True)
        starts = [torch.searchsorted(order.values, train.owners[part[0]]).item() for part in train_parts]
        ends = [torch.searchsorted(order.values, train.owners[part[0]], right=True).item() for part in train_parts]
        return [order.indices[start:end] for start, end in zip(starts, ends, strict=True)]

    def to_(self, device: torch.device) -> None:
        """Move all samples to ``device``."""
        self.train, self.test, self._val = self.train.to(device), self.test.to(device), None

    @property
    def clients(self) -> int:
        """Number of clients N; call ``setup`` first."""
        return len(self.client_sizes)

    @property
    def client_sizes(self) -> list[int]:
        """Number of training samples n_i of each client; call ``setup`` first."""
        assert self._train_parts is not None, "call setup() first"
        return [len(part) for part in self._train_parts]

    def client_batches(self, client: int) -> Batches:
        """The normalized training batches of a client."""
        assert self._train_parts is not None, "call setup() first"
        return self._train_batches(self._train_parts[client])

    def client_val_batches(self, client: int) -> Batches:
        """The batches on which a client is evaluated; they may be empty.

        With a validation split they are the client's validation samples. Without one they are its part of the test
        set: its own test samples if it is a natural client, otherwise samples of the classes on which it trains
        (``split_test_samples``).
        """
        assert self._train_parts is not None, "call setup() first"
        if self.validation:
            return self._eval_batches(self.train, self._val_parts[client])
        if self._test_parts is None:
            self._test_parts = self._divide_test(self._train_parts)
        return self._eval_batches(self.test, self._test_parts[client])

    def train_dataloader(self) -> Shuffled:
        """The training samples of all clients together, for training without a federation."""
        assert self._train_parts is not None, "call setup() first"
        batches = self._train_batches(torch.cat(self._train_parts).sort().values)
        return Shuffled(batches, generator(self.seed, "train_dataloader"))

    def val_dataloader(self) -> Batches:
        """The validation samples of all clients; without a validation split the test set."""
        if self._val is None:
            if self.validation:
                self._val = self._eval_batches(self.train, torch.cat(self._val_parts))
            else:
                self._val = self._eval_batches(self.test, slice(None))
        return self._val

    def test_dataloader(self) -> Batches:
        """The test set."""
        return self._eval_batches(self.test, slice(None)) if self.validation else self.val_dataloader()

    def _train_batches(self, index: Tensor) -> Batches:
        index = index.to(self.train.images.device)
        images, labels = self.train.images[index], self.train.labels[index]
        if self.augment is None:  # then every image is normalized once instead of in every epoch
            return Batches(self.normalize(images), labels, self.batch_size, drop_last=self.drop_last)
        return Batches(_as_floats(images), labels, self.batch_size, self.augment, self.normalize, self.drop_last)

    def _eval_batches(self, samples: Samples, index: Tensor | slice) -> Batches:
        index = index if isinstance(index, slice) else index.to(samples.images.device)
        return Batches(self.normalize(samples.images[index]), samples.labels[index], self.eval_batch_size)

    def normalize(self, images: Tensor) -> Tensor:
        """Return (x - mean) / std per channel in float32; uint8 images are scaled to [0, 1] first."""
        mean, std = (_channels(tuple(map(float, values)), images.device) for values in (self.mean, self.std))
        return (_as_floats(images) - mean) / std


def _as_floats(images: Tensor) -> Tensor:
    """Images for the augmentation: uint8 in [0, 255] becomes float32 in [0, 1]."""
    if not images.is_floating_point():
        return images.float() / 255
    return images.float() if images.dtype == torch.float64 else images  # numpy's default, which no network takes


@cache  # a batch would wait for the copy to a GPU
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number per channel, float32 ``[C, 1, 1]``."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
