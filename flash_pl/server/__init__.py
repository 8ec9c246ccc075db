"""The server's half of a round: who takes part, how weights are averaged, how the mask is voted."""

from flash_pl.server.aggregate import FedAvg, MaskedAverage, ZeroingMaskedAverage
from flash_pl.server.average import RoundAverage
from flash_pl.server.layer_budget import AggregateBudget, AverageBudget, LayerBudget
from flash_pl.server.optimizer import FedAdam, FedAvgM, ServerOptimizer
from flash_pl.server.order_free import OrderFreeSum
from flash_pl.server.sampler import (
    AvailabilitySampler,
    ClientSampler,
    Population,
    RoundRobinSampler,
    SampleWeightedSampler,
    UniformSampler,
)
from flash_pl.server.state import ServerState
from flash_pl.server.trace import TraceSampler
from flash_pl.server.vote import ConsensusVote, Keep, MagnitudeVote, MajorityVote, RankedVote, TruncatingVote, Vote

__all__ = [
    "AggregateBudget",
    "AvailabilitySampler",
    "AverageBudget",
    "ClientSampler",
    "ConsensusVote",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "Keep",
    "LayerBudget",
    "MagnitudeVote",
    "MajorityVote",
    "MaskedAverage",
    "OrderFreeSum",
    "Population",
    "RankedVote",
    "RoundAverage",
    "RoundRobinSampler",
    "SampleWeightedSampler",
    "ServerOptimizer",
    "ServerState",
    "TraceSampler",
    "TruncatingVote",
    "UniformSampler",
    "Vote",
    "ZeroingMaskedAverage",
]
