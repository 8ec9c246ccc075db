"""C for CPUs: layers in time proportional to the number of active weights; without a compiler torch computes them.

It also passes over numbers of torch's generator (``flash_pl.kernels.twister``).
"""

from flash_pl.kernels.conv import sparse_conv2d, sparse_linear
from flash_pl.kernels.geometry import Packing
from flash_pl.kernels.library import available
from flash_pl.kernels.norm import batch_norm
from flash_pl.kernels.pattern import Sink, SparsePattern
from flash_pl.kernels.pool import max_pool2d
from flash_pl.kernels.support import computes, reaches, worthwhile

__all__ = [
    "Packing",
    "Sink",
    "SparsePattern",
    "available",
    "batch_norm",
    "computes",
    "max_pool2d",
    "reaches",
    "sparse_conv2d",
    "sparse_linear",
    "worthwhile",
]
