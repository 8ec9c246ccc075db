"""When the sparse kernels are faster than torch's dense ones."""

from collections.abc import Sequence

from flash_pl.kernels.pattern import Pattern

# Measured by benchmarks/layers.py. Below these densities the kernels win, forward and backward together.
CONVOLUTION, POINTWISE = 0.25, 0.15
FEW = 300  # weights of an output channel: of so few, dense libraries make little, and the kernels win at any density


def worthwhile(pattern: Pattern, shape: Sequence[int]) -> bool:
    """Whether to use them for inputs of this shape. A rule and no measurement: the choice shows in the last bits."""
    fan_in = 1
    for size in pattern.shape[1:]:
        fan_in *= size
    if len(pattern.shape) == 2 or pattern.shape[2] * pattern.shape[3] == 1:
        return pattern.density <= POINTWISE
    return pattern.density <= CONVOLUTION or fan_in <= FEW
