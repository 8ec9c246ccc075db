"""How samples are divided: training samples over the clients, each client's samples into training and validation, and
test samples over the clients.

All functions return sample indices. Every random choice comes from the generator that the caller gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from flash_pl.checks import check_integers, check_numbers
from flash_pl.errors import ConfigError

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Partition(Protocol):
    """Divides the training samples over the clients. Every sample goes to exactly one client.

    Any callable with this signature is a partition. One that has an attribute ``needs_labels`` which is False gets 0 as
    the label of every sample, so that no labels must be read.

    >>> def halves(labels, clients, generator):  # every client gets the same number, in the order of the files
    ...     return list(torch.arange(len(labels)).chunk(clients))
    >>> from flash_pl.data import TensorData
    >>> images, labels = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    >>> data = TensorData((images, labels), (images, labels), clients=4, partition=halves)
    >>> data.setup("fit")
    >>> data.client_sizes
    [5, 5, 5, 5]
    """

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        """Return the sample indices of each client, int64, given the ``labels`` of all samples, int64 ``[n]``."""
        ...


@dataclass(frozen=True)
class IID:
    """Divide the samples at random into parts of equal size.

    >>> parts = IID()(torch.arange(10) % 2, 3, torch.Generator().manual_seed(0))
    >>> [len(part) for part in parts]
    [4, 3, 3]
    """

    needs_labels: ClassVar[bool] = False

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(labels), generator=generator)
        return list(order.split(even_sizes(len(labels), clients)))


@dataclass(frozen=True)
class Dirichlet:
    """Parts of equal size; the class mix of each client is drawn from Dir(alpha), as in FLASH (balanced LDA).

    A client draws a class from its mix, then a sample of this class without replacement, until its part is full. A
    class without samples left is removed from the mix.

    Args:
        alpha: concentration. 1 is non-IID, 1000 is nearly IID.

    With a small alpha a client has samples of few classes:

    >>> labels = torch.arange(40) % 2
    >>> parts = Dirichlet(alpha=0.01)(labels, 4, torch.Generator().manual_seed(0))
    >>> [(len(part), len(labels[part].unique())) for part in parts]
    [(10, 1), (10, 1), (10, 1), (10, 1)]

    Raises:
        ConfigError: alpha is not a finite number above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_numbers("(0, inf)", alpha=self.alpha)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        pools = _shuffled_classes(labels, generator)
        left = torch.tensor([len(pool) for pool in pools])
        parts = []
        for size in even_sizes(len(labels), clients):
            counts = _draw_counts(_log_dirichlet(self.alpha, len(pools), generator), left, size, generator)
            starts = [len(pool) - int(rest) for pool, rest in zip(pools, left, strict=True)]
            parts.append(torch.cat([p[s : s + int(k)] for p, s, k in zip(pools, starts, counts, strict=True)]))
            left = left - counts
        return parts


@dataclass(frozen=True)
class UnbalancedDirichlet:
    """Divide every class over the clients by its own draw from Dir(alpha), so that clients differ in size too.

    A variant of Hsu et al., arXiv 1909.06335.

    Args:
        alpha: concentration.
        min_samples: the smallest part allowed; a partition with a smaller part is drawn again.
        attempts: the number of partitions drawn before giving up.

    >>> partition = UnbalancedDirichlet(alpha=1.0, min_samples=3)
    >>> sizes = [len(part) for part in partition(torch.arange(400) % 10, 4, torch.Generator().manual_seed(0))]
    >>> sum(sizes), min(sizes) >= 3, max(sizes) > 100
    (400, True, True)

    Raises:
        ConfigError: alpha is not a finite number above 0, or every attempt leaves a part below ``min_samples``.
    """

    alpha: float = 1.0
    min_samples: int = 1
    attempts: int = 100

    def __post_init__(self) -> None:
        check_numbers("(0, inf)", alpha=self.alpha)
        check_integers(min_samples=self.min_samples, attempts=self.attempts)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        even_sizes(len(labels), clients)  # checks the number of clients
        pools = _shuffled_classes(labels, generator)
        for _ in range(self.attempts):
            splits = []
            for pool in pools:
                shares = _log_dirichlet(self.alpha, clients, generator).softmax(0)
                cuts = (shares.cumsum(0)[:-1] * len(pool)).round().long()
                splits.append(torch.tensor_split(pool, cuts))
            parts = [torch.cat(pieces) for pieces in zip(*splits, strict=True)]
            if min(map(len, parts)) >= self.min_samples:
                return parts
        raise ConfigError(
            "min_samples",
            f"{self.min_samples} samples for each of {clients} clients were not reached in {self.attempts} draws "
            f"with alpha = {self.alpha}",
            "use a smaller min_samples, a larger alpha or fewer clients",
        )


@dataclass(frozen=True)
class LabelShards:
    """Sort the samples by label, cut them into equal shards and give each client a few random shards.

    Source: McMahan et al., 2017, section 3.

    Args:
        shards_per_client: roughly the number of classes of a client.

    >>> labels = torch.arange(40) % 4
    >>> parts = LabelShards(shards_per_client=1)(labels, 4, torch.Generator().manual_seed(0))
    >>> [(len(part), len(labels[part].unique())) for part in parts]
    [(10, 1), (10, 1), (10, 1), (10, 1)]

    Raises:
        ConfigError: more shards per client than samples.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        check_integers(shards_per_client=self.shards_per_client)

    def __call__(self, labels: Tensor, clients: int, generator: torch.Generator) -> list[Tensor]:
        client_sizes = even_sizes(len(labels), clients)
        if client_sizes[-1] < self.shards_per_client:
            raise ConfigError(
                "shards_per_client",
                f"{self.shards_per_client} is more than the {client_sizes[-1]} samples of the smallest client",
                "use fewer shards per client or fewer clients",
            )
        sizes = [shard for client in client_sizes for shard in even_sizes(client, self.shards_per_client)]
        # The sorted samples are cut into shards whose order is random; each shard has the size that its client needs
        # for an equal part.
        order = torch.randperm(len(sizes), generator=generator).tolist()
        shards = torch.cat(_shuffled_classes(labels, generator)).split([sizes[shard] for shard in order])
        parts: list[list[Tensor]] = [[] for _ in range(clients)]
        for shard, samples in zip(order, shards, strict=True):
            parts[shard // self.shards_per_client].append(samples)
        return [torch.cat(part) for part in parts]


def even_sizes(samples: int, clients: int) -> list[int]:
    """Return the sizes of parts that differ by at most one sample; the larger parts come first.

    >>> even_sizes(10, 4)
    [3, 3, 2, 2]

    Raises:
        ConfigError: fewer samples than clients.
    """
    if not 1 <= clients <= samples:
        raise ConfigError(
            "clients", f"{clients} is not in [1, {samples}]", f"each client needs one of the {samples} training samples"
        )
    return [samples // clients + (client < samples % clients) for client in range(clients)]


def checked_parts(parts: Any, clients: int, samples: int) -> list[Tensor]:
    """Return the parts of a partition as int64 tensors.

    Raises:
        ConfigError: the number of parts is not that of the clients; a part is not a list of sample indices; a sample is
            missing, or is in two parts.
    """
    try:
        tensors = [torch.as_tensor(part) for part in parts]
        whole = all(part.ndim == 1 and (part.dtype in INTEGERS or not len(part)) for part in tensors)
    except (TypeError, ValueError, RuntimeError):
        tensors, whole = [], False
    if not whole or len(tensors) != clients:
        problem = f"it must return a list of {clients} lists of sample indices, one for each client"
        raise ConfigError("partition", problem)
    tensors = [part.long() for part in tensors]
    everything = torch.cat(tensors)
    if len(everything) and not 0 <= int(everything.min()) <= int(everything.max()) < samples:
        raise ConfigError("partition", f"it returns sample indices that are not in 0 to {samples - 1}")
    times = everything.bincount(minlength=samples)
    if not bool((times == 1).all()):
        wrong = int((times != 1).nonzero()[0])
        problem = f"it gives sample {wrong} to {int(times[wrong])} clients"
        raise ConfigError("partition", problem, "give each sample to exactly one client")
    return tensors


def _shuffled_classes(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The sample indices of each class, in random order."""
    order = torch.randperm(len(labels), generator=generator)
    return [order[labels[order] == label] for label in labels.unique().tolist()]


def _log_dirichlet(alpha: float, size: int, generator: torch.Generator) -> Tensor:
    """The logarithms of one draw from the symmetric Dirichlet distribution, up to a constant: float64 ``[size]``.

    The shares of a small alpha differ by more orders of magnitude than a double has. Their logarithms do not underflow,
    so the largest share, and the largest among the classes that still have samples, are known for every alpha.
    """
    alpha = max(alpha, 1e-300)  # less could make every logarithm infinite; the largest share is 1 in both cases
    draws = torch._standard_gamma(torch.full((size,), alpha, dtype=torch.float64), generator=generator)
    logs = draws.log()
    # torch returns the smallest normal double for all draws below it. There the distribution function is c x^alpha, so
    # such a draw is the smallest double times U^(1 / alpha).
    clamped = draws <= torch.finfo(draws.dtype).tiny
    uniform = torch.rand(int(clamped.sum()), generator=generator, dtype=torch.float64)
    logs[clamped] += torch.log1p(-uniform) / alpha
    return logs


def _draw_counts(log_mix: Tensor, left: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw the number of samples of each class: ``size`` in total, at most ``left`` of each."""
    counts = torch.zeros_like(left)
    while (missing := size - int(counts.sum())) > 0:
        open_mix = log_mix.where(left > counts, -torch.inf).softmax(0)
        drawn = torch.multinomial(open_mix, missing, replacement=True, generator=generator)
        # Draws beyond the samples left of a class are drawn again from the other classes.
        counts = torch.minimum(counts + drawn.bincount(minlength=len(left)), left)
    return counts


def hold_out(parts: Sequence[Tensor], share: float, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Split the samples of each client into training and validation samples.

    Args:
        parts: sample indices of each client.
        share: of each client's samples for validation, rounded to whole samples; one sample always stays for training.
        generator: chooses the validation samples.

    Returns:
        The training indices of each client, in the order of ``parts``, and the validation indices of each client.

    >>> train, validation = hold_out([torch.arange(4)], 0.25, torch.Generator().manual_seed(0))
    >>> len(train[0]), len(validation[0])
    (3, 1)
    """
    train, validation = [], []
    for part in parts:
        count = min(round(share * len(part)), len(part) - 1)
        chosen = torch.zeros(len(part), dtype=torch.bool)
        chosen[torch.randperm(len(part), generator=generator)[:count]] = True
        train.append(part[~chosen])
        validation.append(part[chosen])
    return train, validation


def split_test_samples(train: Sequence[Tensor], test: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Divide the test samples over the clients so that each client is tested on the classes that it trains on.

    A client with a third of the training samples of a class gets a third of the test samples of this class, rounded to
    whole samples. If the test set is small, some clients get no samples. Classes without training samples are left out.

    Args:
        train: training labels of each client, int64.
        test: test labels, int64 ``[n]``.
        generator: chooses the samples of each client.

    Returns:
        Indices into ``test`` for each client. Every test sample of a trained class belongs to exactly one client.

    >>> train, test = [torch.tensor([0, 0, 0]), torch.tensor([0, 1])], torch.tensor([0, 0, 0, 0, 1, 1, 2])
    >>> parts = split_test_samples(train, test, torch.Generator().manual_seed(0))
    >>> [test[part].tolist() for part in parts]
    [[0, 0, 0], [0, 1, 1]]
    """
    classes, numbers = torch.cat([*train, test]).unique(return_inverse=True)  # labels may be any integers
    *train, test = numbers.split([len(labels) for labels in (*train, test)])
    counts = torch.stack([labels.bincount(minlength=len(classes)) for labels in train]).double()
    order = torch.randperm(len(test), generator=generator)
    parts: list[list[Tensor]] = [[] for _ in train]
    for label in range(len(classes)):
        if counts[:, label].sum() > 0:
            pool = order[test[order] == label]
            cuts = (counts[:, label].cumsum(0) / counts[:, label].sum() * len(pool)).round().long()
            for part, samples in zip(parts, pool.tensor_split(cuts[:-1]), strict=True):
                part.append(samples)
    return [torch.cat(part) for part in parts]
