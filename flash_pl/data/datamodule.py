"""A LightningDataModule of the user as federated data."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import Unpack

from flash_pl.data.batches import Batches
from flash_pl.data.dataset_module import Collate, DatasetModule, LoadedBy
from flash_pl.data.labels import Source
from flash_pl.data.partitioned import PartitionKeywords
from flash_pl.data.reader import DatasetBatches
from flash_pl.errors import ConfigError, as_yaml


class PartitionedDataModule(DatasetModule):
    """The training set of a LightningDataModule, divided over clients.

    The dataset of its ``train_dataloader`` is divided. The server is evaluated on the samples of its
    ``val_dataloader``; a module without one uses its ``test_dataloader``. Batch sizes, collate functions and workers
    are those of the loaders. ``FederatedTrainer.fit(module, datamodule=...)`` makes a ``PartitionedDataModule`` with
    the defaults.

    Args:
        datamodule: any LightningDataModule whose loaders are ``DataLoader`` objects.
        targets, owners: see ``PartitionedDataset``.
        collate_fn, workers: in place of those of the loaders.
        **keywords: see ``PartitionedData``; with ``validation`` the module's own validation set is not used.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Points(L.LightningDataModule):
    ...     def train_dataloader(self):
    ...         return DataLoader(TensorDataset(torch.rand(40, 3), torch.arange(40) % 4), batch_size=4)
    ...
    ...     def val_dataloader(self):
    ...         return DataLoader(TensorDataset(torch.rand(8, 3), torch.arange(8) % 4), batch_size=8)
    >>> data = PartitionedDataModule(Points(), clients=5)
    >>> data.setup()
    >>> print(data)
    PartitionedDataModule: 40 training samples of 5 clients
    >>> data.client_sizes, len(data.client_batches(0)), data.val_dataloader().samples
    ([8, 8, 8, 8, 8], 2, 8)

    Raises:
        ConfigError: no LightningDataModule, or, from ``setup``, loaders that cannot be divided.
    """

    def __init__(
        self,
        datamodule: L.LightningDataModule,
        *,
        targets: Source = None,
        owners: Source = None,
        collate_fn: Collate | None = None,
        workers: int | None = None,
        **keywords: Unpack[PartitionKeywords],
    ) -> None:
        super().__init__(targets=targets, owners=owners, collate_fn=collate_fn, workers=workers, **keywords)
        if not isinstance(datamodule, L.LightningDataModule):
            raise ConfigError("datamodule", f"{as_yaml(datamodule)} is not a LightningDataModule")
        self.datamodule = datamodule

    def prepare_data(self) -> None:
        """Call the module's own hook."""
        self.datamodule.prepare_data()

    def sources(self) -> tuple[LoadedBy, LoadedBy | None]:
        """See ``DatasetModule``."""
        module = self.datamodule
        module.setup("fit")
        train, test = LoadedBy.of("train_dataloader", module.train_dataloader()), None
        if self._defines("val_dataloader"):
            test = LoadedBy.of("val_dataloader", module.val_dataloader())
        elif self._defines("test_dataloader"):
            test = self._test_loader()
        return train, test

    def test_dataloader(self) -> Batches:
        """The module's own test set; without one as in ``PartitionedData``."""
        if not self._defines("test_dataloader"):
            return super().test_dataloader()
        test = self._test_loader()
        size = test.batch_size or self.eval_batch_size
        return DatasetBatches(self.reader(test), torch.arange(len(test.dataset)), size)

    @property
    def classes(self) -> int:
        """``num_classes`` or ``classes`` of the module; otherwise as its dataset says after ``setup``."""
        for name in ("num_classes", "classes"):
            if isinstance(number := getattr(self.datamodule, name, None), int):
                return number
        self._require_setup()
        return super().classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an input, after ``setup``."""
        self._require_setup()
        return super().shape

    def _require_setup(self) -> None:
        if self._samples is None:
            raise AttributeError("the datasets of a LightningDataModule are known after setup")

    def teardown(self, stage: str) -> None:
        """End the worker processes, and call the module's own hook."""
        super().teardown(stage)
        self.datamodule.teardown(stage)

    def _defines(self, name: str) -> bool:
        return is_overridden(name, self.datamodule, parent=L.LightningDataModule)

    def _test_loader(self) -> LoadedBy:
        self.datamodule.setup("test")
        return LoadedBy.of("test_dataloader", self.datamodule.test_dataloader())


def as_federated(data: Any, datamodule: Any = None) -> Any:
    """The data of a run, from the arguments ``data`` and ``datamodule`` of ``FederatedTrainer.fit``.

    A LightningDataModule that is not divided over clients becomes a ``PartitionedDataModule`` with its defaults.

    Raises:
        ConfigError: both or none of the arguments.
    """
    if (data is None) == (datamodule is None):
        problem = "both data and datamodule are given" if data is not None else "no data are given"
        raise ConfigError("data", problem, "write fit(module, data) or fit(module, datamodule=...)")
    data = datamodule if data is None else data
    is_divided = callable(getattr(data, "client_batches", None))
    return PartitionedDataModule(data) if isinstance(data, L.LightningDataModule) and not is_divided else data
