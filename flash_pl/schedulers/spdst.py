"""SPDST: a fixed mask with the layer densities that stage 1 found."""

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.sparsity import Distribution, Draw, Initialisation, Rescale


class SPDST(SparseScheduler):
    """Sensitivity-driven pre-defined sparse training (FLASH stage 1, then a mask that never moves).

    Args:
        sensitivity: the settings of stage 1.
        distribution: layer densities of the mask with which stage 1 starts.
        draw, rescale, initialise: as in :class:`SparseScheduler`.
    """

    def __init__(
        self,
        sensitivity: Sensitivity | None = None,
        distribution: Distribution | None = None,
        draw: Draw | None = None,
        rescale: Rescale | None = None,
        initialise: Initialisation | None = None,
    ) -> None:
        super().__init__(distribution, draw, rescale, initialise)
        self.sensitivity = sensitivity or Sensitivity()
