"""Masks at one bit a weight, for keeping and sending many of them."""

import numpy as np
import torch
from torch import Tensor


def pack_bits(mask: Tensor) -> Tensor:
    """A mask (bool ``[n]``, any device) as bits on the CPU, uint8 ``[ceil(n / 8)]``, the first weight in the high bit.

    >>> pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True]))
    tensor([160, 128], dtype=torch.uint8)
    """
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def unpack_bits(bits: Tensor, size: int) -> Tensor:
    """The mask of ``size`` weights that ``pack_bits`` packed, on the CPU."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(bool))
