"""Mini-batches: what the loops ask of a client's data, and the batches that are cut from tensors.

Batches of tensors are cut on the device where clients train. There are no worker processes and no Python code per
sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from flash_pl.checks import check_booleans, check_integers
from flash_pl.data.augment import Augment, AugmentInTwoSteps
from flash_pl.errors import ConfigError


class Batches(Protocol):
    """The mini-batches of one client, or of a test set. Any object with these members can be used.

    A batch may have any structure that the module's ``training_step`` takes: a tuple of tensors, a dictionary, a list
    of strings. The loops move its tensors to the device by the module's own transfer hooks.

    A source of batches may also have ``epoch_samples``, the number of samples of an epoch, if it leaves some out.
    """

    @property
    def samples(self) -> int:
        """Number of samples n."""
        ...

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The batches in a fixed order, without random augmentation."""
        ...

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """One epoch of training batches, in an order drawn from ``generator``."""
        ...


def check_batches(batches: object, source: str) -> None:
    """Check that an object has the members of ``Batches``; a ``DataLoader``, for example, does not.

    Args:
        source: what returned the object, such as ``"MyData.client_batches"``.

    Raises:
        ConfigError: names the first missing member.
    """
    for name in ("shuffled", "samples", "__len__"):
        if not hasattr(batches, name):
            problem = f"{source} returns an object of class {type(batches).__name__}, which has no {name}"
            raise ConfigError(
                "data",
                problem,
                "a source of batches has shuffled(generator), which yields the batches of an epoch, samples, and "
                "__len__; flash_pl.data.ClientDatasets makes one of a Dataset or a DataLoader for each client",
            )


class EpochLength(ABC):
    """The lengths of an epoch of ``samples`` samples in batches of ``batch_size``, of which the last may be smaller.

    With ``drop_last`` a smaller last batch is left out, unless it is the only one.
    """

    batch_size: int
    drop_last: bool

    @property
    @abstractmethod
    def samples(self) -> int:
        """Number of samples n."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.epoch_samples // self.batch_size)

    @property
    def epoch_samples(self) -> int:
        """Number of samples in an epoch, fewer than n with ``drop_last``."""
        if not self.drop_last or self.samples < self.batch_size:
            return self.samples
        return self.samples // self.batch_size * self.batch_size

    def shuffled_order(self, generator: torch.Generator) -> Tensor:
        """The places of the samples of an epoch, int64, in an order drawn at random."""
        return torch.randperm(self.samples, generator=generator)[: self.epoch_samples]


class TensorBatches(EpochLength):
    """Batches that are cut from tensors: pairs of inputs ``[B, ...]`` and labels ``[B, ...]``.

    Iterate over them to get the samples in order, without augmentation; call ``shuffled`` for a training epoch.

    Args:
        inputs: ``[n, ...]``, on any device.
        labels: ``[n, ...]``, on the same device.
        batch_size: samples per batch.
        augment: a function (inputs ``[B, ...]``, generator) -> inputs, or an ``AugmentInTwoSteps``; only ``shuffled``
            applies it.
        normalize: a function inputs -> inputs, applied to every batch after ``augment``, as in torchvision's recipes;
            None if ``inputs`` are normalized already.
        drop_last: leave out a smaller last batch, unless it is the only one.
        rows: int64; only these rows of the tensors are samples, and they are copied batch by batch. None for all rows.

    >>> batches = TensorBatches(torch.zeros(5, 1, 2, 2), torch.arange(5), batch_size=2)
    >>> [labels.tolist() for images, labels in batches]
    [[0, 1], [2, 3], [4]]
    >>> epoch = [labels for images, labels in batches.shuffled(torch.Generator().manual_seed(0))]
    >>> sorted(torch.cat(epoch).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        batch_size: int,
        augment: Augment | AugmentInTwoSteps | None = None,
        normalize: Callable[[Tensor], Tensor] | None = None,
        drop_last: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        check_integers(batch_size=batch_size)
        check_booleans(drop_last=drop_last)
        self.inputs, self.labels, self.batch_size, self.rows = inputs, labels, batch_size, rows
        self.augment, self.normalize, self.drop_last = augment, normalize, drop_last

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.inputs if self.rows is None else self.rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in the order of the samples, without augmentation."""
        for start in range(0, self.epoch_samples, self.batch_size):
            part = slice(start, min(start + self.batch_size, self.epoch_samples))
            if self.rows is None:  # a copy, so that a module that changes its batch does not change the data
                inputs, labels = self.inputs[part].clone(), self.labels[part].clone()
            else:
                inputs, labels = self.inputs[self.rows[part]], self.labels[self.rows[part]]
            yield (inputs if self.normalize is None else self.normalize(inputs)), labels

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented batches, in an order drawn from ``generator``."""
        order, augment = self.shuffled_order(generator), self.augment
        parts = (order if self.rows is None else self.rows[order]).to(self.inputs.device).split(self.batch_size)
        if isinstance(augment, AugmentInTwoSteps):  # its numbers go to the device once an epoch
            sizes = [len(part) for part in parts]
            numbers = torch.cat([augment.draw(size, generator) for size in sizes], dim=1)
            draws = numbers.to(self.inputs.device).split(sizes, dim=1)
        for step, index in enumerate(parts):
            inputs = self.inputs.index_select(0, index)
            if isinstance(augment, AugmentInTwoSteps):
                inputs = augment.apply(inputs, draws[step])
            elif augment is not None:
                inputs = augment(inputs, generator)
            yield (inputs if self.normalize is None else self.normalize(inputs)), self.labels.index_select(0, index)


class Shuffled:
    """A loader that shuffles ``batches`` anew in every epoch, for a stock ``lightning.Trainer``.

    Args:
        batches: to shuffle.
        generator: every epoch draws its order from it.
    """

    def __init__(self, batches: Batches, generator: torch.Generator) -> None:
        self.batches, self.generator = batches, generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return self.batches.shuffled(self.generator)
