"""What a client sends to the server. The server sees nothing else, so counting a report counts all traffic."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.sparsity import pack_bits, unpack_bits


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
    trained: Tensor  # float64 [layers], densities at which its training is counted
    metrics: dict[str, float]  # what the module logged while training, means over the round
    dense_gradients: float = 0.0  # share of its steps that computed the gradients of pruned weights
    extra: dict[str, Tensor] = field(default_factory=dict)  # a scheduler's own tensors
    tier: int = 0  # of the budget under which the client trained; the server knows it anyway
    costs: dict[str, float] = field(default_factory=dict)  # what the round has cost with this client
    seconds: float = 0.0  # simulated ones from the beginning of the round to its arrival
    late: bool = False  # it comes after the round's deadline


@dataclass(frozen=True)
class Ballot:
    """What is kept of a report until the vote: everything but the weights. All processes of a run get all ballots."""

    client: int
    samples: int
    mask: Tensor
    densities: Tensor
    trained: Tensor
    metrics: dict[str, float]
    extra: dict[str, Tensor]
    dense_gradients: float = 0.0
    tier: int = 0
    costs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    late: bool = False

    @classmethod
    def of(cls, report: Report) -> "Ballot":
        """The ballot of a report; a scheduler's tensors are copied, they may be views of the client's weights."""
        extra = {name: tensor.clone() for name, tensor in report.extra.items()}
        return cls(**{part.name: getattr(report, part.name) for part in fields(cls)} | {"extra": extra})

    def to(self, device: torch.device) -> "Ballot":
        """The ballot with its tensors on ``device``."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return replace(self, mask=self.mask.to(device), extra=extra)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: tensors on the CPU, the mask at one bit a weight."""
        extra = {name: tensor.cpu() for name, tensor in self.extra.items()}
        return vars(self) | {"mask": pack_bits(self.mask), "maskable": len(self.mask), "extra": extra}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mask = unpack_bits(state["mask"], state.pop("maskable"))
        self.__dict__.update(state | {"mask": mask})
