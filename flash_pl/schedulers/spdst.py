"""SPDST: a fixed mask with the layer densities that stage 1 found."""

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.sparsity import FirstMask


class SPDST(SparseScheduler):
    """Sensitivity-driven pre-defined sparse training (FLASH stage 1, then a mask that never moves).

    Args:
        sensitivity: the settings of stage 1.
        first_mask: as in ``SparseScheduler``.
    """

    def __init__(
        self,
        sensitivity: Sensitivity | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(first_mask)
        self.first_stage = sensitivity or Sensitivity()
