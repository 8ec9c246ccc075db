"""Synthetic: images drawn from a seed that a network can learn to classify."""

import torch
import torch.nn.functional as F
from typing_extensions import Unpack

from flash_pl.checks import check_integers
from flash_pl.data.samples import Samples
from flash_pl.data.tensors import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator

MOST_BYTES = 2**42  # of memory


class Synthetic(FederatedDataModule):
    """Each class has a smooth random template; an image is the template of its class plus Gaussian noise.

    Args:
        samples, test_samples: number of training and test samples; all classes are equally frequent.
        classes: number of classes.
        shape: of an image, (C, H, W).
        noise: standard deviation of the noise; the templates have standard deviation 1.
        **keywords: see ``FederatedDataModule``.

    >>> data = Synthetic(samples=100, classes=10, shape=(1, 8, 8), test_samples=20, clients=4)
    >>> data.setup()
    >>> data.client_sizes, data.test.labels.bincount().tolist()
    ([25, 25, 25, 25], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])

    Raises:
        ConfigError: fewer training or test samples than classes, or more than a machine can have.
    """

    def __init__(
        self,
        samples: int = 2000,
        classes: int = 10,
        shape: tuple[int, int, int] = (1, 28, 28),
        test_samples: int = 500,
        noise: float = 1.0,
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        super().__init__(**keywords)
        check_integers(samples=samples, test_samples=test_samples, classes=classes)
        for size in shape:
            check_integers(shape=size)
        for key, value in {"samples": samples, "test_samples": test_samples}.items():
            if value < classes:
                raise ConfigError(key, f"{value} is less than the number of classes, {classes}")
        self.samples, self.test_samples, self.classes, self.noise = samples, test_samples, classes, noise
        channels, height, width = shape
        self.shape = (channels, height, width)
        if (needed := 4 * (samples + test_samples + classes) * channels * height * width) > MOST_BYTES:
            raise ConfigError("samples", f"all images together would need {needed >> 40:,} TiB of memory")

    def load(self) -> tuple[Samples, Samples]:
        """Draw the templates, the training samples and the test samples, each from its own generator."""
        channels, height, width = self.shape
        # Noise at a quarter of the resolution, enlarged: structure at a scale that convolutions see.
        coarse_shape = (self.classes, channels, -(-height // 4), -(-width // 4))
        coarse = torch.randn(coarse_shape, generator=generator(self.seed, "synthetic/templates"))
        templates = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        templates /= templates.std()
        return self._draw(templates, self.samples, "train"), self._draw(templates, self.test_samples, "test")

    def _draw(self, templates: torch.Tensor, samples: int, split: str) -> Samples:
        labels = torch.arange(samples) % self.classes
        noise = torch.randn(samples, *self.shape, generator=generator(self.seed, f"synthetic/{split}"))
        return Samples(templates[labels] + self.noise * noise, labels)
