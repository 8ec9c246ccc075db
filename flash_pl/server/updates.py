"""What a client reports to the server after a round."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flash_pl.sparsity import pack_bits, unpack_bits


@dataclass(frozen=True)
class ClientUpdate:
    """The result of one client's local training, without its weights.

    The weights go beside it: they are a view of memory that the next client overwrites, so the aggregator adds them to
    its sum at once (``FedAvg.add``). Everything here may be kept, and all processes of a run get all updates.

    Attributes:
        client, tier: id of the client, its tier of the budget (0 is the smallest).
        samples: n_i, number of training samples.
        epoch_samples: samples of a local epoch, fewer than n_i with ``drop_last``; None for n_i.
        extra_samples: of a batch after the last epoch that gave gradients and no step.
        mask: the client's mask after training, bool ``[layout.maskable]``.
        densities: layer densities of the mask, float64 ``[layers]``.
        trained_densities: layer densities at which FLOPs of the training are counted, float64 ``[layers]``.
        metrics: what the module logged while it trained, reduced over its batches.
        reductions: sum, min or max, for metrics that are not means.
        dense_gradients: share of the steps that computed gradients of pruned weights too.
        extra: a scheduler's own tensors (``SparseScheduler.on_client_end``), sent and counted with the update.
        costs: bytes of the round with this client, by column of the metrics.
        seconds: simulated seconds from the start of the round until the update arrives.
        late: the update arrives after the deadline of the round and is not aggregated.
        weight: of the update in averages and votes by samples (``ClientSampler.weights``); by default ``samples``.

    >>> mask, half = torch.tensor([True, False]), torch.tensor([0.5], dtype=torch.float64)
    >>> update = ClientUpdate(client=3, samples=60, mask=mask, densities=half, trained_densities=half)
    >>> update.weight, update.trained_samples(epochs=2)
    (60, 120)
    """

    client: int
    samples: int
    mask: Tensor
    densities: Tensor
    trained_densities: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    reductions: dict[str, str] = field(default_factory=dict)
    epoch_samples: int | None = None
    extra_samples: int = 0
    dense_gradients: float = 0.0
    extra: dict[str, Tensor] = field(default_factory=dict)
    tier: int = 0
    costs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    late: bool = False
    weight: float = None  # type: ignore[assignment]  # samples, see __post_init__

    def __post_init__(self) -> None:
        if self.weight is None:
            object.__setattr__(self, "weight", self.samples)

    def trained_samples(self, epochs: int) -> int:
        """How many samples went through ``epochs`` local epochs, and a batch after them."""
        return epochs * (self.samples if self.epoch_samples is None else self.epoch_samples) + self.extra_samples

    def to(self, device: torch.device) -> "ClientUpdate":
        """The same update with its mask and extra tensors on ``device``."""
        extra = {name: tensor.to(device) for name, tensor in self.extra.items()}
        return replace(self, mask=self.mask.to(device), extra=extra)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: tensors on the CPU, the mask at one bit a weight, and the kind of its device."""
        extra = {name: tensor.cpu() for name, tensor in self.extra.items()}
        packed = {"mask": pack_bits(self.mask), "maskable": len(self.mask), "device": self.mask.device.type}
        return vars(self) | packed | {"extra": extra}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpacked on this process's own device of that kind: it will be needed there.
        mask = unpack_bits(state["mask"].to(state.pop("device")), state.pop("maskable"))
        self.__dict__.update(state | {"mask": mask})
