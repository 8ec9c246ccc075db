"""How map-style datasets of torch become federated data: their samples, loaders and labels."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from typing_extensions import Unpack

from flash_pl.checks import check_integers
from flash_pl.data.labels import Numbering, Source, as_targets, read_labels
from flash_pl.data.partitioned import PartitionedData, PartitionKeywords
from flash_pl.data.reader import DatasetBatches, Reader
from flash_pl.errors import ConfigError, as_yaml

Collate = Callable[[list[Any]], Any]


class MapDataset(Protocol):
    """A map-style dataset: samples by their index. torch's ``Dataset`` is one, and so is a list."""

    def __len__(self) -> int:
        """Number of samples n."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """The sample ``index``, 0 to n - 1."""
        ...


class DatasetSamples:
    """The samples of a map-style dataset, as ``PartitionedData`` divides them. Labels are read when they are needed.

    Args:
        dataset: map-style.
        reader: reads batches of it.
        targets, owners: where the label and the owner of each sample are, see ``read_labels``; None for no owners.
        like: the training samples, whose numbers these samples use for equal labels and owners.
    """

    def __init__(
        self, dataset: Any, reader: Reader, targets: Source, owners: Source, like: "DatasetSamples | None" = None
    ) -> None:
        self.dataset, self.reader, self._sources, self.like = dataset, reader, (targets, owners), like

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def _labels(self) -> list[Any] | None:
        return read_labels("targets", self.dataset, self._sources[0])

    @cached_property
    def _label_numbers(self) -> Numbering:
        return Numbering(self._labels or ())

    @cached_property
    def _owner_values(self) -> list[Any] | None:
        return None if self._sources[1] is None else read_labels("owners", self.dataset, self._sources[1])

    @cached_property
    def _owner_numbers(self) -> Numbering:
        return Numbering(self._owner_values or ())

    @cached_property
    def targets(self) -> Tensor | None:
        """See ``SampleSet``."""
        return as_targets(self._labels, (self.like or self)._label_numbers)

    @cached_property
    def owners(self) -> Tensor | None:
        """See ``SampleSet``."""
        values = self._owner_values
        return None if values is None else (self.like or self)._owner_numbers(values)


@dataclass(frozen=True)
class LoadedBy:
    """A map-style dataset and how its owner loads it; None for what only a ``DataLoader`` says."""

    dataset: Any
    collate_fn: Collate | None = None
    batch_size: int | None = None
    drop_last: bool = False
    workers: int | None = None
    worker_init_fn: Callable[[int], None] | None = None

    @classmethod
    def of(cls, key: str, value: Any) -> "LoadedBy":
        """What a dataset or a ``DataLoader`` says.

        Raises:
            ConfigError: neither a map-style dataset nor a loader of one; or the loader chooses its samples by a sampler
                of its own, which a client would not use.
        """
        loader = value if isinstance(value, DataLoader) else None
        dataset = value if loader is None else loader.dataset
        several = isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], DataLoader)
        is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if several or isinstance(dataset, IterableDataset) or not is_map:
            problem = f"{as_yaml(dataset)} is not a map-style dataset"
            raise ConfigError(key, problem, "give an object with __getitem__ and __len__, as torch's Dataset has")
        if loader is None:
            return cls(dataset)
        sampler = loader.sampler
        plain = type(sampler) in (RandomSampler, SequentialSampler) and len(sampler) == len(dataset)  # type: ignore[arg-type]
        if not plain or getattr(sampler, "replacement", False) or loader.batch_size is None:
            problem = "the DataLoader has a sampler of its own, which clients would not use"
            raise ConfigError(key, problem, "give the dataset, or a DataLoader with batch_size and shuffle alone")
        batching = loader.collate_fn, loader.batch_size, loader.drop_last
        return cls(dataset, *batching, loader.num_workers, loader.worker_init_fn)

    @classmethod
    def joined(cls, key: str, values: Any) -> "tuple[LoadedBy, list[int]]":
        """One dataset of those of all clients, and the number of samples of each.

        Raises:
            ConfigError: no list of datasets or loaders, or loaders that differ in more than their datasets.
        """
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(key, f"{as_yaml(values)} is not a list with a dataset for each client")
        parts = [cls.of(f"{key}[{client}]", value) for client, value in enumerate(values)]
        for client, part in enumerate(parts):
            for name in ("collate_fn", "batch_size", "drop_last"):
                if getattr(part, name) != getattr(parts[0], name):
                    problem = f"the loaders of clients 0 and {client} differ in their {name}"
                    raise ConfigError(key, problem, f"give them the same, or datasets and {name}=")
        return replace(parts[0], dataset=ConcatDataset([part.dataset for part in parts])), [
            len(part.dataset) for part in parts
        ]


class DatasetModule(PartitionedData):
    """Federated data that are read sample by sample from map-style datasets. A subclass says from which (``sources``).

    Args:
        targets, owners, collate_fn, workers: as in ``PartitionedDataset``.
        **keywords: see ``PartitionedData``.
    """

    train: DatasetSamples
    test: DatasetSamples | None

    def __init__(
        self,
        *,
        targets: Source = None,
        owners: Source = None,
        collate_fn: Collate | None = None,
        workers: int | None = None,
        **keywords: Unpack[PartitionKeywords],
    ) -> None:
        super().__init__(**keywords)
        check_integers(0, optional=True, workers=workers)
        if collate_fn is not None and not callable(collate_fn):
            raise ConfigError("collate_fn", f"{as_yaml(collate_fn)} is not a function of a list of samples")
        self.targets, self.owners, self.collate_fn, self.workers = targets, owners, collate_fn, workers
        self._given = frozenset(keywords)
        self._samples: tuple[DatasetSamples, DatasetSamples | None] | None = None

    @abstractmethod
    def sources(self) -> tuple[LoadedBy, LoadedBy | None]:
        """The training and the test dataset; None for no test samples."""

    def load(self) -> tuple[DatasetSamples, DatasetSamples | None]:
        """Return the samples of ``sources``; what only a loader says holds where no argument says otherwise."""
        if self._samples is None:
            self._samples = self._load()
        return self._samples

    def _load(self) -> tuple[DatasetSamples, DatasetSamples | None]:
        train, test = self.sources()
        if "batch_size" not in self._given:
            self.batch_size = train.batch_size or self.batch_size
        if "eval_batch_size" not in self._given:
            self.eval_batch_size = (test and test.batch_size) or self.eval_batch_size
        if "drop_last" not in self._given:
            self.drop_last = train.drop_last
        samples = DatasetSamples(train.dataset, self.reader(train), self.targets, self.owners)
        if test is None:
            return samples, None
        # Values that the user gives for each training sample say nothing about the test samples.
        targets, owners = (
            source if isinstance(source, str) or callable(source) else None for source in (self.targets, self.owners)
        )
        return samples, DatasetSamples(test.dataset, self.reader(test), targets, owners, like=samples)

    def reader(self, source: LoadedBy) -> Reader:
        """Reads batches of a dataset, by the arguments or as its loader would."""
        workers = (source.workers or 0) if self.workers is None else self.workers
        return Reader(source.dataset, self.collate_fn or source.collate_fn, workers, source.worker_init_fn)

    def train_batches(self, index: Tensor) -> DatasetBatches:
        """See ``PartitionedData``."""
        return DatasetBatches(self.train.reader, index, self.batch_size, self.drop_last)

    def eval_batches(self, samples: DatasetSamples, index: Tensor | None = None) -> DatasetBatches:
        """See ``PartitionedData``."""
        index = torch.arange(len(samples)) if index is None else index
        return DatasetBatches(samples.reader, index, self.eval_batch_size)

    @property
    def classes(self) -> int:
        """Number of classes: the largest label of a sample, plus 1, if labels are integers."""
        targets = [samples.targets for samples in self.load() if samples is not None and len(samples)]
        known = [labels for labels in targets if labels is not None]
        if not known or any(labels.is_floating_point() for labels in known):
            raise AttributeError("these samples have no classes")
        return 1 + max(int(labels.max()) for labels in known)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an input: of the first part of a sample, if it is a tensor."""
        sample = self.load()[0].dataset[0]
        if not isinstance(sample, tuple | list) or not isinstance(sample[0], Tensor):
            raise AttributeError("the first part of a sample is not a tensor")
        return tuple(sample[0].shape)

    def teardown(self, stage: str) -> None:
        """End the worker processes."""
        for samples in self._samples or ():
            if samples is not None:
                samples.reader.close()
