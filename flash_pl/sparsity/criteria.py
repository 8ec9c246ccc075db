"""Criteria: which active weights a move keeps, and which inactive weights it grows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flash_pl.sparsity.layout import Layout
from flash_pl.sparsity.select import random_k_by_layer, top_k_by_layer


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
