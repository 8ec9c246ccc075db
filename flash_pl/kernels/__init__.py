"""Kernels in C whose time follows the density of a mask, for CPUs; everything works without them, on torch's."""

from flash_pl.kernels.conv import Sink, sparse_conv2d, sparse_linear
from flash_pl.kernels.library import available
from flash_pl.kernels.pattern import Pattern
from flash_pl.kernels.pool import max_pool2d
from flash_pl.kernels.rule import worthwhile

__all__ = ["Pattern", "Sink", "available", "max_pool2d", "sparse_conv2d", "sparse_linear", "worthwhile"]
