"""Counts the FLOPs of a client's model on a batch of the test set."""

from itertools import islice

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from flash_pl.client import ClientState, samples_in
from flash_pl.costs import Flops, count_flops
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.faults import reason


def flops_of(client: ClientState, evaluation: EvaluationLoop, data: FederatedData) -> Flops | None:
    """FLOPs of one sample, see ``count_flops``; None where no ``validation_step`` runs the model.

    Raises:
        ModuleError: the model cannot be evaluated on the data.
    """
    module = client.module
    batches = list(islice(iter(data.val_dataloader()), 1))
    if not batches or not is_overridden("validation_step", module, parent=L.LightningModule):
        return None
    weights, names = client.arena.clone(), [layer.name for layer in client.layout.layers]
    try:
        with client.backend.eager():  # the counter knows torch's own operations only
            found = count_flops(module, names, lambda: evaluation.run(client, weights, batches))
    except (ConfigError, ModuleError):
        raise
    except Exception as error:  # whatever a user's module does with the data
        raise ModuleError(f"a batch of the data cannot be evaluated: {reason(error)}") from error
    return found.of_each(samples_in(batches[0])) if found.forward(found.dense) else None
