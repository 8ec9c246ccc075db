"""A trained sparse model, independent of the code that defines and trains it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SparseModel:
    """A trained model as tensors and masks by name, ready to be exported to a device.

    Attributes:
        tensors: state dict of the network, contiguous on the CPU; pruned weights are 0.
        masks: mask of each maskable weight by its name, bool in the weight's shape, 1 for active weights.
        facts: other information as text, such as the scheduler, the density and the data set.

    >>> import torch
    >>> weight = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    >>> model = SparseModel({"fc.weight": weight}, {"fc.weight": weight != 0}, {"data": "digits"})
    >>> model.active, model.maskable, model.density, model.nbytes
    (1, 4, 0.25, 16)
    """

    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    facts: dict[str, str]

    @property
    def active(self) -> int:
        """Number of active weights over all masks."""
        return sum(int(mask.count_nonzero()) for mask in self.masks.values())

    @property
    def maskable(self) -> int:
        """Number of weights that can be masked."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Active weights divided by maskable weights."""
        return self.active / max(1, self.maskable)

    @property
    def densities(self) -> dict[str, float]:
        """Density of each mask by the name of its weight."""
        return {name: int(mask.count_nonzero()) / max(1, mask.numel()) for name, mask in self.masks.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in dense form."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
