"""Structures of masks: single weights, N of every M weights, whole output channels; and masks of nested submodels."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError
from flash_pl.sparsity.first_mask import layer_counts
from flash_pl.sparsity.layout import Layout, Slot
from flash_pl.sparsity.maskable import CONVOLUTIONS, TRANSPOSED
from flash_pl.sparsity.select import top_k, top_k_by_layer


class Structure(ABC):
    """A pattern that masks must have, such as one that hardware computes fast."""

    @abstractmethod
    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, tie_breaker: Tensor | None = None) -> Tensor:
        """Return the mask of highest scores with this structure, bool ``[layout.maskable]``.

        Each layer l has ``counts[l]`` weights, or the nearest number that the structure allows.

        Args:
            layout: the layout of the arena.
            scores: a score for each weight, ``[layout.maskable]`` or longer.
            counts: wished number of weights of each layer, int64 ``[layers]``.
            tie_breaker: decides between equal scores of single weights, see ``top_k``. Other structures ignore it.
        """


@dataclass(frozen=True)
class Unstructured(Structure):
    """The highest scores of each layer, at any position.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 2, bias=False))
    >>> scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0])
    >>> Unstructured()(layout, scores, torch.tensor([4])).view(2, 4).int()
    tensor([[1, 1, 1, 1],
            [0, 0, 0, 0]], dtype=torch.int32)
    """

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, tie_breaker: Tensor | None = None) -> Tensor:
        return top_k_by_layer(layout, scores, counts, tie_breaker=tie_breaker)


@dataclass(frozen=True)
class NM(Structure):
    """N:M sparsity: N of every M = ``group`` successive inputs of an output are active.

    Every layer has exactly its count of weights. If N = d_l M is not a whole number, some groups have one weight more
    than others. Source: Zhou et al., Learning N:M fine-grained structured sparse neural networks (ICLR 2021).

    Args:
        group: M.

    Raises:
        ConfigError: M is not an integer of at least 2.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(4, 2, bias=False))
    >>> scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0])
    >>> NM(group=4)(layout, scores, torch.tensor([4])).view(2, 4).int()
    tensor([[1, 1, 0, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """

    group: int = 4

    def __post_init__(self) -> None:
        check_integers(2, group=self.group)

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, tie_breaker: Tensor | None = None) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool, device=scores.device)
        for slot, count in zip(layout.layers, counts.tolist(), strict=True):
            weight = layout.by_output(slot, mask)
            weight.copy_(self._layer(_rows(layout, slot, scores).cpu(), count).view(weight.shape))
        return mask

    def _layer(self, scores: Tensor, count: int) -> Tensor:
        """Return the mask of a layer with scores ``[outputs, inputs]`` on the CPU."""
        outputs, inputs = scores.shape
        padded = torch.nn.functional.pad(scores, (0, -inputs % self.group), value=-torch.inf)
        groups = padded.reshape(-1, self.group)
        rank = groups.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True).float()
        # Order the weights by their rank in their group; of equal ranks the higher score comes first.
        order = torch.empty(groups.numel(), dtype=torch.float64)
        by_score = groups.flatten().argsort(descending=True, stable=True)
        by_rank = rank.flatten()[by_score].argsort(stable=True)
        order[by_score[by_rank]] = torch.arange(groups.numel(), 0, -1, dtype=torch.float64)
        order = order.masked_fill(groups.flatten().isneginf(), -torch.inf)
        return top_k(order, count).view(outputs, -1)[:, :inputs]


@dataclass(frozen=True)
class Channels(Structure):
    """Whole output channels: the channels of highest mean score, at least one per layer.

    The outputs of the last layer are the classes. They are all kept, and whole inputs are chosen there instead.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)))
    >>> scores = torch.tensor([9.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 1.0, 0.0, 2.0, 0.0, 3.0])
    >>> first, last = layout.split(Channels()(layout, scores, torch.tensor([4, 3])))
    >>> first.view(2, 4).int()
    tensor([[0, 0, 0, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    >>> last.view(3, 2).int()
    tensor([[1, 0],
            [1, 0],
            [1, 0]], dtype=torch.int32)
    """

    def __call__(self, layout: Layout, scores: Tensor, counts: Tensor, tie_breaker: Tensor | None = None) -> Tensor:
        mask = torch.zeros(layout.maskable, dtype=torch.bool, device=scores.device)
        for slot, count in zip(layout.layers, counts.tolist(), strict=True):
            channel = 1 if feeds_another(layout, slot) else 2  # of [groups, outputs, inputs, ...]
            weight, of_layer = (layout.by_output(slot, flat).movedim(channel, 1) for flat in (mask, scores))
            means = of_layer.flatten(2).mean(dim=2)  # [groups, channels of a group]
            chosen = max(1, round(count * means.numel() / of_layer.numel()))  # the nearest to ``count`` weights
            weight[top_k(means.flatten(), chosen).view(means.shape)] = True
        return mask


def _rows(layout: Layout, slot: Slot, flat: Tensor) -> Tensor:
    """Return a maskable weight as ``[outputs, inputs of an output]``."""
    return layout.by_output(slot, flat).flatten(0, 1).flatten(1)


@dataclass(frozen=True)
class StructuredDraw:
    """Draws a random mask with a structure, for ``FirstMask``.

    Args:
        structure: the structure of the mask.

    >>> from torch import nn
    >>> layout = Layout(nn.Linear(8, 2, bias=False))
    >>> mask = StructuredDraw(NM(group=4))(layout, torch.zeros(16), torch.tensor([0.5]), torch.Generator())
    >>> mask.view(4, 4).sum(dim=1).tolist()
    [2, 2, 2, 2]
    """

    structure: Structure

    def __call__(self, layout: Layout, weights: Tensor, densities: Tensor, generator: torch.Generator) -> Tensor:
        """Return a mask, bool ``[layout.maskable]``, with layer densities float64 ``[layers]``; ignores ``weights``."""
        scores = torch.rand(layout.maskable, generator=generator)
        return self.structure(layout, scores, layer_counts(layout, densities))


def channel_mask(layout: Layout, ratio: Fraction | float) -> Tensor:
    """Return the mask of a narrow submodel: the first ceil(ratio C) of the C output channels of every layer.

    A channel keeps the inputs that come from kept channels of the layer before. The inputs of the first layer and the
    outputs of the last layer (the classes) are all kept. A linear layer after flattened images has several inputs per
    channel; they are kept or removed together. In a grouped convolution, channels are counted over all groups.

    Args:
        layout: the layout of the arena; each layer must feed the next one.
        ratio: in (0, 1]. Use a Fraction for j / C: as a float it can be rounded up, which gives one channel too many.

    Returns:
        bool ``[layout.maskable]`` on the CPU.

    Raises:
        ConfigError: a maskable weight is that of another kind of layer, or of none.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)))
    >>> first, second = layout.split(channel_mask(layout, Fraction(1, 2)))
    >>> first.view(4, 3).all(dim=1).tolist(), second.view(2, 4).all(dim=0).tolist()
    ([True, True, False, False], [True, True, False, False])
    """
    mask = torch.zeros(layout.maskable, dtype=torch.bool)
    previous = 0  # output channels of the layer before
    for slot, kind in zip(layout.layers, layout.types, strict=True):
        if not issubclass(kind, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)):
            problem = f"{slot.name} is not the weight of a Linear or Conv layer, and has no channels to leave out"
            raise ConfigError("exclude", problem, f"exclude {slot.name}")
        weight = layout.by_output(slot, mask)
        outputs, inputs = (len(weight) * size for size in weight.shape[1:3])
        kept_outputs = math.ceil(ratio * outputs) if feeds_another(layout, slot) else outputs
        block = inputs // previous if previous and inputs % previous == 0 else 1  # inputs per channel
        kept_inputs = math.ceil(ratio * (inputs // block)) * block if previous else inputs
        for group, part in enumerate(weight):  # each group has its own outputs and inputs
            first_output, first_input = group * part.shape[0], group * part.shape[1]
            part[: max(0, kept_outputs - first_output), : max(0, kept_inputs - first_input)] = True
        previous = outputs
    return mask


def feeds_another(layout: Layout, slot: Slot) -> bool:
    """Return whether the outputs of a maskable layer are inputs of another layer, which may itself be never masked."""
    if slot != layout.layers[-1]:
        return True
    return any(len(s.shape) > 1 and s.shape[1] % _outputs(layout, slot) == 0 for s in layout.after_last_layer)


def _outputs(layout: Layout, slot: Slot) -> int:
    groups, outputs = layout.by_output(slot, torch.empty(layout.maskable, device="meta")).shape[:2]
    return groups * outputs


def largest_channel_ratio(layout: Layout, density: float) -> Fraction:
    """Return the largest ratio for which ``channel_mask`` costs at most ``density`` times the dense layers.

    The ratio is j / C, where C is the largest number of output channels of a layer. The smallest result is 1 / C, even
    if its mask has more weights.

    >>> from torch import nn
    >>> layout = Layout(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)))
    >>> largest_channel_ratio(layout, 0.6)
    Fraction(1, 2)
    """
    channels = max(_outputs(layout, slot) for slot in layout.layers)
    low, high = 1, channels
    while low < high:
        middle = (low + high + 1) // 2
        fits = layout.cost(channel_mask(layout, Fraction(middle, channels))) <= density * float(layout.costs.sum())
        low, high = (middle, high) if fits else (low, middle - 1)
    return Fraction(low, channels)
