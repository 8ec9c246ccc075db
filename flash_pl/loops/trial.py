"""The trial before a run: the model on one batch of the test set."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning as L
from lightning.fabric import Fabric
from lightning.pytorch.utilities.model_helpers import is_overridden

from flash_pl.client import ClientState, samples_in
from flash_pl.costs import Flops, count_flops
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError, SampleError, describe_error
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.local import Step
from flash_pl.loops.misfit import misfit


@dataclass(frozen=True)
class Trial:
    """What the model has shown on a batch; the defaults are of a model that no ``validation_step`` runs.

    Args:
        flops: of one sample; None if they could not be counted.
        logged: names of the metrics that ``validation_step`` logs.
    """

    flops: Flops | None = None
    logged: frozenset[str] = frozenset()


def try_model(client: ClientState, fabric: Fabric, seed: int, data: FederatedData) -> Trial:
    """Evaluate the model on one batch of the test set.

    Args:
        client: whose module is evaluated.
        fabric, seed, data: of the run.

    Raises:
        ModuleError: the model cannot be evaluated on the data.
    """
    module, weights, evaluation = client.module, client.arena.clone(), CountedEvaluation(fabric, seed)
    try:
        batches = list(islice(iter(data.val_dataloader()), 1))
        if not batches or not is_overridden("validation_step", module, parent=L.LightningModule):
            return Trial()
        with client.backend.eager():  # torch's own operations only
            logged = evaluation.run(client, weights, batches)
    except (ConfigError, ModuleError, SampleError):
        raise
    except Exception as error:
        problem = misfit(error) or f"a batch of the data cannot be evaluated: {describe_error(error)}"
        raise ModuleError(problem) from error
    return Trial(of_each(evaluation.flops, client, batches[0]), frozenset(logged))


class CountedEvaluation(EvaluationLoop):
    """An evaluation that counts the FLOPs of ``validation_step``, not of the hooks around it.

    Attributes:
        flops: of the last batch.
    """

    flops: Flops

    def step(self, client: ClientState, validation_step: Step, index: int) -> Any:
        """Evaluate ``client.batch`` and count."""
        self.flops, output = counted_step(client, validation_step, index)
        return output


def counted_step(client: ClientState, step: Step, index: int) -> tuple[Flops, Any]:
    """Call a step of the module on ``client.batch``; returns its FLOPs and what it returns."""
    outputs: list[Any] = []
    names = [layer.name for layer in client.layout.layers]
    flops = count_flops(client.module, names, lambda: outputs.append(step(client.batch, index)))
    return flops, outputs[0]


def of_each(flops: Flops, client: ClientState, batch: Any) -> Flops | None:
    """The FLOPs of one sample of the batch on which the module has just worked; None if there are no products.

    Raises:
        ModuleError: there is no tensor in the batch, and the module has not logged how many samples it has.
    """
    if not flops.forward(flops.dense):
        return None
    try:
        samples = samples_in(batch)
    except ModuleError:  # the module says itself how many samples such a batch has
        if not client.meter.batch_samples:
            raise
        samples = int(client.meter.batch_samples)
    return flops.of_each(samples)
