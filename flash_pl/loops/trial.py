"""The trial before a run: the model on one batch of the test set, and on one of a client."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from flash_pl.client import ClientState, samples_in
from flash_pl.costs import Flops, count_flops
from flash_pl.data import Batches, FederatedData
from flash_pl.errors import ConfigError, ModuleError, SampleError, describe_error
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.loops.local import LocalLoop, Step
from flash_pl.loops.misfit import misfit
from flash_pl.loops.settings import Participant, Plan
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import preserve_global_rng
from flash_pl.sparsity import scale_invariant_layers

CLIENTS_TRIED = 3


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
    trial, flops = Trial(None, frozenset(logged)), evaluation.flops
    if not flops.forward(flops.dense):
        return trial
    try:
        samples = samples_in(batches[0])
    except ModuleError:  # the module says itself how many samples such a batch has
        if not client.meter.batch_samples:
            raise
        samples = int(client.meter.batch_samples)
    return replace(trial, flops=flops.of_each(samples))


class CountedEvaluation(EvaluationLoop):
    """An evaluation that counts the FLOPs of ``validation_step``, not of the hooks around it.

    Attributes:
        flops: of the last batch.
    """

    flops: Flops

    def step(self, client: ClientState, validation_step: Step, index: int) -> Any:
        """Evaluate ``client.batch`` and count."""
        outputs: list[Any] = []
        names = [layer.name for layer in client.layout.layers]
        self.flops = count_flops(client.module, names, lambda: outputs.append(validation_step(client.batch, index)))
        return outputs[0]


def try_training(client: ClientState, local: LocalLoop, data: FederatedData, plan: Plan) -> tuple[bool, ...]:
    """Take the first training step of one client a few times, to see which layers are scale-invariant.

    All hooks of the module run as in a client's training that ends after a step. Every step starts from the model as it
    is, with the same batch and the same random numbers, and the model stays as it is. A client that cannot be trained
    is for the run to report, so the next one takes its place.

    Args:
        client: whose module takes the steps; its mask is all ones.
        local: trains it.
        data: of the run.
        plan: of the run.

    Returns:
        What ``scale_invariant_layers`` returns; all False if none of the first clients can be trained.
    """
    start = client.arena.clone()
    for participant in plan.everyone(0)[:CLIENTS_TRIED]:

        def gradients(weights: Tensor, participant: Participant = participant) -> Tensor:
            batches, probe = OneBatch(data.client_batches(participant.client)), GradientProbe()
            context = replace(plan.context(participant, len(batches), 0), purpose="trial")
            client.receive(weights, torch.ones_like(client.mask))
            local.run(client, probe, batches, context)
            return probe.gradients

        try:
            with client.backend.eager(), preserve_global_rng(client.arena.device):
                return scale_invariant_layers(client.layout, start, gradients)
        except (Exception, SystemExit):  # the run meets it again, and skips the client if the user wishes so
            continue
        finally:
            client.arena.copy_(start)
    return (False,) * len(client.layout.layers)


class OneBatch:
    """Batches of a client of which only the first one of the first epoch comes."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.samples, self.left = batches, batches.samples, 1

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """The first batch in an order drawn from ``generator``; nothing in later epochs."""
        left, self.left = self.left, 0
        return islice(self.batches.shuffled(generator), left)


class GradientProbe(SparseScheduler):
    """Notes the gradients of a client's only step.

    Attributes:
        gradients: of the maskable weights, ``[layout.maskable]``.
    """

    gradients: Tensor

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        self.gradients = client.gradients()
