"""What depends on the number of the round: the learning rate and whether to evaluate."""

from dataclasses import dataclass

from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class RoundDecay:
    """Learning rates of round t (from 0) are the module's own times ratio^(t / horizon).

    Args:
        ratio: lr_end / lr. FLASH: 0.001 / 0.1; 1 keeps the rates constant.
        horizon: rounds until the ratio is reached, whatever the number of rounds of the run.
        delay: rounds by which the decay lags. The authors' code sets the rate after a round: 1.
    """

    ratio: float = 0.01
    horizon: int = 1000
    delay: int = 0

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ConfigError("lr_end / lr", self.ratio, "a number above 0")
        if self.horizon < 1:
            raise ConfigError("lr_horizon", self.horizon, "an integer of at least 1")

    def scale(self, round: int) -> float:
        """The factor in ``round``."""
        return self.ratio ** (max(0, round - self.delay) / self.horizon)


@dataclass(frozen=True)
class EvaluationSchedule:
    """Evaluate after every ``every``-th round and after each of the ``last`` ones."""

    every: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        for key, value in {"eval_every": self.every, "eval_last": self.last}.items():
            if value < 1:
                raise ConfigError(key, value, "an integer of at least 1")

    def due(self, done: int, rounds: int) -> bool:
        """Whether to evaluate when ``done`` of ``rounds`` rounds are done."""
        return done % self.every == 0 or done > rounds - self.last
