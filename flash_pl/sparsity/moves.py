"""One move of dynamic sparse training: some active weights are dropped, and as many inactive weights grow."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from flash_pl.checks import check_numbers
from flash_pl.sparsity.criteria import Criterion, CriterionInput, Magnitude, Random
from flash_pl.sparsity.density import allot
from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.mask_store import on_device
from flash_pl.sparsity.redistribution import MeanMagnitude, Redistribution


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
    >>> from flash_pl.sparsity import Gradient, KeepLayers
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
