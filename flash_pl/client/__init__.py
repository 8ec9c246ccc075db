"""A LightningModule as a client: its mask, its optimizer, and the backend that computes its layers."""

from flash_pl.client.backend import Backend
from flash_pl.client.binding import BACKENDS, Binding, choose_backend, coverage, detached_at_end
from flash_pl.client.classifier import Classifier, layer_labels
from flash_pl.client.client_trainer import ClientTrainer, RunFacts
from flash_pl.client.context import TRIAL, ClientContext
from flash_pl.client.logging import Meter, reduce_clients, samples_in, unsynchronized_metrics
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import GradientClipping, LRSchedule, ScaledRates, configure_optimizer
from flash_pl.client.preserved import preserve_module
from flash_pl.client.state import ClientState

__all__ = [
    "BACKENDS",
    "TRIAL",
    "Backend",
    "Binding",
    "Classifier",
    "ClientContext",
    "ClientModule",
    "ClientState",
    "ClientTrainer",
    "GradientClipping",
    "LRSchedule",
    "Meter",
    "RunFacts",
    "ScaledRates",
    "choose_backend",
    "configure_optimizer",
    "coverage",
    "detached_at_end",
    "federate",
    "layer_labels",
    "preserve_module",
    "reduce_clients",
    "samples_in",
    "unsynchronized_metrics",
]
