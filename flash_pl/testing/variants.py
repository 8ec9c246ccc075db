"""Ways to run a federation that must not change its result."""

import pickle
import signal
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

from torch import Tensor
from torch.optim import Optimizer

from flash_pl.client import ClientContext, ClientState
from flash_pl.client.recorder import CpuRecorder
from flash_pl.errors import Interrupted
from flash_pl.loops import CapturedLoop, CohortResult, FederatedLoop, LocalLoop, Participant, RoundEvaluator
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import seed_global_rng_
from flash_pl.server import ClientUpdate
from flash_pl.trainer import FederatedTrainer

T = TypeVar("T")


class OneProcessPerClient(FederatedTrainer):
    """As if each client had its own process: a copy of the scheduler trains it and is thrown away, the clients of a
    round come in reverse order, and updates are pickled."""

    def make_ranks(self) -> Ranks:
        return _ReversedRanks(self.fabric, self.timeout)

    def make_evaluator(self, **parts: Any) -> RoundEvaluator:
        return _CopyingEvaluator(**parts)

    def make_federated_loop(self, **parts: Any) -> FederatedLoop:
        return _CopyingLoop(**parts)


class _ReversedRanks(Ranks):
    def my_share(self, costs: Sequence[float]) -> list[int]:
        return list(range(len(costs)))[::-1]

    def gather(self, item: T) -> list[T]:
        return [pickle.loads(pickle.dumps(item))]


class _CopyingLoop(FederatedLoop):
    def train_client(self, participant: Participant) -> ClientUpdate:
        shared = self.scheduler
        self.scheduler = deepcopy(shared)
        try:
            return super().train_client(participant)
        finally:
            self.scheduler = shared


class _CopyingEvaluator(RoundEvaluator):
    def client_model(
        self, tier_masks: Sequence[Tensor], participant: Participant, done: int
    ) -> tuple[Tensor, Tensor, ClientContext]:
        shared = self.scheduler
        self.scheduler = deepcopy(shared)
        try:
            return super().client_model(tier_masks, participant, done)
        finally:
            self.scheduler = shared


class OtherGlobalDraws(FederatedTrainer):
    """The global generators of random numbers, from which no hook should draw, are in other states."""

    def make_ranks(self) -> Ranks:
        return _ReseedingRanks(self.fabric, self.timeout)

    def make_federated_loop(self, **parts: Any) -> FederatedLoop:
        return _ReseedingLoop(**parts)


class _ReseedingRanks(Ranks):
    def sum_(self, tensor: Tensor) -> None:  # the last call before on_aggregate
        seed_global_rng_(11, tensor.device)
        super().sum_(tensor)


class _ReseedingLoop(FederatedLoop):
    def make_first_mask(self) -> None:
        seed_global_rng_(11, self.fabric.device)
        super().make_first_mask()

    def update_tier_masks(self) -> None:
        seed_global_rng_(11, self.fabric.device)
        super().update_tier_masks()

    def train_cohort(self, cohort: Sequence[Participant]) -> CohortResult:
        seed_global_rng_(11, self.fabric.device)
        return super().train_cohort(cohort)


class RoundsStartTwice(FederatedTrainer):
    """As if every round had failed once: it starts again."""

    def make_federated_loop(self, **parts: Any) -> FederatedLoop:
        return _TwiceStartingLoop(**parts)


class _TwiceStartingLoop(FederatedLoop):
    def train_cohort(self, cohort: Sequence[Participant]) -> CohortResult:
        self.scheduler.on_round_start(self.server, self.tier_masks, self.round)
        return super().train_cohort(cohort)


class HiddenGradients(FederatedTrainer):
    """Gradients of pruned weights are 0 in steps that do not ask for them, as with sparse kernels."""

    def make_local_loop(self) -> LocalLoop:
        return _HidingLocalLoop(self.fabric, self.clipping)


class _HidingLocalLoop(LocalLoop):
    def before_optimizer_step(self, client: ClientState, optimizer: Optimizer) -> None:
        if not client.backend.dense:
            client.zero_pruned_gradients_()
        super().before_optimizer_step(client, optimizer)


class RecordedSteps(FederatedTrainer):
    """Steps are recorded once and repeated without Python, as CUDA graphs are."""

    def make_local_loop(self) -> LocalLoop:
        return CapturedLoop(self.fabric, self.clipping, CpuRecorder)


class PlannedInterruption(Interrupted):
    """What ``InterruptedTrainer`` raises in place of a signal."""


class InterruptedTrainer(FederatedTrainer):
    """A signal comes while round ``interrupt_in`` is evaluated."""

    def __init__(self, scheduler: SparseScheduler, *, interrupt_in: int, **settings: Any) -> None:
        super().__init__(scheduler, **settings)
        self.interrupt_in = interrupt_in

    def make_evaluator(self, **parts: Any) -> RoundEvaluator:
        return _InterruptedEvaluator(self.interrupt_in, **parts)


class _InterruptedEvaluator(RoundEvaluator):
    def __init__(self, interrupt_in: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.interrupt_in = interrupt_in

    def run(self, tier_masks: Sequence[Tensor], done: int) -> dict[str, float]:
        if done == self.interrupt_in:
            raise PlannedInterruption(signal.SIGTERM)
        return super().run(tier_masks, done)
