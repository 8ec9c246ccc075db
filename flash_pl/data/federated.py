"""The data of a federation: one training set dealt out to clients, one test set at the server."""

from collections.abc import Sequence
from typing import Protocol, TypedDict, runtime_checkable

import lightning as L
import torch
from torch import Tensor

from flash_pl.checks import check_integers, check_numbers
from flash_pl.data.batches import Augment, Batches, Samples, Shuffled
from flash_pl.data.partition import Dirichlet, Partition, hold_out
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator


class FederatedData(Protocol):
    """Federated data. ``FederatedDataModule`` is one; any class with these members serves as well.

    Calls come in this order: ``prepare_data``, ``setup``, ``to_``, then the others any number of times.
    """

    def prepare_data(self) -> None:
        """Download what is missing. Must not set attributes: only one process calls it."""
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
        """Number of training samples n_i of every client, at least 1."""
        ...

    def client_batches(self, client: int) -> Batches:
        """The training batches of client 0..N-1."""
        ...

    def val_dataloader(self) -> Batches:
        """The batches on which the server is evaluated."""
        ...


def check_federated(data: object) -> None:
    """Refuse what has not the methods of ``FederatedData``, such as a ``DataLoader``.

    Raises:
        ConfigError: it names the first that is missing.
    """
    for method in ("prepare_data", "setup", "to_", "client_batches", "val_dataloader"):
        if not callable(getattr(data, method, None)):
            allowed = "federated data, such as flash_pl.data.TensorData(train, test, clients=...)"
            raise ConfigError("data", type(data).__name__, f"{allowed}; it has no {method}")


@runtime_checkable
class ClientTestData(Protocol):
    """Federated data that also know test samples of every client; needed only to evaluate clients one by one."""

    def client_val_batches(self, client: int) -> Batches:
        """The batches on which client 0..N-1 is evaluated; ``samples`` may be 0."""
        ...


class FederatedKeywords(TypedDict, total=False):
    """The keywords that every shipped data set takes besides its own."""

    clients: int | None
    partition: Partition | None
    batch_size: int
    eval_batch_size: int
    augment: Augment | None
    validation: float
    seed: int


class FederatedDataModule(L.LightningDataModule):
    """A LightningDataModule whose training set belongs to clients. A data set implements ``load`` only.

    Args:
        clients: number of clients N; None for all natural owners of the samples, where they have some.
        partition: how the training set is dealt out; None for Dirichlet(1), or for the natural owners, of whom
            ``clients`` are drawn.
        batch_size: of a client's training.
        eval_batch_size: of an evaluation.
        augment: of training batches.
        validation: the share of every client's training samples that is held out. If it is not 0 the server and the
            clients are evaluated on those, and only ``test_dataloader`` reads the test set.
        seed: of the partition and of what is held out.
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
    ) -> None:
        super().__init__()
        check_integers(optional=True, clients=clients)
        check_integers(batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_numbers(validation=validation)
        if partition is not None and not callable(partition):
            raise ConfigError("partition", partition, "a partition, such as Dirichlet(0.1) or IID(), or None")
        if not 0 <= validation < 1:
            raise ConfigError("validation", validation, "a share in [0, 1)")
        self.wanted, self.partition, self.validation, self.seed = clients, partition, validation, seed
        self.batch_size, self.eval_batch_size, self.augment = batch_size, eval_batch_size, augment
        self._parts: list[Tensor] | None = None

    def load(self) -> tuple[Samples, Samples]:
        """Training and test samples."""
        raise TypeError(f"{type(self).__name__} must define load(self) -> (train, test)")

    def setup(self, stage: str | None = None) -> None:
        """Load the samples and deal them out, the first time."""
        if self._parts is not None:
            return
        self.train, self.test = self.load()
        draws = generator(self.seed, "validation")
        self._parts, self._held = hold_out(self._deal(self.train), self.validation, draws)
        if self.validation and not any(map(len, self._held)):
            raise ConfigError("validation", self.validation, "a share that holds out at least one sample")
        self._val: Batches | None = None
        self._test_parts: list[Tensor] | None = None

    def _deal(self, train: Samples) -> list[Tensor]:
        draws = generator(self.seed, "partition")
        if train.owners is None or self.partition is not None:
            if self.wanted is None:
                natural = "these samples have no" if train.owners is None else "or partition=null for the"
                raise ConfigError("clients", None, f"an integer, {natural} natural clients")
            try:
                return (self.partition or Dirichlet())(train.labels, self.wanted, draws)
            except ConfigError as error:
                raise (error if error.key == "clients" else error.within("partition")) from error
        owners, order = train.owners.sort(stable=True)
        parts = order.split(owners.unique_consecutive(return_counts=True)[1].tolist())
        wanted = len(parts) if self.wanted is None else self.wanted
        if wanted > len(parts):
            raise ConfigError("clients", wanted, f"at most the {len(parts)} natural clients of these samples")
        return [parts[i] for i in torch.randperm(len(parts), generator=draws)[:wanted].tolist()]

    def _deal_test(self, parts: list[Tensor]) -> list[Tensor]:
        train, test = self.train, self.test
        if train.owners is None or test.owners is None or self.partition is not None:
            labels = train.labels.cpu()
            return deal_alike([labels[part] for part in parts], test.labels.cpu(), generator(self.seed, "test"))
        order = test.owners.sort(stable=True)
        starts = [torch.searchsorted(order.values, train.owners[part[0]]).item() for part in parts]
        ends = [torch.searchsorted(order.values, train.owners[part[0]], right=True).item() for part in parts]
        return [order.indices[start:end] for start, end in zip(starts, ends, strict=True)]

    @property
    def clients(self) -> int:
        """Number of clients N; call ``setup`` first."""
        return len(self.client_sizes)

    def to_(self, device: torch.device) -> None:
        """Keep the samples on ``device`` from now on."""
        self.train, self.test, self._val = self.train.to(device), self.test.to(device), None

    @property
    def client_sizes(self) -> list[int]:
        """Training samples n_i of every client."""
        assert self._parts is not None, "call setup() first"
        return [len(part) for part in self._parts]

    def client_batches(self, client: int) -> Batches:
        """The training batches of one client, normalized once."""
        assert self._parts is not None, "call setup() first"
        index = self._parts[client].to(self.train.images.device)
        images, labels = self.train.images[index], self.train.labels[index]
        return Batches(self.normalize(images), labels, self.batch_size, self.augment)

    def client_val_batches(self, client: int) -> Batches:
        """What one client is evaluated on: what it holds out, if there is a validation split. Else it is a part of the
        test set, its owner's where samples have owners or one with the classes on which the client trains,
        ``deal_alike``. It can be empty."""
        assert self._parts is not None, "call setup() first"
        if self.validation:
            return self._evaluated(self.train, self._held[client])
        if self._test_parts is None:
            self._test_parts = self._deal_test(self._parts)
        return self._evaluated(self.test, self._test_parts[client])

    def normalize(self, images: Tensor) -> Tensor:
        """(x - mean) / std per channel; whole numbers are first scaled to [0, 1], double precision becomes single."""
        if not images.is_floating_point():
            images = images.float() / 255
        elif images.dtype == torch.float64:  # what numpy makes of numbers, and no network takes
            images = images.float()
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def train_dataloader(self) -> Shuffled:
        """All clients' training samples together, for training without a federation."""
        assert self._parts is not None, "call setup() first"
        index = torch.cat(self._parts).sort().values.to(self.train.images.device)
        images, labels = self.train.images[index], self.train.labels[index]
        batches = Batches(self.normalize(images), labels, self.batch_size, self.augment)
        return Shuffled(batches, generator(self.seed, "train_dataloader"))

    def val_dataloader(self) -> Batches:
        """What all clients hold out; without a validation split the test set, the server has no other data."""
        if self._val is None:
            held = (self.train, torch.cat(self._held)) if self.validation else (self.test, slice(None))
            self._val = self._evaluated(*held)
        return self._val

    def test_dataloader(self) -> Batches:
        """The test set."""
        return self._evaluated(self.test, slice(None)) if self.validation else self.val_dataloader()

    def _evaluated(self, samples: Samples, index: Tensor | slice) -> Batches:
        index = index if isinstance(index, slice) else index.to(samples.images.device)
        return Batches(self.normalize(samples.images[index]), samples.labels[index], self.eval_batch_size)


def deal_alike(train: Sequence[Tensor], test: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Deal test samples out in the proportions in which the clients hold the classes.

    Of every class a client gets the share of the test samples that it has of the training samples, rounded to whole
    samples; a class that nobody trains on is left out. With few test samples some clients get none.

    Args:
        train: each client's training labels, int64.
        test: test labels, int64 ``[n]``.
        generator: draws which samples a client gets.

    Returns:
        Indices into ``test`` for each client; every sample of a class that is trained on belongs to exactly one.
    """
    classes = 1 + max(int(labels.max()) for labels in (*train, test) if len(labels))
    held = torch.stack([labels.bincount(minlength=classes) for labels in train]).double()
    order = torch.randperm(len(test), generator=generator)
    dealt: list[list[Tensor]] = [[] for _ in train]
    for label in range(classes):
        if held[:, label].sum() > 0:
            pool = order[test[order] == label]
            cuts = (held[:, label].cumsum(0) / held[:, label].sum() * len(pool)).round().long()
            for parts, part in zip(dealt, pool.tensor_split(cuts[:-1]), strict=True):
                parts.append(part)
    return [torch.cat(parts) for parts in dealt]
