"""The server's half of a round: who takes part, how weights are averaged, how the mask is voted."""

from flash_pl.server.aggregation import FedAvg, MaskedAverage, OrderFreeSum, ZeroingMaskedAverage
from flash_pl.server.optimizer import FedAdam, FedAvgM, RoundAverage, ServerOptimizer
from flash_pl.server.sampling import (
    AvailabilitySampler,
    ClientSampler,
    Population,
    RoundRobinSampler,
    SampleWeightedSampler,
    TraceSampler,
    UniformSampler,
)
from flash_pl.server.state import ServerState
from flash_pl.server.votes import (
    AggregateBudget,
    ConsensusVote,
    Keep,
    LayerBudget,
    MagnitudeVote,
    MajorityVote,
    MeanBudget,
    RankedVote,
    TruncatingVote,
    Vote,
)

__all__ = [
    "AggregateBudget",
    "AvailabilitySampler",
    "MeanBudget",
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
