"""Labels and owners of a dataset's samples: from an attribute, a column, or one pass over the samples."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from flash_pl.errors import ConfigError, SampleError, as_yaml

LABEL_NAMES = ("targets", "labels", "label", "target", "y")  # of columns, and of entries of a sample
ATTRIBUTES = ("targets", "labels")  # of a dataset
Source = str | Callable[[Any], Any] | Sequence | np.ndarray | Tensor | None


def read_labels(key: str, dataset: Any, source: Source = None) -> list[Any] | None:
    """Return one value for each sample of a dataset, or None if its samples have no known label.

    Args:
        key: names the setting in errors.
        dataset: map-style.
        source: where the values are: the name of an attribute, of a column or of an entry of each sample; a function of
            a sample; the values themselves. None looks for an attribute, a column or an entry with a usual name
            (``LABEL_NAMES``), then takes the second part of a sample that is a tuple.

    >>> read_labels("targets", [("cat.png", 0), ("dog.png", 1)])
    [0, 1]
    >>> read_labels("owners", [{"text": "to be", "author": "S"}, {"text": "call me", "author": "M"}], "author")
    ['S', 'M']

    Raises:
        ConfigError: ``source`` is a name that the dataset and its samples lack, or has another number of values.
    """
    if isinstance(source, str) or source is None:
        values = _column(dataset, LABEL_NAMES if source is None else (source,))
        if values is None:
            values = _one_pass(key, dataset, source)
    elif callable(source):
        values = [source(read_sample(dataset, i)) for i in range(len(dataset))]
    else:
        values = source
    if values is None:
        return None
    if not isinstance(values, Collection) or len(values) != len(dataset):
        count = f"{len(values)} values" if isinstance(values, Collection) else as_yaml(values)
        raise ConfigError(key, f"{count} for {len(dataset)} samples", "give one value for each sample")
    return _as_list(values)


def read_sample(dataset: Any, index: int) -> Any:
    """Return a sample.

    Raises:
        SampleError: the dataset raises an error.
    """
    try:
        return dataset[index]
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SampleError(f"sample {index} of {type(dataset).__name__} cannot be read ({reason})") from error


def _column(dataset: Any, names: Sequence[str]) -> Any:
    """The values of an attribute or a column, found without reading the samples; None if no such name exists."""
    if isinstance(dataset, Subset):
        values = _column(dataset.dataset, names)
        if values is None:
            return None
        values = _as_list(values)
        return [values[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_column(part, names) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [value for part in parts for value in _as_list(part)]
    columns = getattr(dataset, "column_names", None)  # of Hugging Face datasets
    for name in names:
        if isinstance(columns, list) and name in columns:
            return dataset[name][:]
        values = getattr(dataset, name, None) if names != LABEL_NAMES or name in ATTRIBUTES else None
        if isinstance(values, Sequence | np.ndarray | Tensor) and not isinstance(values, str):
            if len(values) == len(dataset):
                return values
    if type(dataset) is TensorDataset and names == LABEL_NAMES and len(dataset.tensors) > 1:
        labels = dataset.tensors[1]
        return labels.flatten() if labels.numel() == len(dataset) else None
    return None


def _one_pass(key: str, dataset: Any, name: str | None) -> list[Any] | None:
    """Read all samples once for one value of each."""
    if not len(dataset):
        return []
    first = read_sample(dataset, 0)
    if isinstance(first, Mapping):
        name = name or next((label for label in LABEL_NAMES if label in first), None)
        if name is not None and name not in first:
            problem = f"{type(dataset).__name__} has no attribute, and its samples have no entry {as_yaml(name)}"
            raise ConfigError(key, problem, f"a sample has {', '.join(map(str, first))}")
        part: Any = name
    elif name is not None:
        problem = f"{type(dataset).__name__} has no attribute {as_yaml(name)} with a value for each sample"
        raise ConfigError(key, problem, "give a name that it has, the values, or a function of a sample")
    else:
        part = 1 if isinstance(first, tuple | list) and len(first) > 1 else None
    if part is None or not _is_label(first[part]):
        return None
    what = f"{len(dataset)} samples of {type(dataset).__name__}"
    rank_zero_info(f"reading {what} once to find their {key}; the argument {key} can give them without that")
    return [_plain(first[part]), *(_plain(read_sample(dataset, i)[part]) for i in range(1, len(dataset)))]


def _is_label(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return (value.numel() if isinstance(value, Tensor) else value.size) == 1
    return isinstance(value, Hashable) and not isinstance(value, tuple) and value is not None


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(map(_plain, values))


def _plain(value: Any) -> Any:
    is_number = isinstance(value, Tensor | np.generic) or (isinstance(value, np.ndarray) and value.size == 1)
    return value.item() if is_number else value


class LabelBins:
    """Classes of labels: integer labels are their own classes, numbers are put into bins with equally many samples.

    Args:
        labels: of the training samples, ``[n]``; the bins are between their quantiles.
        bins: how many; fewer if many labels are equal.

    >>> prices = torch.tensor([1.0, 1.5, 9.0, 7.0, 100.0, 2.0])
    >>> LabelBins(prices, bins=3)(prices)
    tensor([0, 0, 2, 1, 2, 1])
    """

    def __init__(self, labels: Tensor, bins: int = 10) -> None:
        self.edges: Tensor | None = None
        if labels.is_floating_point():
            ordered = labels.double().sort().values
            places = torch.arange(1, bins) * len(ordered) // bins
            self.edges = ordered[places].unique()

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the class of each label, int64 ``[n]``."""
        return labels if self.edges is None else torch.bucketize(labels.double(), self.edges, right=True)


class Numbering:
    """Numbers the distinct values of labels or owners: in sorted order.

    >>> numbers = Numbering(["b", "a", "b"])
    >>> numbers(["b", "a", "b"]), numbers(["c", "a"])  # a value that comes later gets the next number
    (tensor([1, 0, 1]), tensor([2, 0]))
    """

    def __init__(self, values: Sequence[Any]) -> None:
        distinct = set(values)
        try:
            ordered = sorted(distinct)
        except TypeError:  # of several kinds
            ordered = sorted(distinct, key=repr)
        self.numbers = {value: number for number, value in enumerate(ordered)}

    def __call__(self, values: Sequence[Any]) -> Tensor:
        """Return the number of each value, int64 ``[n]``."""
        return torch.tensor([self.numbers.setdefault(value, len(self.numbers)) for value in values], dtype=torch.int64)


def as_targets(values: Sequence[Any] | None, numbering: Numbering | None = None) -> Tensor | None:
    """Return labels as partitions take them: integers as they are, numbers in float32, other values numbered.

    >>> as_targets([0, 2]), as_targets([0.5, 2.0]), as_targets(["b", "a"])
    (tensor([0, 2]), tensor([0.5000, 2.0000]), tensor([1, 0]))
    """
    if values is None or not all(isinstance(value, Hashable) for value in values):
        return None
    if all(isinstance(value, int | np.integer) for value in values):
        return torch.tensor([int(value) for value in values], dtype=torch.int64)
    if all(isinstance(value, int | float | np.number) for value in values):
        return torch.tensor([float(value) for value in values])
    return (numbering or Numbering(values))(values)
