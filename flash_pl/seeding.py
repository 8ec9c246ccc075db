"""Seeds: every random draw of a run has a generator of its own, named by (seed, purpose, round, client)."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """Return a 63-bit seed that depends on the four arguments and on nothing else.

    No draw depends on an earlier draw. So the result of a run does not depend on the order of the clients or on the
    process that trains them, and a resumed run needs no state of a generator.

    >>> derive_seed(0, "cohort", round=1)
    7219566367586880376
    >>> derive_seed(0, "cohort", round=1) == derive_seed(0, "cohort", round=2)
    False
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{round}/{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, round: int = 0, client: int = 0) -> torch.Generator:
    """Return a generator with the seed of ``derive_seed``. It is on the CPU, so that draws are the same on any device.

    >>> torch.equal(torch.rand(3, generator=generator(0, "noise")), torch.rand(3, generator=generator(0, "noise")))
    True
    """
    return torch.Generator().manual_seed(derive_seed(seed, purpose, round, client))


def seed_global_rng_(value: int, device: torch.device) -> None:
    """Seed the global generators of torch, numpy and Python, from which layers such as dropout draw on ``device``.

    ``torch.manual_seed`` seeds all devices, but as long as CUDA is not initialized each call stores a stack trace in a
    list that is never emptied.

    >>> with preserve_global_rng(torch.device("cpu")):
    ...     seed_global_rng_(7, torch.device("cpu"))
    ...     torch.initial_seed()
    7
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    np.random.seed(value % 2**32)  # numpy takes 32 bits
    random.seed(value)


@contextmanager
def preserve_global_rng(device: torch.device) -> Iterator[None]:
    """Restore the generators that ``seed_global_rng_`` seeds at the end of the block, also after an error.

    >>> before = torch.get_rng_state()
    >>> with preserve_global_rng(torch.device("cpu")):
    ...     noise = torch.randn(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
