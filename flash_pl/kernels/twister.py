"""Numbers of torch's generator on the CPU, without making those that nobody reads."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from flash_pl.kernels.library import compiled, library

WORDS = 624  # of 32 bits, the state of the Mersenne Twister
# Where ``Generator.get_state`` has them: 1 + the number of words that are not drawn yet, int32; the place of the next
# one; the words, each in 8 bytes.
LEFT, NEXT, STATE = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * WORDS)


def draw_words(generator: torch.Generator, count: int, wanted: int) -> NDArray[np.uint32]:
    """Draw ``count`` numbers of 32 bits from a generator on the CPU; return the first ``wanted`` < ``count`` of them.

    The generator ends in the state after ``count`` numbers. Torch can only get there by making all of them, which
    takes ten times longer than going on from state to state.

    >>> draw_words(torch.Generator().manual_seed(0), 1000, wanted=2)
    array([2357136044, 2546248239], dtype=uint32)
    """
    return (_by_states if _knows_states() else _by_torch)(generator, count, wanted)


def _by_torch(generator: torch.Generator, count: int, wanted: int) -> NDArray[np.uint32]:
    pairs = torch.empty(count // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    if count % 2:
        torch.empty(1, dtype=torch.int32).random_(generator=generator)
    used = pairs[: -(-wanted // 2)].numpy()  # the upper half of each pair is the earlier number
    return np.stack([used >> 32, used], axis=1).astype(np.uint32).reshape(-1)[:wanted]


def _by_states(generator: torch.Generator, count: int, wanted: int) -> NDArray[np.uint32]:
    tensor = generator.get_state()
    raw = tensor.numpy()
    state = raw[STATE].view(np.uint64).astype(np.uint32)
    left = raw[LEFT].view(np.int32).astype(np.int64) - 1
    numbers = np.empty(wanted, dtype=np.uint32)
    compiled().draw(state.ctypes.data, left.ctypes.data, count, wanted, numbers.ctypes.data)
    if count:
        raw[STATE].view(np.uint64)[:] = state
        raw[LEFT].view(np.int32)[:] = left + 1
        raw[NEXT].view(np.uint64)[:] = WORDS - left
        generator.set_state(tensor)
    return numbers


@cache
def _knows_states() -> bool:
    """Whether the library is installed and torch arranges a state as above, which is torch's own matter."""
    if library() is None:
        return False
    ours, reference = (torch.Generator().manual_seed(5) for _ in range(2))
    if len(ours.get_state()) < STATE.stop:
        return False
    for count in (4, 2 * WORDS):  # from a fresh state, and from the middle of one to the middle of another
        same = np.array_equal(_by_states(ours, count, count - 1), _by_torch(reference, count, count - 1))
        if not same or not torch.equal(ours.get_state(), reference.get_state()):
            return False
    return True
