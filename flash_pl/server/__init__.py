"""The server's half of a round: sampling of the cohort, aggregation of the weights, voting on the mask."""

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
from flash_pl.server.updates import ClientUpdate
from flash_pl.server.votes import (
    AggregateBudget,
    ConsensusVote,
    KeepMask,
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
    "ClientSampler",
    "ClientUpdate",
    "ConsensusVote",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "KeepMask",
    "LayerBudget",
    "MagnitudeVote",
    "MajorityVote",
    "MaskedAverage",
    "MeanBudget",
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
