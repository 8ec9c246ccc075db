"""Synthetic: images that a network can learn, from nothing but a seed."""

import torch
import torch.nn.functional as F
from typing_extensions import Unpack

from flash_pl.data.batches import Samples
from flash_pl.data.federated import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError
from flash_pl.seeding import generator


class Synthetic(FederatedDataModule):
    """Every class is a smooth random template; a sample is its class's template plus Gaussian noise.

    Args:
        samples, test_samples: number of training and test samples, the classes equally frequent.
        classes: number of classes.
        shape: of one image, (C, H, W).
        noise: standard deviation of the noise; that of the templates is 1.

    Raises:
        ConfigError: fewer training or test samples than classes.
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
        for key, value in {"samples": samples, "test_samples": test_samples}.items():
            if value < classes:
                raise ConfigError(key, value, f"at least the number of classes, {classes}")
        self.samples, self.test_samples, self.classes, self.noise = samples, test_samples, classes, noise
        channels, height, width = shape
        self.shape = (channels, height, width)

    def load(self) -> tuple[Samples, Samples]:
        """Draw the templates, then both splits, each from its own generator."""
        channels, height, width = self.shape
        # Noise of a quarter of the resolution, enlarged: structure at the scale that convolutions see.
        coarse = (self.classes, channels, -(-height // 4), -(-width // 4))
        drawn = torch.randn(coarse, generator=generator(self.seed, "synthetic/templates"))
        templates = F.interpolate(drawn, size=(height, width), mode="bilinear", align_corners=False)
        templates /= templates.std()
        return self._sample(templates, self.samples, "train"), self._sample(templates, self.test_samples, "test")

    def _sample(self, templates: torch.Tensor, samples: int, split: str) -> Samples:
        labels = torch.arange(samples) % self.classes
        noise = torch.randn(samples, *self.shape, generator=generator(self.seed, f"synthetic/{split}"))
        return Samples(templates[labels] + self.noise * noise, labels)
