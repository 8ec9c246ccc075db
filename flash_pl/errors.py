"""Errors that one line explains; the command line prints that line and no traceback.

``ConfigError``, ``ModuleError`` and ``DataNotFoundError`` are found before a round is trained (exit code 2), nearly all
of them before a run writes anything. A ``RunError`` ends a run that has begun (exit code 3); its last checkpoint is
whole.
"""

import json
import signal
import sysconfig
import traceback
from pathlib import Path

SHOWN = 300  # characters of a value or a message of others that an error shows
TRACE = 50_000  # characters at each end of a traceback that are kept
PACKAGE = str(Path(__file__).parent)
NOT_OF_USER = (PACKAGE, sysconfig.get_path("stdlib"), "<frozen")
# What to do about torch's error of a batch normalization in training.
SINGLE_SAMPLE_HINT = (
    "data.drop_last=true leaves out a last batch of one sample, but not the only batch of a client with one sample"
)


class ConfigError(ValueError):
    """A setting that cannot work.

    Args:
        key: dotted name of the setting, such as ``"scheduler.prune_rate"``.
        problem: what is wrong, with the value; a clause without a full stop.
        hint: what to do or what is allowed, empty where the problem says it.

    >>> str(ConfigError("density", "1.5 is not in (0, 1]"))
    'density: 1.5 is not in (0, 1]'
    >>> str(ConfigError("cohort", "20 is more than the 10 clients", "set clients=20 or a smaller cohort"))
    'cohort: 20 is more than the 10 clients; set clients=20 or a smaller cohort'
    """

    def __init__(self, key: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{shortened(key)}: {problem}; {hint}" if hint else f"{shortened(key)}: {problem}")
        self.key, self.problem, self.hint = key, problem, hint

    def within(self, section: str) -> "ConfigError":
        """The same error with the key inside ``section``, for the caller to raise.

        >>> str(ConfigError("prune_rate", "2 is not in (0, 1]").within("scheduler"))
        'scheduler.prune_rate: 2 is not in (0, 1]'
        """
        return ConfigError(f"{section}.{self.key}", self.problem, self.hint)


def shortened(text: str) -> str:
    """A text for one line: without its end if it is longer than ``SHOWN`` characters.

    >>> shortened("density"), shortened("1" * 5000)[-25:]
    ('density', '111... (5,000 characters)')
    """
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 100]}... ({len(text):,} characters)"


def as_yaml(value: object) -> str:
    """A value as a user writes it in YAML or on the command line; objects are shown by their class, long values by
    their beginning.

    >>> as_yaml(None), as_yaml(True), as_yaml("x"), as_yaml([1, "a"]), as_yaml(object())
    ('null', 'true', "'x'", "[1, 'a']", 'an object of class object')
    >>> as_yaml(10**5000)  # Python writes at most 4300 digits
    'an integer of 16610 bits'
    """
    return shortened(_as_yaml(value))


def _as_yaml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_as_yaml(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an object of class {type(value).__name__}"


def printable(text: str) -> str:
    r"""A text from a file of somebody else, with escapes for characters that a terminal would execute or not show.

    >>> print(printable("a\x1b[2J\nb"))
    a\x1b[2J\nb
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def in_one_line(error: BaseException) -> str:
    """The message of an exception of others, in one line; the name of its class if it has none.

    >>> in_one_line(ValueError("a\\nb")), in_one_line(KeyError()), len(in_one_line(ValueError("x" * 10**6)))
    ('a b', 'KeyError', 224)
    >>> class Silent(Exception):
    ...     def __str__(self):
    ...         raise ValueError
    >>> in_one_line(Silent())
    'Silent'
    """
    try:
        text = str(error)
    except Exception:  # code of the exception's class
        text = ""
    return shortened(" ".join(text[:100_000].split())) or type(error).__name__


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception, without the middle if its messages are very long.

    >>> traceback_of(ValueError("x"))
    'ValueError: x\\n'
    """
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= 2 * TRACE else f"{text[:TRACE]}\n...\n{text[-TRACE:]}"


def describe_error(error: BaseException) -> str:
    """An exception in one line, with the innermost file and line outside of installed packages.

    >>> describe_error(ValueError())
    'ValueError'
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    name, text = type(error).__name__, in_one_line(error)
    hint = f"; {SINGLE_SAMPLE_HINT}" if "more than 1 value per channel" in text else ""
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{name}{'' if text == name else f': {text}'}{hint}{place}"


def is_of_user(error: BaseException) -> bool:
    """Whether code outside of flash_pl, of installed packages and of Python itself had a part in an exception.

    >>> is_of_user(ValueError())
    False
    """
    # The first frame may be that of a script which calls the command line.
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    first = next((place for place, file in enumerate(files) if file.startswith(PACKAGE)), len(files))
    return any(not file.startswith(NOT_OF_USER) and "site-packages" not in file for file in files[first:])


class ModuleError(TypeError):
    """A LightningModule that cannot be federated; the message says what to change."""


class TrainerQuestionError(ModuleError, AttributeError):
    """A module asks ``self.trainer`` for something that it does not have in a federated run."""


class DataNotFoundError(FileNotFoundError):
    """A data set that is in none of the folders searched; the message says where to put it."""


class PayloadError(ValueError):
    """Bytes that are not a valid payload for this receiver."""


class MessageError(ValueError):
    """A message that cannot be sent: bytes cannot carry one of its numbers or tensors. The error names it."""


class RunError(RuntimeError):
    """A run that had begun cannot go on.

    Args:
        message: what happened.
        trace: traceback of the cause; empty if there is none.
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class SampleError(RunError):
    """A sample of the data cannot be read."""


class ClientError(RunError):
    """The training of a client failed."""


class ServerError(RunError):
    """The server's model cannot be sent."""


class CallbackError(RunError):
    """A hook of a callback failed."""


class SchedulerError(RunError):
    """A server hook of the sparse scheduler failed or left an invalid mask, or a hook has changed a shared mask."""


class RankError(RunError):
    """Another process of the run failed, or does not answer (``gone``).

    >>> str(RankError(1, "it has ended"))
    'rank 1: it has ended'
    """

    def __init__(self, rank: int, reason: str, gone: bool = False) -> None:
        super().__init__(f"rank {rank}: {reason}")
        self.rank, self.gone = rank, gone


class Interrupted(RunError):
    """A signal asked the run to stop; the server is as the last whole round left it.

    Args:
        number: of the signal.
        remedy: how to go on.
    """

    def __init__(self, number: int, remedy: str = "the same command with ckpt_path=last goes on from there") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal, self.remedy = number, remedy


EXPLAINED = (ConfigError, ModuleError, DataNotFoundError, RunError)  # the message of such an error says enough
