"""A trained model by itself: tensors and masks by name, without the code that made them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SparseModel:
    """What a device needs of a model.

    Attributes:
        tensors: the network's state dict, row-major on the CPU; pruned weights are 0.
        masks: which weights are active, bool in the tensor's shape, for each of those that can be masked.
        facts: what else there is to know, as text: method, density (the masks' own), data, ...
    """

    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    facts: dict[str, str]

    @property
    def active(self) -> int:
        """Number of active weights, over all masks."""
        return sum(int(mask.count_nonzero()) for mask in self.masks.values())

    @property
    def maskable(self) -> int:
        """Number of weights that can be masked."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Active share of all weights that can be masked."""
        return self.active / max(1, self.maskable)

    @property
    def densities(self) -> dict[str, float]:
        """Active share of each layer."""
        return {name: int(mask.count_nonzero()) / max(1, mask.numel()) for name, mask in self.masks.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are, dense."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
