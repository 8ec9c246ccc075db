"""Small modules and data that the tests share."""

import signal

import lightning as L
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from flash_pl import FederatedTrainer
from flash_pl.data import Dirichlet, Synthetic
from flash_pl.kernels import available

torch.set_num_threads(1)
if hasattr(signal, "SIGHUP"):  # under nohup it is ignored, also in the processes that tests start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Tests show no progress, except those of the displays, which ask for it.
FederatedTrainer.__init__.__kwdefaults__ |= {"enable_progress_bar": False, "enable_model_summary": False}
settings.register_profile("untimed", deadline=None)  # a machine may be busy
settings.load_profile("untimed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests with the marker ``kernels`` or the fixture ``native`` where there are no compiled kernels.

    tests/kernels/test_library.py fails if they could be there.
    """
    needed = item.get_closest_marker("kernels") or "native" in getattr(item, "fixturenames", ())
    if needed and not available():
        pytest.skip("there was no compiler when flash_pl was installed")


class Unaware(L.LightningModule):
    """A user's module that has never heard of federated training."""

    def __init__(self, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 5e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 16),
            nn.ReLU(),
            nn.Linear(16, 4),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        h = self.hparams
        return torch.optim.SGD(self.parameters(), h.lr, momentum=h.momentum, weight_decay=h.weight_decay)


@pytest.fixture
def unaware() -> type[Unaware]:
    return Unaware


@pytest.fixture
def tiny_data() -> Synthetic:
    """8 clients with 20 images 8x8 of 4 classes each."""
    return Synthetic(
        samples=160,
        test_samples=40,
        classes=4,
        shape=(1, 8, 8),
        clients=8,
        partition=Dirichlet(1.0),
        batch_size=8,
        seed=1,
    )
