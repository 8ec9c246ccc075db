"""Masks and densities: tensors only, nothing of Lightning, clients or servers."""

from flash_pl.sparsity.bits import pack_bits, unpack_bits
from flash_pl.sparsity.budget import PositionBudget, SparsityBudget, Tier
from flash_pl.sparsity.budget_file import FileBudget
from flash_pl.sparsity.channels import channel_mask, feeds_another, widest
from flash_pl.sparsity.criteria import Criterion, Gradient, Magnitude, Random, Saliency, Scored, Seen
from flash_pl.sparsity.density import (
    ERK,
    BySize,
    Distribution,
    Given,
    Rescale,
    ScaleDown,
    ScaleOnce,
    Uniform,
    WaterFill,
    allot,
    total_count,
    water_fill,
)
from flash_pl.sparsity.draw import BernoulliDraw, Draw, ExactDraw, LargestDraw
from flash_pl.sparsity.first_mask import FirstMask
from flash_pl.sparsity.initial import AsDrawn, FanInPreserving, Initialisation, VariancePreserving
from flash_pl.sparsity.layers import layers_of
from flash_pl.sparsity.layout import Layout, Slot
from flash_pl.sparsity.mask_store import MaskStore
from flash_pl.sparsity.mismatch import distances, mismatch, overlaps, vote_counts
from flash_pl.sparsity.move import BernoulliMove, Move, Moved
from flash_pl.sparsity.nest import nested_masks
from flash_pl.sparsity.redistribution import KeepLayers, MeanMagnitude, Redistribution, TotalMagnitude
from flash_pl.sparsity.select import kth_largest, random_k, top_k, top_k_by_layer
from flash_pl.sparsity.sparse_model import SparseModel
from flash_pl.sparsity.structure import NM, Channels, Structure, StructuredDraw, Unstructured

__all__ = [
    "NM",
    "Channels",
    "Structure",
    "StructuredDraw",
    "Unstructured",
    "AsDrawn",
    "BernoulliDraw",
    "BernoulliMove",
    "BySize",
    "Criterion",
    "Distribution",
    "Draw",
    "ERK",
    "ExactDraw",
    "FanInPreserving",
    "FileBudget",
    "FirstMask",
    "Given",
    "Gradient",
    "Initialisation",
    "KeepLayers",
    "LargestDraw",
    "Layout",
    "Magnitude",
    "MaskStore",
    "MeanMagnitude",
    "Move",
    "Moved",
    "PositionBudget",
    "Random",
    "Redistribution",
    "Rescale",
    "Saliency",
    "ScaleDown",
    "ScaleOnce",
    "Scored",
    "Seen",
    "Slot",
    "SparseModel",
    "SparsityBudget",
    "Tier",
    "TotalMagnitude",
    "Uniform",
    "VariancePreserving",
    "WaterFill",
    "allot",
    "channel_mask",
    "feeds_another",
    "widest",
    "distances",
    "mismatch",
    "nested_masks",
    "pack_bits",
    "overlaps",
    "random_k",
    "kth_largest",
    "layers_of",
    "top_k",
    "top_k_by_layer",
    "total_count",
    "unpack_bits",
    "vote_counts",
    "water_fill",
]
