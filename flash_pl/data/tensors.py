"""Data of a federation as tensors, the fast path: batches are cut on the device where clients train."""

from functools import cache

import torch
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.data.augment import Augment, AugmentInTwoSteps
from flash_pl.data.batches import TensorBatches
from flash_pl.data.partitioned import PartitionedData, PartitionKeywords
from flash_pl.data.samples import Array, Samples, as_samples
from flash_pl.errors import ConfigError


class FederatedKeywords(PartitionKeywords, total=False):
    """The keyword arguments that every data set of tensors passes on to ``FederatedDataModule``."""

    augment: Augment | AugmentInTwoSteps | None


class FederatedDataModule(PartitionedData):
    """Data sets of tensors that are divided over clients. A data set only implements ``load``.

    Args:
        augment: augmentation of training batches, such as ``CropFlip()``. It gets the inputs of ``load``, uint8 images
            scaled to [0, 1]; its result is normalized.
        **keywords: see ``PartitionedData``.

    Attributes:
        classes: number of classes; the subclass sets it.
        shape: of an input, (C, H, W) for images; the subclass sets it.
        mean, std: of each channel, with pixels in [0, 1], or of each column of a table; inputs are normalized to
            (x - mean) / std.

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
        ConfigError: see ``PartitionedData``.
    """

    classes: int
    shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __init__(
        self, *, augment: Augment | AugmentInTwoSteps | None = None, **keywords: Unpack[PartitionKeywords]
    ) -> None:
        super().__init__(**keywords)
        self.augment = augment

    def load(self) -> tuple[Samples, Samples]:
        """Return the training and the test samples. A subclass must define this method."""
        raise TypeError(f"{type(self).__name__} must define load(self) -> (train, test)")

    def to_(self, device: torch.device) -> None:
        """Move all samples to ``device``."""
        self.train, self.test, self._val = self.train.to(device), self.test.to(device), None

    def train_batches(self, index: Tensor) -> TensorBatches:
        """See ``PartitionedData``; without augmentation every input is normalized once instead of in every epoch."""
        samples: Samples = self.train
        if samples.mapped:
            tensors = samples.inputs, samples.labels
            return TensorBatches(*tensors, self.batch_size, self.augment, self.normalize, self.drop_last, rows=index)
        index = index.to(samples.inputs.device)
        inputs, labels = samples.inputs[index], samples.labels[index]
        if self.augment is None:
            return TensorBatches(self.normalize(inputs), labels, self.batch_size, drop_last=self.drop_last)
        return TensorBatches(_as_floats(inputs), labels, self.batch_size, self.augment, self.normalize, self.drop_last)

    def eval_batches(self, samples: Samples, index: Tensor | None = None) -> TensorBatches:
        """See ``PartitionedData``."""
        inputs, labels = samples.inputs, samples.labels
        if samples.mapped:
            return TensorBatches(inputs, labels, self.eval_batch_size, normalize=self.normalize, rows=index)
        if index is not None:
            index = index.to(inputs.device)
            inputs, labels = inputs[index], labels[index]
        return TensorBatches(self.normalize(inputs), labels, self.eval_batch_size)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Return (x - mean) / std in float32; uint8 images are scaled to [0, 1] first, other integers stay as they are.

        Mean and std are those of each channel of images ``[B, C, H, W]`` and of each entry of the last dimension of
        other inputs.
        """
        if not inputs.is_floating_point() and not _is_image(inputs):
            return inputs
        mean, std = (
            _numbers(tuple(map(float, values)), _is_image(inputs), inputs.device) for values in (self.mean, self.std)
        )
        return (_as_floats(inputs) - mean) / std


class TensorData(FederatedDataModule):
    """Federated data from tensors or numpy arrays of the caller.

    A numpy array that is mapped into memory (``numpy.load(file, mmap_mode="r")``) stays in its file; samples are read
    batch by batch, so that the data may be larger than the memory.

    Args:
        train, test: ``Samples``, or tensors or numpy arrays: inputs ``[n, ...]``, labels ``[n, ...]`` and, if the data
            have natural clients, the owner of each sample ``[n]``.
        classes: number of classes; by default the largest label + 1 if labels are integers.
        mean, std: of each channel or column. By default floating-point inputs are not normalized.
        **keywords: see ``FederatedDataModule``.

    >>> images, labels = torch.rand(100, 1, 8, 8), torch.arange(100) % 10
    >>> data = TensorData((images[:80], labels[:80]), (images[80:], labels[80:]), clients=4)
    >>> data.setup()
    >>> data.classes, data.shape, data.client_sizes
    (10, (1, 8, 8), [20, 20, 20, 20])

    Raises:
        ConfigError: neither samples nor such arrays, or an argument that ``FederatedDataModule`` refuses.
    """

    def __init__(
        self,
        train: Samples | tuple[Array, ...],
        test: Samples | tuple[Array, ...],
        *,
        classes: int | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(**keywords)
        self.train, self.test = as_samples("train", train), as_samples("test", test)
        self.shape = tuple(self.train.inputs.shape[1:])
        for key, split in {"train": self.train, "test": self.test}.items():
            if not len(split):
                raise ConfigError(key, "there are no samples")
        splits = self.train.labels, self.test.labels
        if classes is not None or not any(labels.is_floating_point() for labels in splits):
            self.classes = classes or 1 + max(int(labels.max()) for labels in splits)
        self.mean, self.std = mean, std

    def load(self) -> tuple[Samples, Samples]:
        """Return the tensors; they are not copied."""
        return self.train, self.test


def _is_image(inputs: Tensor) -> bool:
    """Whether inputs are images: four dimensions, uint8 or floating point."""
    return inputs.ndim == 4 and (inputs.dtype == torch.uint8 or inputs.is_floating_point())


def _as_floats(inputs: Tensor) -> Tensor:
    """Inputs for the augmentation: images of uint8 in [0, 255] become float32 in [0, 1], float64 becomes float32."""
    if _is_image(inputs) and not inputs.is_floating_point():
        return inputs.float() / 255
    return inputs.float() if inputs.dtype == torch.float64 else inputs  # numpy's default, which no network takes


@cache  # a batch would wait for the copy to a GPU
def _numbers(values: tuple[float, ...], channels: bool, device: torch.device) -> Tensor:
    """One number per channel, float32 ``[C, 1, 1]``, or per column ``[C]``."""
    tensor = torch.tensor(values, device=device)
    return tensor.view(-1, 1, 1) if channels else tensor
