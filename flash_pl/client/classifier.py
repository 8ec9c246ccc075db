"""``Classifier``: a plain network as a LightningModule."""

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from flash_pl.checks import check_choice
from flash_pl.errors import ConfigError
from flash_pl.sparsity import Layout


class Classifier(L.LightningModule):
    """Classification with the cross-entropy; logs loss and top-1 accuracy.

    An input has one label, such as the class of an image, or one label for each of its positions, such as the next
    character of a text. Loss and accuracy are means over all labels of a batch.

    Args:
        model: the network, inputs ``[B, ...]``, such as images ``[B, C, H, W]`` -> logits ``[B, classes]``, or
            ``[B, ..., classes]`` for labels ``[B, ...]``.
        classes: number of classes.
        lr, momentum, weight_decay: of SGD; the defaults are FLASH's. Adam has no ``momentum``.
        optimizer: sgd or adam, which begins afresh in every client and every round.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> module = Classifier(network, classes=10, lr=0.05)
    >>> module(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: str = "sgd",
    ) -> None:
        super().__init__()
        check_choice("sgd", "adam", optimizer=optimizer)
        if optimizer == "adam" and momentum:
            raise ConfigError("momentum", f"{momentum} would have no effect: adam has its own moments", "leave it out")
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.lr, self.momentum, self.weight_decay, self.optimizer = lr, momentum, weight_decay, optimizer
        self.accuracy = MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``[B, ..., classes]``."""
        return self.model(inputs)

    def logits_and_labels(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits ``[n, classes]`` and the labels ``[n]`` of all n positions of a batch."""
        inputs, labels = batch
        logits = self(inputs)
        return (logits.flatten(0, -2), labels.flatten()) if logits.ndim > 2 else (logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch and log it as ``train_loss``."""
        loss = F.cross_entropy(*self.logits_and_labels(batch))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        logits, labels = self.logits_and_labels(batch)
        self.accuracy.update(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return torch's SGD or Adam."""
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


def layer_labels(layout: Layout) -> list[str]:
    """Return a distinct, short name of every maskable layer: without a leading ``model.`` where possible.

    >>> layer_labels(Layout(Classifier(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), classes=2)))
    ['0', '1']
    """
    names = [layer.name.removesuffix(".weight") for layer in layout.layers]
    short = {name: name.removeprefix("model.") for name in names}
    return [name if short[name] in names else short[name] for name in names]
