"""The first numbers of a random permutation, without drawing the rest of it."""

import numpy as np
import torch
from torch import Tensor

from flash_pl.kernels.twister import draw_words

LARGE = 1 / 8  # for k of at least this share of n, drawing the whole permutation is faster
LIMIT = 2**32 // 20  # from this n on, torch.randperm draws its random numbers in another way


def first_of_permutation(n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return the first ``k`` numbers of ``torch.randperm(n, generator=generator)``, int64 ``[k]``.

    torch.randperm exchanges place i of 0, 1, ..., n - 1 with a random place >= i, for i = 0 to n - 2 (Fisher, Yates).
    After k exchanges the first k places are final. This function stops there, which saves time if k is much below n.
    It also passes over the random numbers of the other exchanges, so the generator ends in the same state as for
    randperm.
    Random masks are drawn this way. Any other way of drawing would change the results of every published run.

    >>> first_of_permutation(1000, 3, torch.Generator().manual_seed(0)).tolist()
    [44, 37, 675]
    >>> torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:3].tolist()
    [44, 37, 675]
    """
    if k >= LARGE * n or n >= LIMIT:
        return torch.randperm(n, generator=generator)[:k]
    steps = np.arange(k)
    partners = steps + draw_words(generator, n - 1, wanted=k) % (n - steps)
    return torch.from_numpy(_exchange(partners))


def _exchange(partners: np.ndarray) -> np.ndarray:
    """Exchange place i of the list 0, 1, 2, ... with place ``partners[i]`` >= i, for each i; return the first places.

    The list is never built. Step i moves the number at place p = ``partners[i]`` to place i, where it stays. Before the
    step, place p holds p, unless p was the partner of earlier steps. In that case it holds the number that the last of
    these steps, j, found at its own place j, and the same question must be answered for place j before step j.
    """
    shift = len(partners).bit_length()
    steps = np.sort(partners << shift | np.arange(len(partners)))  # (partner, step) in one integer, sorted
    result, mask = partners.copy(), (1 << shift) - 1
    repeated = np.flatnonzero(steps[1:] >> shift == steps[:-1] >> shift)  # the same partner as in an earlier step
    target, step = steps[repeated + 1] & mask, steps[repeated] & mask
    while len(target):  # which number was at place ``step`` before that step?
        result[target] = step
        before = steps[np.searchsorted(steps, step << shift | step) - 1]
        exchanged = (before >> shift == step) & (before & mask < step)
        target, step = target[exchanged], before[exchanged] & mask
    return result
