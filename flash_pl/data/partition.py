"""How the training samples are dealt out to the clients. Every sample belongs to exactly one of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flash_pl.checks import check_integers, check_numbers
from flash_pl.errors import ConfigError


class Partition(Protocol):
    """(labels int64 ``[n]``, number of clients, generator) -> the sample indices of each client, int64."""

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]: ...


def even_sizes(samples: int, clients: int) -> list[int]:
    """n / N samples a client, one more for the first ones if it does not divide.

    Raises:
        ConfigError: more clients than samples.
    """
    if not 1 <= clients <= samples:
        raise ConfigError("clients", clients, f"an integer between 1 and the number of training samples, {samples}")
    return [samples // clients + (client < samples % clients) for client in range(clients)]


@dataclass(frozen=True)
class IID:
    """A random deal of equal size."""

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(labels), generator=generator)
        return list(order.split(even_sizes(len(labels), clients)))


@dataclass(frozen=True)
class Dirichlet:
    """Balanced latent Dirichlet allocation: equal sizes, a client's class mix drawn from Dir(alpha) (FLASH's).

    A client draws sample by sample a class from its mix, then a sample of that class, without replacement; classes that
    have run out drop from the mix.

    Args:
        alpha: concentration; 1 is non-IID, 1000 nearly IID.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        pools = _shuffled_classes(labels, generator)
        left = torch.tensor([len(pool) for pool in pools])
        parts = []
        for size in even_sizes(len(labels), clients):
            taken = _draw_counts(_dirichlet(self.alpha, len(pools), generator), left, size, generator)
            starts = [len(pool) - int(rest) for pool, rest in zip(pools, left, strict=True)]
            parts.append(torch.cat([p[s : s + int(k)] for p, s, k in zip(pools, starts, taken, strict=True)]))
            left = left - taken
        return parts


@dataclass(frozen=True)
class UnbalancedDirichlet:
    """Every class is split over the clients by its own Dir(alpha), so sizes differ too (Hsu et al., 2019, variant).

    Args:
        alpha: concentration.
        min_samples: the least that a client may get; a split that gives less is drawn again.
    """

    alpha: float = 1.0
    min_samples: int = 1
    attempts: int = 100

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)
        check_integers(min_samples=self.min_samples)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        even_sizes(len(labels), clients)
        pools = _shuffled_classes(labels, generator)
        for _ in range(self.attempts):
            splits = []
            for pool in pools:
                cuts = (_dirichlet(self.alpha, clients, generator).cumsum(0)[:-1] * len(pool)).round().long()
                splits.append(torch.tensor_split(pool, cuts))
            parts = [torch.cat(shares) for shares in zip(*splits, strict=True)]
            if min(map(len, parts)) >= self.min_samples:
                return parts
        raise ConfigError(
            "min_samples",
            self.min_samples,
            f"a number that alpha = {self.alpha} gives each of {clients} clients; {self.attempts} draws did not",
        )


@dataclass(frozen=True)
class LabelShards:
    """Samples sorted by label, cut into equal shards, a few random shards a client (McMahan et al., 2017, section 3).

    Args:
        shards_per_client: classes that a client sees, roughly.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        check_integers(shards_per_client=self.shards_per_client)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        owned = even_sizes(len(labels), clients)
        if owned[-1] < self.shards_per_client:
            raise ConfigError("shards_per_client", self.shards_per_client, f"at most {owned[-1]}, a client's samples")
        sizes = [size for own in owned for size in even_sizes(own, self.shards_per_client)]
        # The shards lie in the queue in random order, each of the size that makes its client's share even.
        order = torch.randperm(len(sizes), generator=generator).tolist()
        queue = torch.cat(_shuffled_classes(labels, generator)).split([sizes[shard] for shard in order])
        parts: list[list[Tensor]] = [[] for _ in range(clients)]
        for shard, samples in zip(order, queue, strict=True):
            parts[shard // self.shards_per_client].append(samples)
        return [torch.cat(part) for part in parts]


def _check_alpha(alpha: float) -> None:
    check_numbers(alpha=alpha)
    if not 0 < alpha < math.inf:
        raise ConfigError("alpha", alpha, "a finite number above 0")


def _shuffled_classes(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    order = torch.randperm(len(labels), generator=generator)
    return [order[labels[order] == label] for label in labels.unique().tolist()]


def _dirichlet(alpha: float, size: int, generator: torch.Generator) -> Tensor:
    draws = torch._standard_gamma(torch.full((size,), alpha, dtype=torch.float64), generator=generator)
    # Very small alpha can underflow to no mass at all: one place then takes everything.
    if not draws.sum() > 0:
        draws[torch.randint(size, (), generator=generator)] = 1.0
    return draws / draws.sum()


def _draw_counts(mix: Tensor, left: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """How many samples of each class: ``size`` in all, never more than are ``left``."""
    taken = torch.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        open_mix = mix * (left > taken)
        if not open_mix.sum() > 0:
            open_mix = (left - taken).double()
        drawn = torch.multinomial(open_mix, missing, replacement=True, generator=generator).bincount(minlength=len(mix))
        # What exceeds a class is drawn again from the others.
        taken = torch.minimum(taken + drawn, left)
    return taken


def hold_out(parts: Sequence[Tensor], share: float, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Split every client's samples in two.

    Args:
        parts: each client's samples, indices into the training set.
        share: of each part that is held out, rounded to whole samples; one sample always stays for training.
        generator: draws which.

    Returns:
        What each client trains on, in the order of ``parts``, and what it holds out.
    """
    kept, held = [], []
    for part in parts:
        count = min(round(share * len(part)), len(part) - 1)
        out = torch.zeros(len(part), dtype=torch.bool)
        out[torch.randperm(len(part), generator=generator)[:count]] = True
        kept.append(part[~out])
        held.append(part[out])
    return kept, held
