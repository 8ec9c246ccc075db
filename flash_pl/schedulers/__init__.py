"""Sparse schedulers, one per method of federated sparse training, and their timing."""

from flash_pl.schedulers.base import FirstStage, SparseScheduler
from flash_pl.schedulers.feddst import FedDST
from flash_pl.schedulers.fedrts import FedRTS
from flash_pl.schedulers.fiarse import FIARSE
from flash_pl.schedulers.flash import JMWST, NST, PDST, SPDST, Dense, DynamicSparseTraining, Sensitivity
from flash_pl.schedulers.heterofl import HeteroFL
from flash_pl.schedulers.magnitude_upload import MagnitudeUpload, SparsyFed, TopK, ZeroFL
from flash_pl.schedulers.ssfl import SSFL, SaliencyStage, SaliencyTrainee
from flash_pl.schedulers.stead import STEAD
from flash_pl.schedulers.timing import (
    AfterTraining,
    Constant,
    Cosine,
    EveryEpoch,
    EverySteps,
    Interval,
    LastStep,
    Linear,
    RateDecay,
)

__all__ = [
    "AfterTraining",
    "Constant",
    "Cosine",
    "Dense",
    "DynamicSparseTraining",
    "EveryEpoch",
    "EverySteps",
    "FIARSE",
    "FedDST",
    "FedRTS",
    "FirstStage",
    "HeteroFL",
    "Interval",
    "JMWST",
    "LastStep",
    "Linear",
    "MagnitudeUpload",
    "NST",
    "PDST",
    "RateDecay",
    "SPDST",
    "SSFL",
    "STEAD",
    "SaliencyStage",
    "SaliencyTrainee",
    "Sensitivity",
    "SparseScheduler",
    "SparsyFed",
    "TopK",
    "ZeroFL",
]
