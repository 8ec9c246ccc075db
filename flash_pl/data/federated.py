"""The interface between the data of a federation and the loops."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from flash_pl.data.batches import Batches, check_batches
from flash_pl.errors import ConfigError


class FederatedData(Protocol):
    """The interface between data and loops. Any object with these members can be used as data.

    ``FederatedDataModule`` implements it. The loops call ``prepare_data``, ``setup`` and ``to_`` in this order, then
    the other members any number of times.

    >>> from flash_pl.data import IID, Synthetic
    >>> data = Synthetic(samples=200, test_samples=40, clients=20, partition=IID(), batch_size=4)
    >>> data.setup("fit")
    >>> data.clients, len(data.client_batches(0))  # 10 samples
    (20, 3)
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
        ConfigError: names the first missing method, and the class that makes federated data of such an object.
    """
    for method in ("prepare_data", "setup", "to_", "client_batches", "val_dataloader"):
        if not callable(getattr(data, method, None)):
            problem = f"an object of class {type(data).__name__} is not federated data: it has no method {method}"
            raise ConfigError("data", problem, f"use flash_pl.data.{_remedy(data)}")


def _remedy(data: object) -> str:
    if isinstance(data, Dataset | DataLoader):
        return "PartitionedDataset(data, test, clients=...), which divides it over clients"
    if isinstance(data, list | tuple) and data and isinstance(data[0], Dataset | DataLoader):
        return "ClientDatasets(data, test), with one dataset or loader for each client"
    return "TensorData(train, test) for tensors, PartitionedDataset or ClientDatasets for torch's datasets"


@contextmanager
def torn_down(data: object) -> Iterator[None]:
    """Call Lightning's hook ``teardown`` at the end of the block, if the data have it: worker processes end there."""
    try:
        yield
    finally:
        if callable(teardown := getattr(data, "teardown", None)):
            teardown("fit")


def check_client_batches(data: FederatedData) -> None:
    """Check the numbers of samples and the source of the first client's batches.

    Raises:
        ConfigError: other numbers of samples than clients; a source without a member of ``Batches``.
    """
    name, sizes = type(data).__name__, data.client_sizes
    if len(sizes) != data.clients:
        raise ConfigError("data", f"{name}.client_sizes has {len(sizes)} numbers for {data.clients} clients")
    check_batches(data.client_batches(0), f"{name}.client_batches")
