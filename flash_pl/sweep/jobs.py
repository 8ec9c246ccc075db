"""The runs of a sweep."""

import hashlib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_pl.compare import Run
from flash_pl.config import build_data, build_module, build_trainer, compose
from flash_pl.config.run_dir import as_argument, experiment
from flash_pl.errors import ConfigError

BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Choice:
    """A key and the texts of its values, one for all runs or several to vary."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def read(cls, argument: str) -> "Choice":
        """
        >>> Choice.read("density=0.05,0.1")
        Choice(key='density', values=('0.05', '0.1'))

        Raises:
            ConfigError: no ``=``, an empty value between commas, a value twice, a bracket or quote that is not closed.
        """
        key, equals, text = argument.partition("=")
        if not (equals and key):
            raise ConfigError("argument", argument, "KEY=VALUE or KEY=VALUE,VALUE,...")
        values = tuple(value.strip() for value in split(key, text))
        if len(values) > 1 and not all(values):
            raise ConfigError(key, text, "a value on both sides of each comma")
        if len(set(values)) < len(values):
            raise ConfigError(key, text, "values that differ")
        return cls(key, values)

    @property
    def varies(self) -> bool:
        return len(self.values) > 1


def split(key: str, text: str) -> list[str]:
    """The parts of ``text`` between its commas; those inside brackets and quotes do not count.

    Joined with commas the parts are ``text`` again.

    >>> split("x", "[1, 2],{a: 'b,c'},d")
    ['[1, 2]', "{a: 'b,c'}", 'd']

    Raises:
        ConfigError: by its ``key``, a text with a bracket or a quote that is not closed.
    """
    cuts = list(_commas(key, text))
    return [text[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(text)], strict=True)]


def _commas(key: str, text: str) -> Iterator[int]:
    open_ = ""  # the brackets and the quote that are to be closed, the innermost last
    for index, character in enumerate(text):
        if open_[-1:] in ("'", '"'):
            open_ = open_[:-1] if character == open_[-1] else open_
        elif character in "'\"":
            open_ += character
        elif character in BRACKETS:
            open_ += BRACKETS[character]
        elif character in BRACKETS.values():
            if character != open_[-1:]:
                raise ConfigError(key, text, f"brackets that are opened; {character} is not")
            open_ = open_[:-1]
        elif character == "," and not open_:
            yield index
    if open_:
        raise ConfigError(key, text, f"brackets and quotes that are closed; {open_[-1]} is missing")


ALONE = "run"  # the name where nothing varies
LONGEST = 120  # characters of a name
OWN = {
    "run_dir": "--out FOLDER instead",
    "ckpt_path": "no such key in a sweep: each run goes on from its own checkpoint",
}


@dataclass(frozen=True)
class Job:
    """One training: where it goes, the command line that trains it, its resolved config."""

    name: str
    directory: Path
    arguments: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def log(self) -> Path:
        """What the training prints."""
        return self.directory.with_name(f"{self.name}.log")

    @property
    def command(self) -> list[str]:
        """The training as a process of its own; it goes on from its last checkpoint, if there is one."""
        fit = [sys.executable, "-m", "flash_pl", "fit"]
        return [*fit, *self.arguments, f"run_dir={as_argument(self.directory)}", "ckpt_path=last"]

    def finished(self) -> Run | None:
        """The run, if it is there, whole.

        Raises:
            ConfigError: a finished run of another experiment is there, or one that cannot be read.
        """
        if not (self.directory / "result.json").exists():
            return None
        found = Run.read(self.directory)
        ours, theirs = ({"rounds": one["rounds"]} | dict(experiment(one)) for one in (self.config, found.config))
        other = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        if other:
            what = ", ".join(f"{key}={theirs.get(key)!r}" for key in other)
            raise ConfigError(
                "out", str(self.directory), f"a folder without a finished run of another experiment ({what})"
            )
        return found

    def otherwise(self, found: Run) -> str:
        """How the ``found`` run of this experiment was watched, or on what machine, where this one would not be."""
        was, would = found.config["trainer"], self.config["trainer"]
        return ", ".join(f"trainer.{key}={was.get(key)!r}" for key in would if was.get(key) != would[key])


def jobs(config: str, content: Mapping[str, Any], choices: Sequence[Choice], folder: Path) -> list[Job]:
    """One for each combination of values; seeds vary slowest, so that a sweep that is stopped has fewer seeds of all.

    Args:
        config: name or path of the config, and its ``content``.

    Raises:
        ConfigError: a key given twice or reserved, or a combination of which no config can be made.
    """
    keys = [choice.key for choice in choices]
    for choice in choices:
        if keys.count(choice.key) > 1:
            raise ConfigError(
                choice.key, f"{keys.count(choice.key)} times", "a key once, with commas between its values"
            )
        if choice.key in OWN:
            raise ConfigError(choice.key, ",".join(choice.values), OWN[choice.key])
    found = []
    order = sorted(choices, key=lambda choice: choice.key != "seed")
    for values in itertools.product(*(choice.values for choice in order)):
        value = dict(zip((choice.key for choice in order), values, strict=True))
        overrides = [f"{key}={value[key]}" for key in keys]
        name = name_of({choice.key: value[choice.key] for choice in choices if choice.varies})
        with _naming(name):
            found.append(Job(name, folder / name, (config, *overrides), compose(content, overrides)))
    return found


@contextmanager
def _naming(job: str) -> Iterator[None]:
    """What cannot work may do so in other combinations of the values."""
    try:
        yield
    except ConfigError as error:
        where = "" if job == ALONE else f" (in {job})"
        raise ConfigError(error.key, error.value, error.allowed + where) from error


def name_of(values: Mapping[str, str]) -> str:
    """A name for a folder that tells a combination from others of the same keys; the seed comes last.

    >>> name_of({"seed": "1", "scheduler": "jmwst", "density": "0.05"})
    'scheduler=jmwst,density=0.05,seed=1'
    >>> name_of({"data.shape": "[1, 8]"})
    'data.shape=_1,_8_-e3fcb2'
    """
    pairs = sorted(values.items(), key=lambda pair: pair[0] == "seed")
    plain = ",".join(f"{key}={value}" for key, value in pairs) or ALONE
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", plain)[:LONGEST]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def check(jobs: Sequence[Job]) -> None:
    """Build what the jobs train, without data, so that a wrong setting of a component shows before anything is trained.

    Raises:
        ConfigError: the first setting that cannot work.
    """
    seen = set()
    for job in jobs:
        overrides = tuple(argument for argument in job.arguments if not argument.startswith("seed="))
        if overrides not in seen:
            seen.add(overrides)
            with _naming(job.name):
                build_module(job.config, build_data(job.config))
                build_trainer(job.config)
