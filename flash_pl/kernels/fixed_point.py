"""Sums of a model's weights as integers."""

import torch
from torch import Tensor

from flash_pl.kernels.library import address_at, compiled, library, run_in_parts


def chunk_size(device: torch.device) -> int:
    """Return how many values torch converts at once: on a CPU so many that they stay in the cache.

    On a GPU few chunks are few kernels to launch.
    """
    return 1 << 16 if device.type == "cpu" else 1 << 22


def add_integers_(sums: Tensor, values: Tensor, factor: float) -> None:
    """Add ``values * factor`` to ``sums``, each term rounded to the nearest integer, halves to the even one.

    The kernels pass over memory once and skip sums whose terms are 0, which are most of them for a sparse model.

    Args:
        sums: int64 ``[n]``, contiguous.
        values: ``[n]``, of any dtype and device.
        factor: the result must fit 64 bits.

    >>> sums = torch.tensor([100, 100, 100])
    >>> add_integers_(sums, torch.tensor([0.25, -0.75, 0.0]), 10.0)
    >>> sums
    tensor([102,  92, 100])
    """
    fits = values.dtype == torch.float32 and values.is_contiguous() and sums.is_contiguous()
    if library() is None or not fits or values.device.type != "cpu" or sums.device.type != "cpu":
        _add_by_torch(sums, values, factor)
        return
    native = compiled()

    def compute(first: int, last: int) -> None:
        native.accumulate(address_at(values, first), last - first, factor, address_at(sums, first))

    run_in_parts(compute, len(values))


def _add_by_torch(sums: Tensor, values: Tensor, factor: float) -> None:
    chunk = chunk_size(sums.device)
    floats = torch.empty(min(chunk, len(sums)), dtype=torch.float64, device=sums.device)
    integers = torch.empty_like(floats, dtype=torch.int64)
    for part, term in zip(sums.split(chunk), values.to(sums.device).split(chunk), strict=True):
        terms = floats[: len(term)].copy_(term).mul_(factor).round_()
        part.add_(integers[: len(term)].copy_(terms))
