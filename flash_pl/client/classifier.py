"""Any torch module as a classifier that trains by SGD."""

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from flash_pl.sparsity import Layout


class Classifier(L.LightningModule):
    """Cross-entropy and top-1 accuracy for ``model``: images ``[B, C, H, W]`` -> logits ``[B, classes]``.

    Args:
        model: the network.
        classes: number of classes.
        lr, momentum, weight_decay: of SGD; the defaults are FLASH's.
    """

    def __init__(
        self, model: nn.Module, classes: int, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.accuracy = MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs ``val_loss`` and ``val_acc``."""
        images, labels = batch
        logits = self(images)
        self.accuracy.update(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


def layer_labels(layout: Layout) -> list[str]:
    """The maskable layers' names as the user's own network has them, each another."""
    names = [layer.name.removesuffix(".weight") for layer in layout.layers]
    short = {name: name.removeprefix("model.") for name in names}
    return [name if short[name] in names else short[name] for name in names]
