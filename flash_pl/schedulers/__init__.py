"""Methods of federated sparse training, one small file each."""

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.dense import Dense
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.jmwst import JMWST
from flash_pl.schedulers.nst import NST
from flash_pl.schedulers.pdst import PDST
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.schedulers.spdst import SPDST

__all__ = ["JMWST", "NST", "PDST", "SPDST", "Dense", "DynamicSparseTraining", "Sensitivity", "SparseScheduler"]
