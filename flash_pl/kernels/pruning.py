"""Weights under a mask: each function passes over memory once, which is what it costs."""

import struct

import torch
from torch import Tensor

from flash_pl.kernels.library import address_at, compiled, library, run_in_parts


def masked_copy_(weights: Tensor, source: Tensor, mask: Tensor) -> None:
    """Set ``weights`` to ``source * mask``.

    Args:
        weights, source: of any shape, dtype and device.
        mask: bool, of the same shape.

    >>> weights = torch.empty(3)
    >>> masked_copy_(weights, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    >>> weights
    tensor([1., 0., 3.])
    """
    if not _fit(weights, mask) or not _fit(source, mask):
        torch.mul(source, mask, out=weights)
        return
    native = compiled()

    def compute(first: int, last: int) -> None:
        native.masked(address_at(source, first), address_at(mask, first), last - first, address_at(weights, first))

    run_in_parts(compute, len(weights))


def prune_(weights: Tensor, mask: Tensor) -> None:
    """Multiply ``weights`` by ``mask``, bool of the same shape. Weights that are pruned already are only read."""
    if not _fit(weights, mask):
        weights.mul_(mask)
        return
    native = compiled()

    def compute(first: int, last: int) -> None:
        native.prune(address_at(weights, first), address_at(mask, first), last - first)

    run_in_parts(compute, len(weights))


def largest_outside(weights: Tensor, mask: Tensor) -> float:
    """Return the largest magnitude of the weights outside of ``mask``, bool of the same shape.

    Without such weights it is 0. If one of them is NaN, it is NaN.

    >>> largest_outside(torch.tensor([-4.0, 2.0, -3.0]), torch.tensor([True, False, False]))
    3.0
    """
    if not _fit(weights, mask):
        outside = weights.masked_fill(mask, 0).abs()
        return float(outside.max()) if outside.numel() else 0.0
    bits = compiled().largest_outside(weights.data_ptr(), mask.data_ptr(), len(weights))
    largest: float = struct.unpack("f", struct.pack("i", bits))[0]
    return largest


def _fit(weights: Tensor, mask: Tensor) -> bool:
    """Whether the kernels can compute with vectors."""
    if library() is None or weights.dtype != torch.float32 or weights.device.type != "cpu":
        return False
    return weights.dim() == 1 and weights.is_contiguous() and mask.is_contiguous()
