"""What can go wrong in a way that its message explains: one line, never a traceback.

A setting that cannot work is found before anything is written (the command line exits with 2). What ends a run later
is a ``RunError`` (exit code 3); the last checkpoint is then still whole.
"""

import signal


class ConfigError(ValueError):
    """A setting that cannot work: the key, its value and what is allowed.

    >>> str(ConfigError("density", 1.5, "a number in (0, 1]"))
    'density: 1.5 is not allowed; expected a number in (0, 1]'
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}: {value!r} is not allowed; expected {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def within(self, section: str) -> "ConfigError":
        """The same error of a key inside ``section``, for the caller to raise.

        >>> str(ConfigError("prune_rate", 2, "a number in (0, 1]").within("scheduler"))
        'scheduler.prune_rate: 2 is not allowed; expected a number in (0, 1]'
        """
        return ConfigError(f"{section}.{self.key}", self.value, self.allowed)


class ModuleError(TypeError):
    """A LightningModule that cannot be federated; the message says what to change."""


class DataNotFoundError(FileNotFoundError):
    """A data set is in none of the places where it is looked for; the message names every remedy."""


class PayloadError(ValueError):
    """Bytes that are no payload, or not one for this receiver."""


class RunError(RuntimeError):
    """Why a run that had begun could not go on; ``trace`` is the traceback of its cause, if it has one."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class ClientError(RunError):
    """A client's training failed."""


class SchedulerError(RunError):
    """A hook of the server's half of a method failed, or left no usable mask."""


class RankError(RunError):
    """Another process of the run failed, or is ``gone`` without a word.

    >>> str(RankError(1, "it has ended"))
    'rank 1: it has ended'
    """

    def __init__(self, rank: int, reason: str, gone: bool = False) -> None:
        super().__init__(f"rank {rank}: {reason}")
        self.rank, self.gone = rank, gone


class Interrupted(RunError):
    """A signal asked the run to stop; the server is as it was after the last whole round.

    ``remedy`` says how to go on.
    """

    def __init__(self, number: int, remedy: str = "the same command with ckpt_path=last goes on from there") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal, self.remedy = number, remedy
