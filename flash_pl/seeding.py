"""Where every random number comes from: a generator named by (seed, purpose, round, client)."""

import hashlib

import torch


def derive(seed: int, purpose: str, round: int = 0, client: int = 0) -> int:
    """A 63-bit seed that is a fixed function of its four arguments and unrelated between any two of them.

    No draw depends on what was drawn before it, so the result of a run depends neither on the order of the clients
    nor on the process that trained them, and a resumed run needs no generator state.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{round}/{client}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, round: int = 0, client: int = 0) -> torch.Generator:
    """A CPU generator seeded by :func:`derive`. It stays on the CPU so that every device sees the same draws."""
    return torch.Generator().manual_seed(derive(seed, purpose, round, client))


def seed_global_(value: int, device: torch.device) -> None:
    """Seed the generators from which a module on ``device`` draws by itself (dropout).

    ``torch.manual_seed`` would do it for all devices; where CUDA has not been used yet it writes a stack trace into a
    list that grows with every call.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
