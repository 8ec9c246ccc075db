"""Map-style datasets of torch as federated data: one that is divided over clients, or one for each client."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import Unpack

from flash_pl.data.dataset_module import Collate, DatasetModule, LoadedBy, MapDataset
from flash_pl.data.labels import Source
from flash_pl.data.partitioned import PartitionKeywords
from flash_pl.errors import ConfigError


class PartitionedDataset(DatasetModule):
    """A torch dataset that is divided over clients: torchvision's, an ``ImageFolder``, one of Hugging Face, your own.

    Batches have the structure that ``collate_fn`` gives them; the module's ``training_step`` gets them on its device.

    Args:
        dataset: the training samples: a map-style dataset, or a ``DataLoader`` of one.
        test: the same for the samples on which the server is evaluated; None if ``validation`` gives some.
        targets: one label for each sample, by which the partition divides the samples: the name of an attribute, of a
            column or of an entry of each sample, a function of a sample, or the labels. None looks for usual names
            (targets, labels, label, target, y), then at the second part of each sample. Numbers that are not integers
            are put into bins.
        owners: the natural client of each sample, such as an author, in the same forms; None for none.
        collate_fn: makes a batch of a list of samples; by default torch's ``default_collate``.
        workers: processes that read samples ahead while clients train; worth it if samples are read from files. By
            default those of a ``DataLoader``, otherwise 0. Results are the same for any number.
        **keywords: see ``PartitionedData``: clients, partition, batch_size, eval_batch_size, validation, seed,
            drop_last.

    >>> from torch.utils.data import TensorDataset
    >>> dataset = TensorDataset(torch.rand(80, 3), torch.arange(80) % 4)
    >>> data = PartitionedDataset(dataset, clients=5, validation=0.25)
    >>> data.setup()
    >>> data.client_sizes, data.classes
    ([12, 12, 12, 12, 12], 4)

    Samples with an author, who is their client:

    >>> lines = [{"text": text, "author": text[0]} for text in ("to be", "call me", "that is")]
    >>> data = PartitionedDataset(lines, lines, owners="author", clients=None, batch_size=2)
    >>> data.setup()
    >>> sorted(batch["text"] for client in range(data.clients) for batch in data.client_batches(client))
    [['call me'], ['to be', 'that is']]

    Raises:
        ConfigError: no map-style dataset, or an argument that ``PartitionedData`` refuses.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | MapDataset | DataLoader[Any],
        test: Dataset[Any] | MapDataset | DataLoader[Any] | None = None,
        *,
        targets: Source = None,
        owners: Source = None,
        collate_fn: Collate | None = None,
        workers: int | None = None,
        **keywords: Unpack[PartitionKeywords],
    ) -> None:
        super().__init__(targets=targets, owners=owners, collate_fn=collate_fn, workers=workers, **keywords)
        self._loaded = LoadedBy.of("dataset", dataset), None if test is None else LoadedBy.of("test", test)

    def sources(self) -> tuple[LoadedBy, LoadedBy | None]:
        """See ``DatasetModule``."""
        return self._loaded


class ClientDatasets(DatasetModule):
    """One dataset, or one ``DataLoader``, for each client.

    Args:
        trains: the training samples of each client, in the order of the clients.
        tests: the test samples of each client, on all of which the server is evaluated; or one dataset for the server.
            None if ``validation`` gives some.
        collate_fn, workers: see ``PartitionedDataset``; all clients have the same.
        **keywords: see ``PartitionedData``, without clients and partition.

    >>> from torch.utils.data import TensorDataset
    >>> trains = [TensorDataset(torch.rand(n, 3), torch.zeros(n)) for n in (4, 8)]
    >>> data = ClientDatasets(trains, trains[0])
    >>> data.setup()
    >>> data.client_sizes, data.val_dataloader().samples
    ([4, 8], 4)

    Raises:
        ConfigError: a client without samples, datasets that cannot be joined, or an argument that ``PartitionedData``
            refuses.
    """

    def __init__(
        self,
        trains: Sequence[Dataset[Any] | MapDataset | DataLoader[Any]],
        tests: Any = None,
        *,
        collate_fn: Collate | None = None,
        workers: int | None = None,
        **keywords: Unpack[PartitionKeywords],
    ) -> None:
        for name in ("clients", "partition", "owners"):
            if name in keywords:
                raise ConfigError(name, "each client has its own dataset already", "leave it out")
        super().__init__(collate_fn=collate_fn, workers=workers, **keywords)
        train, self._sizes = LoadedBy.joined("trains", trains)
        if empty := [client for client, size in enumerate(self._sizes) if not size]:
            raise ConfigError("trains", f"client {empty[0]} has no training samples", "leave such clients out")
        self._test_sizes: list[int] | None = None
        test: LoadedBy | None = None
        if isinstance(tests, list | tuple):
            if len(tests) != len(trains):
                raise ConfigError("tests", f"{len(tests)} test sets for {len(trains)} clients", "give one for each")
            test, self._test_sizes = LoadedBy.joined("tests", tests)
        elif tests is not None:
            test = LoadedBy.of("tests", tests)
        self._loaded = train, test

    def sources(self) -> tuple[LoadedBy, LoadedBy | None]:
        """See ``DatasetModule``."""
        return self._loaded

    def divide_train(self, train: Any) -> list[Tensor]:
        """The samples of each client are those of its dataset."""
        return list(torch.arange(len(train)).split(self._sizes))

    def divide_test(self, train_parts: list[Tensor]) -> list[Tensor]:
        """The test samples of each client are those of its own test set, if there is one for each."""
        if self._test_sizes is None:
            return super().divide_test(train_parts)
        return list(torch.arange(sum(self._test_sizes)).split(self._test_sizes))
