"""Methods of federated sparse training, one small file each, and what they are built of."""

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.decay import Constant, Cosine, Linear, RateDecay
from flash_pl.schedulers.dense import Dense
from flash_pl.schedulers.dst import DynamicSparseTraining
from flash_pl.schedulers.feddst import FedDST
from flash_pl.schedulers.fedrts import FedRTS
from flash_pl.schedulers.fiarse import FIARSE
from flash_pl.schedulers.first_stage import FirstStage
from flash_pl.schedulers.heterofl import HeteroFL
from flash_pl.schedulers.interval import EveryEpoch, EverySteps, Interval, LastStep
from flash_pl.schedulers.jmwst import JMWST
from flash_pl.schedulers.magnitude_upload import MagnitudeUpload
from flash_pl.schedulers.nst import NST
from flash_pl.schedulers.pdst import PDST
from flash_pl.schedulers.saliency import SaliencyStage, SaliencyTrainee
from flash_pl.schedulers.sensitivity import Sensitivity
from flash_pl.schedulers.sparsyfed import SparsyFed
from flash_pl.schedulers.spdst import SPDST
from flash_pl.schedulers.ssfl import SSFL
from flash_pl.schedulers.stead import STEAD
from flash_pl.schedulers.top_k import TopK
from flash_pl.schedulers.zerofl import ZeroFL

__all__ = [
    "ZeroFL",
    "SaliencyTrainee",
    "SaliencyStage",
    "SSFL",
    "SparsyFed",
    "HeteroFL",
    "FIARSE",
    "FedRTS",
    "FedDST",
    "JMWST",
    "NST",
    "PDST",
    "SPDST",
    "STEAD",
    "Constant",
    "Cosine",
    "Dense",
    "DynamicSparseTraining",
    "EveryEpoch",
    "EverySteps",
    "FirstStage",
    "Interval",
    "LastStep",
    "Linear",
    "MagnitudeUpload",
    "RateDecay",
    "Sensitivity",
    "SparseScheduler",
    "TopK",
]
