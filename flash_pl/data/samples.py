"""Samples as tensors, in memory or in files that are mapped into memory."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flash_pl.checks import check_booleans, check_types
from flash_pl.errors import ConfigError, as_yaml

Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Samples:
    """Inputs and labels of a data set or of a part of it.

    Attributes:
        inputs: of any dtype, ``[n, ...]``: images ``[n, C, H, W]`` (uint8 in [0, 255] or floating point), rows of a
            table ``[n, features]``, sequences ``[n, T]``.
        labels: int64 or floating point, ``[n]`` or ``[n, ...]``: classes, numbers, sequences.
        owners: the number of each sample's natural client, such as the writer of a digit, int64 ``[n]``; None if the
            data have no natural clients.
        mapped: the inputs lie in a file that is mapped into memory. They are read batch by batch and never copied as a
            whole.

    >>> samples = Samples(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    >>> len(samples)
    3
    >>> Samples(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: samples: inputs of shape (3, 1, 8, 8) and labels of shape (2,) do not fit; give ...

    Raises:
        ConfigError: a wrong class or dtype, or shapes that do not fit together.
    """

    inputs: Tensor
    labels: Tensor
    owners: Tensor | None = None
    mapped: bool = False

    def __post_init__(self) -> None:
        check_types(owners=(self.owners, Tensor))
        check_booleans(mapped=self.mapped)
        for key, value in {"inputs": self.inputs, "labels": self.labels}.items():
            if not isinstance(value, Tensor):
                raise ConfigError(key, f"{as_yaml(value)} is not an object of class Tensor")
        if self.labels.dtype != torch.int64 and not self.labels.is_floating_point():
            raise ConfigError("labels", f"dtype {self.labels.dtype} is neither int64 nor floating point")
        tensors = {"inputs": self.inputs, "labels": self.labels, "owners": self.owners}
        given = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        lengths = {tensor.shape[:1] for tensor in given.values()}
        if len(lengths) > 1 or () in lengths or (self.owners is not None and self.owners.ndim != 1):
            shapes = [f"{key} of shape {tuple(tensor.shape)}" for key, tensor in given.items()]
            hint = "give inputs [n, ...], labels [n, ...] and, if the data have them, owners [n]"
            raise ConfigError("samples", f"{' and '.join(shapes)} do not fit", hint)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def targets(self) -> Tensor | None:
        """One label for each sample, by which partitions divide them, ``[n]``; None if a sample has several."""
        return self.labels.flatten().cpu() if self.labels.numel() == len(self.labels) else None

    def to(self, device: torch.device) -> "Samples":
        """Return the samples with inputs and labels on ``device``; mapped samples and owners stay where they are.

        Only the partition reads the owners, and it works on the CPU.
        """
        return self if self.mapped else Samples(self.inputs.to(device), self.labels.to(device), self.owners)


def as_samples(key: str, split: object) -> Samples:
    """Return ``Samples`` of a pair of arrays; an array of numpy's class ``memmap`` stays in its file.

    Integer labels become int64. Labels and inputs of float64, numpy's default, become float32, as networks expect.

    >>> as_samples("train", (np.zeros((2, 3)), np.array([1, 0], dtype=np.uint8))).inputs.dtype
    torch.float32

    Raises:
        ConfigError: no such pair; the error names ``key``.
    """
    if isinstance(split, Samples):
        return split
    if not isinstance(split, Sequence) or len(split) not in (2, 3) or not all(isinstance(a, Array) for a in split):
        raise ConfigError(
            key,
            f"an object of class {type(split).__name__} is not a set of samples",
            "give Samples, or tensors or numpy arrays (inputs [n, ...], labels [n, ...]), a third one for the owners "
            "[n]; for a torch Dataset use PartitionedDataset",
        )
    mapped = any(isinstance(array, np.memmap) for array in split[:1])
    with warnings.catch_warnings():  # nothing is written into the arrays, so that they may be read-only
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        try:
            inputs, labels, *owners = map(torch.as_tensor, split)
        except (TypeError, ValueError) as error:
            raise ConfigError(key, f"an array cannot be a tensor ({error})", "give arrays of numbers") from error
    if owners and (owners[0].is_floating_point() or owners[0].dtype == torch.bool):
        problem = f"owners have dtype {owners[0].dtype}"
        raise ConfigError("owners", problem, "the third array numbers the client of each sample, with integers")
    if not labels.is_floating_point():
        labels = labels.long()
    labels, inputs = (part.float() if part.dtype == torch.float64 and not mapped else part for part in (labels, inputs))
    return Samples(inputs, labels, owners[0].long() if owners else None, mapped)
