"""FedDST: masks move toward large gradients at the end of a client's round; the server averages per weight."""

from collections.abc import Sequence

from flash_pl.client import ClientContext
from flash_pl.schedulers.flash import DynamicSparseTraining
from flash_pl.schedulers.timing import Cosine, Interval, LastStep, RateDecay
from flash_pl.server import ClientUpdate, FedAvg, MagnitudeVote, MaskedAverage, ServerState, Vote, ZeroingMaskedAverage
from flash_pl.sparsity import ERK, FirstMask, Gradient, KeepLayers, Move


class FedDST(DynamicSparseTraining):
    """Federated dynamic sparse training.

    Source: Bibikar et al., Federated Dynamic Sparse Training, AAAI 2022; the authors' code was read. Layer densities
    are Erdos-Renyi-Kernel (ERK) ones and never change. In every tenth round a client, after its last step, drops the
    weights of smallest magnitude in every layer and grows as many where the gradient of its last batch is largest. The
    server averages every weight over the clients that have it in their mask, by their samples (0 if no client has it;
    with tiers see ``MaskedAverage``), and keeps the largest weights of every layer. Grown weights arrive as 0; if there
    are more of them than free places, those in the masks of more clients (by samples) go first, then those of lower
    position. Values go both ways, masks when they have moved.

    Unlike there: the first mask is random, there it has the largest initial weights; ERK scales densities, as RigL's
    code does, there sparsities (MNISTNet's conv2 has density 0.020 at d = 0.05, there 0.038); every layer drops the
    same fraction, there what their ERK of a lower density gives; the first move is in the first round, there in the
    second (``scheduler.interval.start=1``); its gradient is that of the last step, there that of one more batch
    (``scheduler.interval.name=after_training``); a
    survivor is never chosen to grow, so that counts are exact; the rate enters once, there squared; which zero-valued
    weights fill the places of a layer is there up to ``torch.topk``; layers that the model excludes stay dense.

    Args:
        prune_rate: the fraction that the first move drops.
        voter: picks the server's mask, by default magnitude with the clients' layer densities.
        move, first_mask, interval: as in ``DynamicSparseTraining``; by default gradients grow weights, and the mask
            moves in the last step of every tenth round.
        decay: as in ``DynamicSparseTraining``, by default as a cosine over 50 rounds (the authors: half of all).

    >>> from flash_pl import FederatedTrainer
    >>> trainer = FederatedTrainer(FedDST(prune_rate=0.2), density=0.05, rounds=50, cohort=10)
    """

    def __init__(
        self,
        prune_rate: float = 0.25,
        voter: Vote | None = None,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
        decay: RateDecay | None = None,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(
            prune_rate,
            move or Move(growth=Gradient(), redistribution=KeepLayers()),
            first_mask or FirstMask(distribution=ERK()),
            decay or Cosine(rounds=50),
            interval or LastStep(rounds=10),
        )
        self.voter = voter or MagnitudeVote()

    def aggregator(self, tiers: int) -> FedAvg:
        return MaskedAverage() if tiers > 1 else ZeroingMaskedAverage()

    def rate(self, context: ClientContext, step: int) -> float:
        # The first move drops the whole rate.
        return self.prune_rate * self.decay(context.round - 1, min(1.0, step / context.steps))

    def on_aggregate(self, server: ServerState, updates: Sequence[ClientUpdate], round: int) -> None:
        if self.interval.in_round(round):
            super().on_aggregate(server, updates, round)
