"""Where every random number comes from: a generator named by (seed, purpose, round, client)."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """A 63-bit seed that is a fixed function of its four arguments and unrelated between any two of them.

    No draw depends on what was drawn before it, so the result of a run depends neither on the order of the clients
    nor on the process that trained them, and a resumed run needs no generator state.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{round}/{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, round: int = 0, client: int = 0) -> torch.Generator:
    """A CPU generator seeded by ``derive``. It stays on the CPU so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, round, client))


def seed_global_rng_(value: int, device: torch.device) -> None:
    """Seed the generators from which a module on ``device`` draws by itself (dropout): torch's, numpy's and Python's.

    ``torch.manual_seed`` would do it for all devices; where CUDA has not been used yet it writes a stack trace into a
    list that grows with every call.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    np.random.seed(value % 2**32)  # all that it takes
    random.seed(value)


@contextmanager
def preserve_global_rng(device: torch.device) -> Iterator[None]:
    """What ``seed_global_rng_`` seeds is afterwards as it was before, whatever happens inside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
