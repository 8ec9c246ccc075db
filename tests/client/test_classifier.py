"""Loss, accuracy and optimizer of ``Classifier``, for one label a sample and for one label a position."""

import math

import pytest
import torch
from torch import Tensor, nn

from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.data import TensorData
from flash_pl.errors import ConfigError


def by_hand(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all positions, one position at a time."""
    losses, hits = [], []
    for row, label in zip(logits.reshape(-1, logits.shape[-1]).tolist(), labels.flatten().tolist(), strict=True):
        losses.append(math.log(sum(map(math.exp, row))) - row[label])
        hits.append(row[label] == max(row))
    return sum(losses) / len(losses), sum(hits) / len(hits)


@pytest.mark.parametrize("positions", [(), (6,), (2, 3)])
def test_loss_and_accuracy_are_means_over_all_positions(positions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    module = Classifier(network, classes=3)
    inputs, labels = torch.randint(5, (7, *positions)), torch.randint(3, (7, *positions))
    logged: dict = {}
    module.log = lambda name, value: logged.__setitem__(name, value)  # type: ignore[method-assign,assignment]
    loss, accuracy = by_hand(module(inputs), labels)
    assert module.training_step((inputs, labels), 0).item() == pytest.approx(loss, rel=1e-5)
    module.validation_step((inputs, labels), 0)
    assert logged["val_loss"].item() == pytest.approx(loss, rel=1e-5)
    assert module.accuracy.compute().item() == pytest.approx(accuracy)


def test_metrics_of_a_run_weigh_every_position_alike() -> None:
    """The last evaluation batch is smaller than the others."""
    torch.manual_seed(0)
    inputs, labels = torch.randint(5, (13, 6)), torch.randint(3, (13, 6))
    data = TensorData((inputs, labels), (inputs, labels), classes=3, clients=4, eval_batch_size=5, batch_size=2)
    module = Classifier(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), classes=3)
    loop = FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(module, data)
    with torch.no_grad():
        loss, accuracy = by_hand(module(inputs), labels)
    assert loop.metrics["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert loop.metrics["val_acc"] == pytest.approx(accuracy)


def test_adam_takes_the_first_step_of_its_paper() -> None:
    """At the first step the bias-corrected moments are g and g^2, so every weight moves by lr against its gradient."""
    torch.manual_seed(0)
    module = Classifier(nn.Linear(4, 3), classes=3, lr=0.01, optimizer="adam")
    before = module.model.weight.detach().clone()
    optimizer = module.configure_optimizers()
    nn.functional.cross_entropy(module(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
    optimizer.step()
    gradient = module.model.weight.grad
    assert isinstance(gradient, Tensor)
    torch.testing.assert_close(module.model.weight.detach(), before - 0.01 * gradient.sign(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("key", "settings"), [("optimizer", {"optimizer": "lion"}),
                                               ("momentum", {"optimizer": "adam", "momentum": 0.9})])  # fmt: skip
def test_settings_without_an_effect_are_refused(key: str, settings: dict) -> None:
    with pytest.raises(ConfigError) as refused:
        Classifier(nn.Linear(4, 3), classes=3, **settings)
    assert refused.value.key == key
