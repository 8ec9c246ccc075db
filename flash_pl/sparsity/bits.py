"""Masks at one bit a weight, for keeping and sending many of them."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


def pack_bits(mask: Tensor) -> Tensor:
    """A mask (bool ``[n]``, any device) as bits on the CPU, uint8 ``[ceil(n / 8)]``, the first weight in the high bit.

    >>> pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True]))
    tensor([160, 128], dtype=torch.uint8)
    """
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy()))
    return pack_bits_there(mask).cpu()


def pack_bits_there(mask: Tensor) -> Tensor:
    """What ``pack_bits`` makes, on the device of the mask: an eighth of it is left to be copied."""
    eights = pad(mask.byte(), (0, -len(mask) % 8)).view(-1, 8)
    return (eights << torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, size: int) -> Tensor:
    """The mask of ``size`` weights that ``pack_bits`` packed, on the CPU."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(bool))
