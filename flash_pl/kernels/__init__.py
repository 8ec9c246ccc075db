"""C for CPUs: layers in time proportional to the number of active weights; without a compiler torch computes them.

It also passes over numbers of torch's generator (``flash_pl.kernels.twister``).
"""

from flash_pl.kernels.conv import sparse_conv2d, sparse_linear
from flash_pl.kernels.deferred_norm import deferred, settled
from flash_pl.kernels.fixed_point import add_integers_, chunk_size
from flash_pl.kernels.layout import contiguous, is_batch_innermost
from flash_pl.kernels.library import available
from flash_pl.kernels.norm import Normalization, moments
from flash_pl.kernels.pattern import Sink, SparsePattern
from flash_pl.kernels.pool import max_pool2d
from flash_pl.kernels.pruning import largest_outside, masked_copy_, prune_
from flash_pl.kernels.support import computes, images_worthwhile, linear_worthwhile, reaches

__all__ = [
    "Normalization",
    "Sink",
    "SparsePattern",
    "add_integers_",
    "available",
    "chunk_size",
    "computes",
    "contiguous",
    "deferred",
    "images_worthwhile",
    "is_batch_innermost",
    "largest_outside",
    "linear_worthwhile",
    "masked_copy_",
    "max_pool2d",
    "moments",
    "prune_",
    "reaches",
    "settled",
    "sparse_conv2d",
    "sparse_linear",
]
