"""The client's half of a round: a LightningModule under a mask."""

from flash_pl.client.backend import Backend
from flash_pl.client.binding import MODES, Binding, choose_backend, released_afterwards
from flash_pl.client.logging import Meter, unsynchronized
from flash_pl.client.module import Classifier, ClientModule, federate, layer_labels
from flash_pl.client.optimizers import GradientClipping, Schedule, configure
from flash_pl.client.state import ClientContext, ClientState, samples_in

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
    "released_afterwards",
    "layer_labels",
    "samples_in",
    "unsynchronized",
]
