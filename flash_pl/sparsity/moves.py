"""One move of dynamic sparse training: some active weights are dropped, and as many inactive weights grow."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from flash_pl.checks import check_numbers
from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.mask_store import on_device
from flash_pl.sparsity.select import random_k_by_layer, top_k_by_layer

MAX_FILL = 0.99  # a layer grows into at most this fraction of its free places (FLASH authors' code)
NEARLY_DENSE = 0.2  # sparsity below which a growing layer drops at most its sparsity (FLASH authors' code)


@dataclass(frozen=True)
class CriterionInput:
    """The tensors from which a criterion computes.

    Args:
        layout: the layout of the arena.
        weights: the arena, or its first part ``[layout.maskable]``.
        gradient: gradient of all maskable weights, pruned weights included, ``[layout.maskable]``; None if no criterion
            needs it.
    """

    layout: Layout
    weights: Tensor
    gradient: Tensor | None = None


class Criterion(ABC):
    """Chooses weights: which active weights a move keeps, or which inactive weights it grows.

    Attributes:
        needs_gradient: whether the criterion uses the gradient, which costs a dense backward pass.
    """

    needs_gradient: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, inputs: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return ``counts[l]`` of the ``candidates`` in each layer l; both masks are bool ``[layout.maskable]``."""


class Scored(Criterion):
    """Chooses the weights with the highest scores; equal scores go by position.

    >>> class Smallest(Scored):
    ...     def scores(self, inputs):
    ...         return -inputs.weights[: inputs.layout.maskable].abs()
    >>> from torch import nn
    >>> inputs = CriterionInput(Layout(nn.Linear(4, 1, bias=False)), torch.tensor([0.1, -0.9, 0.5, 0.2]))
    >>> Smallest()(inputs, torch.ones(4, dtype=torch.bool), torch.tensor([2]), torch.Generator()).tolist()
    [True, False, False, True]
    """

    @abstractmethod
    def scores(self, inputs: CriterionInput) -> Tensor:
        """Return a score for each weight, ``[layout.maskable]``."""

    def __call__(
        self, inputs: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Tensor:
        return top_k_by_layer(inputs.layout, self.scores(inputs), counts, within=candidates)


@dataclass(frozen=True)
class Magnitude(Scored):
    """The largest |w|.

    >>> from torch import nn
    >>> inputs = CriterionInput(Layout(nn.Linear(4, 1, bias=False)), torch.tensor([0.1, -0.9, 0.5, 0.0]))
    >>> Magnitude()(inputs, torch.ones(4, dtype=torch.bool), torch.tensor([2]), torch.Generator())
    tensor([False,  True,  True, False])
    """

    def scores(self, inputs: CriterionInput) -> Tensor:
        return inputs.weights[: inputs.layout.maskable].abs()


@dataclass(frozen=True)
class Saliency(Scored):
    """The largest |g w|, the change of the loss to first order if w is removed (Lee et al., SNIP, ICLR 2019).

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> inputs = CriterionInput(layout, torch.tensor([0.1, -0.9, 0.5, 0.0]), torch.tensor([1.0, 0.1, 1.0, 9.0]))
    >>> Saliency()(inputs, torch.ones(4, dtype=torch.bool), torch.tensor([1]), torch.Generator()).tolist()
    [False, False, True, False]
    """

    needs_gradient: ClassVar[bool] = True

    def scores(self, inputs: CriterionInput) -> Tensor:
        assert inputs.gradient is not None
        return (inputs.gradient * inputs.weights[: inputs.layout.maskable]).abs()


@dataclass(frozen=True)
class Gradient(Scored):
    """The largest |g| (Evci et al., Rigging the Lottery, ICML 2020, section 3).

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> inputs = CriterionInput(layout, torch.tensor([0.1, -0.9, 0.5, 0.0]), torch.tensor([1.0, 0.1, 1.0, 9.0]))
    >>> Gradient()(inputs, torch.ones(4, dtype=torch.bool), torch.tensor([1]), torch.Generator()).tolist()
    [False, False, False, True]
    """

    needs_gradient: ClassVar[bool] = True

    def scores(self, inputs: CriterionInput) -> Tensor:
        assert inputs.gradient is not None
        return inputs.gradient.abs()


@dataclass(frozen=True)
class Random(Criterion):
    """Random weights, drawn without replacement (Mocanu et al., SET, Nature Communications 2018).

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> inputs, free = CriterionInput(layout, torch.zeros(4)), torch.tensor([True, True, True, False])
    >>> int(Random()(inputs, free, torch.tensor([2]), torch.Generator()).sum())
    2
    """

    def __call__(
        self, inputs: CriterionInput, candidates: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Tensor:
        return random_k_by_layer(inputs.layout, candidates, counts, generator)


class Redistribution(ABC):
    """Decides how many weights each layer drops and grows. The cost of the mask stays the same: its number of weights,
    or its multiply-adds if the budget counts these (``layout.prices``)."""

    @abstractmethod
    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Return how many weights to drop (int64 ``[layers]``) and to grow (float64 ``[layers]``, of the same cost).

        Args:
            layout: the layout of the arena.
            magnitude: |w| of the active weights and 0 elsewhere, ``[layout.maskable]``.
            active: number of active weights of each layer, int64 ``[layers]``.
            rate: fraction of a layer's active weights to drop.

        Raises:
            ValueError: the magnitudes are needed, and some of them are not finite.
        """


@dataclass(frozen=True)
class KeepLayers(Redistribution):
    """Every layer grows as many weights as it drops, ceil(rate * nnz_l): layer densities stay (RigL, SET, FedDST).

    A layer drops at most as many weights as it has free places: with more, it would regrow weights that it has just
    dropped.

    Args:
        round_down: floor(rate * nnz_l), as in the RigL authors' code, also of SET.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5)))
    >>> dropped, grown = KeepLayers()(layout, torch.ones(300), torch.tensor([40, 80]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([10, 20], [10.0, 20.0])
    """

    round_down: bool = False

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        wished = rate * active
        dropped = torch.minimum((wished.floor() if self.round_down else wished.ceil()).long(), layout.sizes - active)
        return dropped, dropped.double()


@dataclass(frozen=True)
class MeanMagnitude(Redistribution):
    """FLASH: the weights that all layers drop grow again in proportion to the layers' mean |w|.

    A layer grows into at most 99 % of its free places; the other layers share the rest equally.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)))
    >>> magnitude = torch.tensor([3.0] * 40 + [0.0] * 60 + [1.0] * 40 + [0.0] * 60)
    >>> dropped, grown = MeanMagnitude()(layout, magnitude, torch.tensor([40, 40]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([10, 10], [15.0, 5.0])
    """

    def __call__(self, layout: Layout, magnitude: Tensor, active: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        shares = self.shares(layout, magnitude, active)
        dropped = drop_counts(active, layout.sizes, shares, rate)
        free = layout.sizes - active + dropped
        return dropped, redistribute(shares, free, float((dropped * layout.prices).sum()), layout.prices)

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        """Return each layer's share of the growth: its mean |w| over the sum of these means, float64 ``[layers]``."""
        return _normalized(_layer_sums(layout, magnitude) / active.clamp(min=1))


@dataclass(frozen=True)
class TotalMagnitude(MeanMagnitude):
    """Like ``MeanMagnitude``, but in proportion to the layers' total |w|.

    A small layer then does not receive most of the weights that a large layer drops.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)))
    >>> magnitude = torch.tensor([1.0] * 60 + [0.0] * 40 + [1.0] * 20 + [0.0] * 80)
    >>> dropped, grown = TotalMagnitude()(layout, magnitude, torch.tensor([60, 20]), rate=0.25)
    >>> dropped.tolist(), grown.tolist()
    ([15, 5], [15.0, 5.0])
    """

    def shares(self, layout: Layout, magnitude: Tensor, active: Tensor) -> Tensor:
        return _normalized(_layer_sums(layout, magnitude))


def _layer_sums(layout: Layout, magnitude: Tensor) -> Tensor:
    """Return the sum of ``magnitude`` over each layer, float64 ``[layers]``."""
    sums = torch.stack([part.sum() for part in layout.split(magnitude)]).cpu().double()
    if not sums.isfinite().all():  # the sum of finite float32 weights can exceed float32
        sums = torch.stack([part.cpu().double().sum() for part in layout.split(magnitude)])
    for layer, total in zip(layout.layers, sums.tolist(), strict=True):
        if not math.isfinite(total):
            raise ValueError(f"{layer.name} has weights that are not finite")
    return sums


def _normalized(values: Tensor) -> Tensor:
    return values / values.sum() if float(values.sum()) > 0 else torch.full_like(values, 1 / len(values))


def drop_counts(active: Tensor, sizes: Tensor, shares: Tensor, rate: float) -> Tensor:
    """Return how many weights each layer drops, int64 ``[layers]``: ceil(p_l nnz_l) with p_l = ``rate``.

    A nearly dense layer whose share of the growth is above average drops at most the fraction p_l = its sparsity.
    """
    sparsity = 1 - active.double() / sizes
    guarded = (sparsity < NEARLY_DENSE) & (shares > 1 / len(shares))
    rates = torch.where(guarded, sparsity.clamp(max=rate), rate)
    return torch.minimum((rates * active).ceil().long(), active)


def redistribute(shares: Tensor, free: Tensor, total: float, prices: Tensor) -> Tensor:
    """Return how many weights each layer grows, float64 ``[layers]``, which cost ``total`` together.

    The weights are spread by ``shares``. A layer grows into at most 99 % of its ``free`` places; the layers below that
    limit share the excess equally. If the limits together cost less than ``total``, layers grow in proportion to their
    free places instead.

    Args:
        shares: of the growth, float64 ``[layers]`` with the sum 1.
        free: places without an active weight, int64 ``[layers]``.
        total: cost of all weights that grow.
        prices: cost of one weight of each layer, float64 ``[layers]``.
    """
    limit = (free.double() * MAX_FILL).floor()
    if total >= float((limit * prices).sum()):
        return free.double() * (total / (float((free * prices).sum()) or 1.0))
    grown, excess = torch.zeros_like(limit), total
    portion = shares * float(shares.sum() / (shares * prices).sum())  # of weights that cost 1 together
    while excess > 1e-9:
        grown = grown + portion * excess
        excess = float(((grown - limit).clamp(min=0) * prices).sum())
        grown = torch.minimum(grown, limit)
        open_layers = (grown < limit).double()
        portion = open_layers / (float((open_layers * prices).sum()) or 1.0)
    return grown


class MoveResult(NamedTuple):
    """The result of a move.

    Attributes:
        mask: the mask after the move, bool ``[maskable]``.
        survivors: weights that keep their value and optimizer state, bool ``[maskable]``; all other weights become 0.
    """

    mask: Tensor
    survivors: Tensor


@dataclass(frozen=True)
class Move:
    """A move that keeps the number of active weights exactly, or what they cost. The defaults are those of FLASH.

    Grown weights are chosen among all inactive weights, those just dropped included. They start at 0.

    Args:
        drop: chooses the weights that a layer keeps.
        growth: chooses the inactive weights that become active.
        redistribution: decides how many weights each layer drops and grows.
        memory: m in the gradient that the criteria use: g of the last step + m * (the gradient used before). 0 uses the
            last gradient alone; 0.9 grows by momentum (Dettmers and Zettlemoyer, Sparse Networks from Scratch, 2019).
        keep_regrown: a weight that is dropped and grown in the same move keeps its value and its optimizer state, as in
            the code of the RigL authors and of the FLASH authors.

    Raises:
        ConfigError: ``memory`` is not in [0, 1).

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> move = Move(growth=Gradient(), redistribution=KeepLayers())  # RigL
    >>> weights, gradient = torch.tensor([0.9, 0.1, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.2, -0.5])
    >>> mask, survivors = move(layout, weights, weights != 0, 0.5, torch.Generator(), gradient)
    >>> mask.tolist(), survivors.tolist()
    ([True, False, False, True], [True, False, False, False])
    """

    drop: Criterion = field(default_factory=Magnitude)
    growth: Criterion = field(default_factory=Random)
    redistribution: Redistribution = field(default_factory=MeanMagnitude)
    memory: float = 0.0
    keep_regrown: bool = False

    def __post_init__(self) -> None:
        check_numbers("[0, 1)", memory=self.memory)

    @property
    def needs_gradient(self) -> bool:
        """Whether a criterion uses the gradient of pruned weights."""
        return self.drop.needs_gradient or self.growth.needs_gradient

    def __call__(
        self,
        layout: Layout,
        weights: Tensor,
        mask: Tensor,
        rate: float,
        generator: torch.Generator,
        gradient: Tensor | None = None,
    ) -> MoveResult:
        """Return the moved mask and the weights that survive. The arguments are not changed.

        Args:
            layout: the layout of the arena.
            weights: the arena, or its first part ``[layout.maskable]``, 0 outside the mask.
            mask: bool ``[layout.maskable]``.
            rate: fraction of a layer's active weights to drop, in [0, 1].
            generator: source of random numbers.
            gradient: gradient of all maskable weights, ``[layout.maskable]``, if ``needs_gradient``.

        Raises:
            ValueError: ``rate`` is not in [0, 1], or weights that the redistribution needs are not finite.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate {rate} of a move is not in [0, 1]")
        inputs, active = CriterionInput(layout, weights, gradient), layout.counts(mask)
        dropped, wished = self.redistribution(layout, weights[: layout.maskable].abs() * mask, active, rate)
        kept = self.drop(inputs, mask, active - dropped, generator)
        grown = self.grow(inputs, kept, wished, active, generator)
        moved = kept | grown
        return MoveResult(moved, mask & moved if self.keep_regrown else kept)

    def grow(
        self, inputs: CriterionInput, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the weights that grow, bool ``[layout.maskable]``, all outside ``kept``.

        Args:
            inputs: the tensors from which the criterion computes.
            kept: mask of the weights that are not dropped.
            wished: number of weights to grow in each layer, float64 ``[layers]``.
            active: number of active weights of each layer before the move, int64 ``[layers]``.
            generator: source of random numbers.
        """
        layout = inputs.layout
        remaining = layout.counts(kept)
        emptied = ((remaining == 0) & (active > 0)).long()  # only a layer that lost all its weights must grow one
        prices = layout.prices
        total = layout.whole(float((wished * prices).sum()))
        counts = allot(wished, layout.sizes - remaining, total, minimum=emptied, prices=prices)
        return self.growth(inputs, ~kept, counts, generator)


@dataclass(frozen=True)
class BernoulliMove(Move):
    """The move of the FLASH authors' code: each free place of a layer grows with the same probability, independently.

    The number of active weights is kept in expectation only. A weight that is dropped and grown again keeps its value.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 1, bias=False))
    >>> weights = torch.tensor([0.9, 0.1, 0.0, 0.0])
    >>> mask, survivors = BernoulliMove()(layout, weights, weights != 0, 0.0, torch.Generator())
    >>> mask.tolist()
    [True, True, False, False]
    """

    keep_regrown: bool = True

    def grow(
        self, inputs: CriterionInput, kept: Tensor, wished: Tensor, active: Tensor, generator: torch.Generator
    ) -> Tensor:
        layout = inputs.layout
        free = (layout.sizes - layout.counts(kept)).clamp(min=1)
        probability = (wished / free).float().repeat_interleave(layout.sizes)
        return on_device(torch.rand(layout.maskable, generator=generator) < probability, kept.device) & ~kept
