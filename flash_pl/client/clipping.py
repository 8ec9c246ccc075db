"""How a client's gradients are clipped."""

from dataclasses import dataclass

from flash_pl.checks import check_numbers
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class GradientClipping:
    """Clipping as in Lightning's Trainer; it sees masked gradients.

    Args:
        value: what the gradients' norm, or each of them, may be at most; None or 0 clips nothing.
        algorithm: "norm" or "value".

    Raises:
        ConfigError: by the Trainer's argument, what is not allowed.
    """

    value: float | None = None
    algorithm: str = "norm"

    def __post_init__(self) -> None:
        if self.value is not None:
            check_numbers(gradient_clip_val=self.value)
            if not self.value >= 0:
                raise ConfigError("gradient_clip_val", self.value, "a number of at least 0, or None")
        if self.algorithm not in ("norm", "value"):
            raise ConfigError("gradient_clip_algorithm", self.algorithm, "norm or value")
