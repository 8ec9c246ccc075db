"""The trial before a run: the model on one batch of the test set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning as L
from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves

from flash_pl.client import ClientState, preserve_module, samples_in
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
    module, weights = client.module, client.arena.clone()
    try:
        batches = list(islice(iter(data.val_dataloader()), 1))
        if not batches or not is_overridden("validation_step", module, parent=L.LightningModule):
            return Trial()
        with client.backend.eager():  # torch's own operations only
            logged, flops = counted_evaluation(client, fabric, seed, weights, batches)
    except (ConfigError, ModuleError, SampleError):
        raise
    except Exception as error:
        problem = misfit(error) or f"a batch of the data cannot be evaluated: {describe_error(error)}"
        raise ModuleError(problem) from error
    return Trial(flops and of_each(flops, client, batches[0]), frozenset(logged))


def counted_evaluation(
    client: ClientState, fabric: Fabric, seed: int, weights: Tensor, batches: Sequence[Any]
) -> tuple[Collection[str], Flops | None]:
    """The names that an evaluation logs, and the FLOPs of its last batch; None if they cannot be counted."""
    counted = CountedEvaluation(fabric, seed)
    try:
        with preserve_module(client.module):
            return counted.run(client, weights, batches), counted.flops
    except Exception as error:
        with preserve_module(client.module):
            logged = EvaluationLoop(fabric, seed).run(client, weights, batches)  # or the module's own error
        rank_zero_warn(f"FLOPs are unknown, since those of validation_step cannot be counted: {describe_error(error)}")
        return logged, None


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


def of_each(flops: Flops, client: ClientState, batch: Any, expected: float | None = None) -> Flops | None:
    """The FLOPs of one sample of the batch on which the module has just worked; None if there are no products.

    Tensors of one length tell how many samples a batch has. If their lengths differ, or there are none, the module has
    said it by ``batch_size`` when it logged.

    Args:
        flops: of the batch.
        client: has worked on it.
        batch: as it was before its transfer to the device, in which a hook may double it.
        expected: mean size of the batches, for one of which nothing tells it.

    Raises:
        ModuleError: there is no tensor in the batch, and nothing else tells its size.
    """
    if not flops.forward(flops.dense):
        return None
    meter, lengths = client.meter, {leaf.shape[:1] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    if len(lengths) == 1:
        return flops.of_each(samples_in(batch))
    told = meter.given_samples or expected or (None if lengths else meter.batch_samples)
    return flops.of_each(float(told) if told else samples_in(batch))
