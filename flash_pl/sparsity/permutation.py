"""The beginning of a random permutation, without the rest of it."""

import numpy as np
import torch
from torch import Tensor

LARGE = 1 / 8  # from this share of it on the whole permutation is drawn
LIMIT = 2**32 // 20  # of so many torch.randperm would take other random numbers


def first_of_permutation(n: int, k: int, generator: torch.Generator) -> Tensor:
    """The first ``k`` of ``torch.randperm(n)``, int64 ``[k]``; the generator ends where that would leave it.

    ``torch.randperm`` exchanges place i with one of the n - i places from there on, for i = 0 to n - 2 (Fisher and
    Yates), each with the next number of the generator. After k exchanges the first k places are final. In a permutation
    of millions the others take most of the time, since each goes to another place of the memory; here only their
    numbers are drawn.
    """
    if k >= LARGE * n or n >= LIMIT:
        return torch.randperm(n, generator=generator)[:k]
    steps = np.arange(k)
    partners = steps + _numbers(k, n - 1, generator) % (n - steps)
    return torch.from_numpy(_after_exchanges(partners))


def _numbers(k: int, count: int, generator: torch.Generator) -> np.ndarray:
    """The first ``k`` < ``count`` of the generator's next ``count`` numbers of 32 bits, uint32."""
    pairs = torch.empty(count // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    if count % 2:
        torch.empty(1, dtype=torch.int32).random_(generator=generator)
    read = pairs[: -(-k // 2)].numpy()  # the high half of each was drawn first
    return np.stack([read >> 32, read], axis=1).astype(np.uint32).reshape(-1)[:k]


def _after_exchanges(partners: np.ndarray) -> np.ndarray:
    """What is at place i of 0, 1, 2, ... after it was exchanged with place ``partners[i]`` >= i, for i = 0, 1, ...

    Before step i place p holds p, unless an earlier step had it as its partner: then what the place of that step, the
    last of them, held before that.
    """
    shift = len(partners).bit_length()
    steps = np.sort(partners << shift | np.arange(len(partners)))  # by partner, then by step
    found, mask = partners.copy(), (1 << shift) - 1
    again = np.flatnonzero(steps[1:] >> shift == steps[:-1] >> shift)  # the same partner as the step before it
    asking, step = steps[again + 1] & mask, steps[again] & mask
    while len(asking):  # what did the place of ``step`` hold before that step?
        found[asking] = step
        before = steps[np.searchsorted(steps, step << shift | step) - 1]
        exchanged = (before >> shift == step) & (before & mask < step)
        asking, step = asking[exchanged], before[exchanged] & mask
    return found
