"""The client's half of a round: a LightningModule under a mask."""

from flash_pl.client.backend import Backend
from flash_pl.client.backends import MODES, choose_backend
from flash_pl.client.batch import samples_in
from flash_pl.client.binding import Binding, free_afterwards
from flash_pl.client.classifier import Classifier, layer_labels
from flash_pl.client.clipping import GradientClipping
from flash_pl.client.context import ClientContext
from flash_pl.client.meter import Meter
from flash_pl.client.metrics import unsynchronised
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import Schedule, configure
from flash_pl.client.state import ClientState

__all__ = [
    "MODES",
    "Backend",
    "Binding",
    "Classifier",
    "ClientContext",
    "ClientModule",
    "ClientState",
    "GradientClipping",
    "Meter",
    "Schedule",
    "choose_backend",
    "configure",
    "federate",
    "free_afterwards",
    "layer_labels",
    "samples_in",
    "unsynchronised",
]
