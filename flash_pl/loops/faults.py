"""What happens when a client's training, or the server's half of a method, fails."""

import traceback
from dataclasses import dataclass

import torch
from torch import Tensor

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError


@dataclass(frozen=True)
class FaultPolicy:
    """Whether a round survives a client that fails: by an exception, a loss or weights that are not finite, no samples.

    Args:
        on_error: "raise" ends the run; "skip" goes on without the client.
        min_clients: with "skip", a round in which clients failed and fewer than these remain is repeated with a new
            cohort ...
        attempts: ... until it has been tried so many times; then the run ends.

    Raises:
        ConfigError: by the key, what is not allowed.
    """

    on_error: str = "raise"
    min_clients: int = 1
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ConfigError("on_client_error", self.on_error, "raise or skip")
        check_integers(min_clients=self.min_clients, round_attempts=self.attempts)


class Fault(Exception):
    """A fault of somebody who raised nothing; the message says all."""


def check_mask(mask: object, maskable: int) -> None:
    """Refuse what is no mask of so many weights.

    Raises:
        Fault: it says what it is instead.
    """
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (maskable,):
        return
    found = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise Fault(f"its mask is {found}, not torch.bool of shape ({maskable},)")


def reason(error: Exception) -> str:
    """An exception and where it comes from, in one line: the innermost place that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({own[-1].filename}:{own[-1].lineno})"


@dataclass(frozen=True)
class Failure:
    """A client that failed; ``round`` counts from 1, 0 is stage 1."""

    client: int
    round: int
    reason: str
    trace: str

    @classmethod
    def of(cls, error: Exception, client: int, round: int) -> "Failure":
        """The failure behind an exception that is being handled."""
        if isinstance(error, Fault):
            return cls(client, round, str(error), "")
        return cls(client, round, reason(error), traceback.format_exc())

    def __str__(self) -> str:
        where = f"round {self.round}" if self.round else "stage 1"
        return f"client {self.client} in {where}: {self.reason}"
