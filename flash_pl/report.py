"""What a client sends to the server. The server sees nothing else, so counting a report counts all traffic."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Report:
    """One client's result of one round.

    ``weights`` is the client's arena itself, not a copy: the server uses it before the next client overwrites it.
    """

    client: int
    samples: int
    weights: Tensor  # [layout.size], pruned weights exactly 0
    mask: Tensor  # bool [layout.maskable]
    densities: Tensor  # float64 [layers]
    metrics: dict[str, float]  # what the module logged while training, means over the round
    extra: dict[str, Tensor] = field(default_factory=dict)  # a scheduler's own tensors
    tier: int = 0  # of the budget under which the client trained; the server knows it anyway


@dataclass(frozen=True)
class Ballot:
    """What is kept of a report until the vote: everything but the weights."""

    client: int
    samples: int
    mask: Tensor
    densities: Tensor
    extra: dict[str, Tensor]
    tier: int = 0

    @classmethod
    def of(cls, report: Report) -> "Ballot":
        """The ballot of a report."""
        return cls(report.client, report.samples, report.mask, report.densities, report.extra, report.tier)
