"""The first training step of a client, taken before the run: its FLOPs, and which layers are scale-invariant."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor

from flash_pl.client import TRIAL, ClientState, GradientClipping, preserve_module
from flash_pl.costs import Flops
from flash_pl.data import Batches, FederatedData
from flash_pl.errors import describe_error
from flash_pl.loops.local import LocalLoop, Step
from flash_pl.loops.settings import Participant, Plan
from flash_pl.loops.trial import counted_step, of_each
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import preserve_global_rng
from flash_pl.sparsity import scale_invariant_layers

CLIENTS_TRIED = 3

T = TypeVar("T")


class FirstStep:
    """Takes the first step of a client's training before the run, to see how the module trains.

    All hooks of the module run as in a training that ends after a step, always with the same batch and the same random
    numbers, and the module stays as it is. A client that cannot be trained is for the run to report, so the next one
    takes its place.

    Args:
        client: whose module takes the step; its mask is all ones.
        data, plan, fabric, clipping: of the run.
    """

    def __init__(
        self, client: ClientState, data: FederatedData, plan: Plan, fabric: Fabric, clipping: GradientClipping
    ) -> None:
        self.client, self.data, self.plan, self.fabric, self.clipping = client, data, plan, fabric, clipping

    def flops(self) -> Flops | None:
        """The FLOPs of ``training_step`` for one sample of the batch; None if no client can be trained, or if there
        are no products."""

        def count(participant: Participant) -> Flops | None:
            local, batches = CountedTraining(self.fabric, self.clipping), self._batches(participant)
            try:
                self._take(local, SparseScheduler(), batches, participant)
            except Exception as error:
                plain = LocalLoop(self.fabric, self.clipping)
                self._take(
                    plain, SparseScheduler(), self._batches(participant), participant
                )  # or the module's own error
                what = "FLOPs of training are derived from those of validation_step"
                rank_zero_warn(f"{what}, since those of training_step cannot be counted: {describe_error(error)}")
                return None
            return local.flops and of_each(local.flops, self.client, batches.first, batches.samples / len(batches))

        return self._of_first_client(count, None)

    def scale_invariant(self) -> tuple[bool, ...]:
        """What ``scale_invariant_layers`` returns after a few such steps; all False if no client can be trained."""
        client, start, local = self.client, self.client.arena.clone(), LocalLoop(self.fabric, self.clipping)

        def find(participant: Participant) -> tuple[bool, ...]:
            def gradients(weights: Tensor) -> Tensor:
                probe = GradientProbe()
                client.arena.copy_(weights)
                self._take(local, probe, self._batches(participant), participant)
                return probe.gradients

            return scale_invariant_layers(client.layout, start, gradients)

        return self._of_first_client(find, (False,) * len(client.layout.layers))

    def _of_first_client(self, look: Callable[[Participant], T], default: T) -> T:
        """What ``look`` finds with the first client that can be trained, or ``default``."""
        client, start = self.client, self.client.arena.clone()
        for participant in self.plan.everyone(0)[:CLIENTS_TRIED]:
            try:
                with client.backend.eager(), preserve_global_rng(client.arena.device):
                    return look(participant)
            except (Exception, SystemExit):  # the run meets it again, and skips the client if the user wishes so
                continue
            finally:
                client.arena.copy_(start)
        return default

    def _batches(self, participant: Participant) -> "OneBatch":
        return OneBatch(self.data.client_batches(participant.client))

    def _take(
        self, local: LocalLoop, scheduler: SparseScheduler, batches: "OneBatch", participant: Participant
    ) -> None:
        client, context = self.client, self.plan.context(participant, len(batches), 0)
        client.receive(client.arena.clone(), torch.ones_like(client.mask))
        with preserve_module(client.module):
            local.run(client, scheduler, batches, replace(context, purpose=TRIAL))


class CountedTraining(LocalLoop):
    """A client's training that counts the FLOPs of ``training_step``, not of the hooks around it.

    Attributes:
        flops: of the last batch; None if the module skips it.
    """

    flops: Flops | None = None

    def step(self, client: ClientState, scheduler: SparseScheduler, training_step: Step, index: int) -> dict[str, Any]:
        """Take a step with ``client.batch`` and count."""

        def count(batch: Any, index: int) -> Any:
            self.flops, output = counted_step(client, training_step, index)
            return output

        return super().step(client, scheduler, count, index)


class OneBatch:
    """Batches of a client of which only the first one of the first epoch comes.

    Attributes:
        first: that batch, as it was before its transfer to the device.
    """

    first: Any

    def __init__(self, batches: Batches) -> None:
        self.batches, self.samples, self.left = batches, batches.samples, 1

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """The first batch in an order drawn from ``generator``; nothing in later epochs."""
        left, self.left = self.left, 0
        for batch in islice(self.batches.shuffled(generator), left):
            self.first = batch
            yield batch


class GradientProbe(SparseScheduler):
    """Notes the gradients of a client's only step.

    Attributes:
        gradients: of the maskable weights, ``[layout.maskable]``.
    """

    gradients: Tensor

    def on_dense_gradients(self, client: ClientState, step: int) -> None:
        self.gradients = client.gradients()
