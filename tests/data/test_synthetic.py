"""Synthetic images."""

import pytest
import torch

from flash_pl.data import Synthetic
from flash_pl.errors import ConfigError


def test_synthetic_classes_can_be_learned() -> None:
    train, test = Synthetic(samples=400, test_samples=100, seed=3).load()
    templates = torch.stack([train.inputs[train.labels == label].mean(0) for label in range(10)]).flatten(1)
    guesses = torch.cdist(test.inputs.flatten(1), templates).argmin(1)
    assert (guesses == test.labels).float().mean() > 0.95
    assert torch.equal(train.inputs, Synthetic(samples=400, seed=3).load()[0].inputs)
    assert not torch.equal(train.inputs, Synthetic(samples=400, seed=4).load()[0].inputs)


@pytest.mark.parametrize("key", ["samples", "test_samples"])
def test_fewer_samples_than_classes_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="9 .* 10") as error:
        Synthetic(classes=10, **{key: 9})
    assert error.value.key == key
