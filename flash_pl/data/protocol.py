"""What the loops need of a data module, whatever its base class."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from flash_pl.data.batches import Batches
from flash_pl.errors import ConfigError


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
