"""FedDST: masks move towards large gradients at the end of a client's round, the server averages per weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_pl.schedulers.flash import DynamicSparseTraining
from flash_pl.schedulers.timing import Cosine, Interval, LastStep, RateDecay
from flash_pl.server import FedAvg, MagnitudeVote, MaskedAverage, ServerState, Vote, ZeroingMaskedAverage
from flash_pl.server.updates import Ballot
from flash_pl.sparsity import ERK, FirstMask, Gradient, KeepLayers, Move


class FedDST(DynamicSparseTraining):
    """Federated dynamic sparse training.

    Source: Bibikar et al., Federated Dynamic Sparse Training, AAAI 2022; the authors' code was read. Layer densities
    are Erdos-Renyi-Kernel ones and stay. In every tenth round a client, after its last step, drops in every layer the
    weights of smallest magnitude and grows as many where the gradient of its last batch is largest. The server
    averages every weight over the clients that hold it, by their samples, 0 where nobody does, and keeps the largest
    of every layer. Values go both ways, masks when they have moved. With tiers of devices a weight that nobody holds
    becomes 0 where one of the clients had it and has dropped it, and stays where none of them could have it.

    Other than there: the first mask is random, not of the largest initial weights; ERK scales densities, as RigL's code
    does, not sparsities: MNISTNet's conv2 has 0.020 at d = 0.05, there 0.038; every layer drops the same fraction,
    there what their ERK of a lower density says; the first move is in the first round, not in the second, its gradient
    that of the last step, not one taken after it; a survivor is never chosen to grow, so that counts are exact; the
    rate enters once, not squared; layers that the model excludes stay dense.

    Args:
        prune_rate: the fraction that the first move drops.
        voter: picks the server's mask, by default magnitude with the clients' layer densities.
        move, first_mask, decay, interval: as in ``DynamicSparseTraining``; by default the rate falls as a cosine
            over 50 rounds (the authors: half of all).
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

    def on_round_start(self, server: ServerState, masks: Sequence[Tensor], round: int) -> None:
        self.offered = masks

    def on_aggregate(self, server: ServerState, ballots: Sequence[Ballot], round: int) -> None:
        if self.interval.in_round(round):
            offered = torch.stack([self.offered[ballot.tier] for ballot in ballots]).any(0)
            held = torch.stack([ballot.mask for ballot in ballots]).any(0)
            server.weights[: server.layout.maskable].masked_fill_(offered & ~held, 0.0)
            super().on_aggregate(server, ballots, round)
