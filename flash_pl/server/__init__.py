"""The server's half of a round: who takes part, how weights are averaged, how the mask is voted."""

from flash_pl.server.aggregate import FedAvg, MaskedAverage, ZeroingMaskedAverage
from flash_pl.server.sampler import ClientSampler, UniformSampler
from flash_pl.server.state import ServerState
from flash_pl.server.vote import AggregateBudgetVote, AverageBudgetVote, Keep, MagnitudeVote, TruncatingVote, Vote

__all__ = [
    "AggregateBudgetVote",
    "AverageBudgetVote",
    "ClientSampler",
    "FedAvg",
    "Keep",
    "MagnitudeVote",
    "MaskedAverage",
    "ServerState",
    "TruncatingVote",
    "UniformSampler",
    "Vote",
    "ZeroingMaskedAverage",
]
