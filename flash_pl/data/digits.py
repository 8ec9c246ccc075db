"""Digits: 1797 handwritten digits that come with scikit-learn."""

import torch

from flash_pl.data.federated import FederatedDataModule
from flash_pl.data.samples import Samples


class Digits(FederatedDataModule):
    """scikit-learn's 8x8 digits, 1437 for training and 360 for testing: a real data set without any file.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    classes = 10
    shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3761,)

    def load(self) -> tuple[Samples, Samples]:
        """Pixels 0..16 become 0..1. With the samples sorted by class, every fifth one is a test sample."""
        from sklearn.datasets import load_digits  # takes a second, which nobody else should pay

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        tested = torch.arange(len(order)) % 5 == 0
        train, test = order[~tested], order[tested]
        return Samples(images[train], labels[train]), Samples(images[test], labels[test])
