"""PDST: a mask drawn at random before training and never moved."""

from flash_pl.schedulers.base import SparseScheduler


class PDST(SparseScheduler):
    """Pre-defined sparse training: consensus without a search (FLASH, baseline of stage 2)."""
