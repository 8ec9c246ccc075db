"""Layers whose time follows the density of a mask, compiled for CPUs; torch takes over where they are not installed."""

from flash_pl.kernels.conv import sparse_conv2d
from flash_pl.kernels.geometry import Plan
from flash_pl.kernels.library import available
from flash_pl.kernels.linear import sparse_linear
from flash_pl.kernels.norm import batch_norm
from flash_pl.kernels.pattern import SparsePattern
from flash_pl.kernels.pool import max_pool2d
from flash_pl.kernels.sink import Sink
from flash_pl.kernels.support import computes, reaches, worthwhile

__all__ = [
    "Plan",
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
