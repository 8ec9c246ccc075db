"""The trial before a run: the model on one batch of the test set."""

from dataclasses import dataclass, replace
from itertools import islice

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from flash_pl.client import ClientState, samples_in
from flash_pl.costs import Flops, count_flops
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError, SampleError, describe_error
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.misfit import misfit
from flash_pl.sparsity import watching_norms


@dataclass(frozen=True)
class Trial:
    """What the model has shown on a batch; the defaults are of a model that no ``validation_step`` runs.

    Args:
        flops: of one sample; None if they could not be counted.
        logged: names of the metrics that ``validation_step`` logs.
        normalized: the maskable weights whose layer a normalization follows.
    """

    flops: Flops | None = None
    logged: frozenset[str] = frozenset()
    normalized: frozenset[str] = frozenset()


def try_model(client: ClientState, evaluation: EvaluationLoop, data: FederatedData) -> Trial:
    """Evaluate the model on one batch of the test set.

    Raises:
        ModuleError: the model cannot be evaluated on the data.
    """
    module = client.module
    weights, names = client.arena.clone(), [layer.name for layer in client.layout.layers]
    logged: dict[str, float] = {}
    try:
        batches = list(islice(iter(data.val_dataloader()), 1))
        if not batches or not is_overridden("validation_step", module, parent=L.LightningModule):
            return Trial()
        with client.backend.eager(), watching_norms(module, names) as normalized:  # torch's own operations only
            flops = count_flops(module, names, lambda: logged.update(evaluation.run(client, weights, batches)))
    except (ConfigError, ModuleError, SampleError):
        raise
    except Exception as error:
        problem = misfit(error) or f"a batch of the data cannot be evaluated: {describe_error(error)}"
        raise ModuleError(problem) from error
    trial = Trial(None, frozenset(logged), frozenset(normalized))
    if not flops.forward(flops.dense):
        return trial
    try:
        samples = samples_in(batches[0])
    except ModuleError:  # the module says itself how many samples such a batch has
        if not client.meter.batch_samples:
            raise
        samples = int(client.meter.batch_samples)
    return replace(trial, flops=flops.of_each(samples))
