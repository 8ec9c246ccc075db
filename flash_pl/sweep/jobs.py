"""The runs of a sweep: their names, folders and command lines."""

import hashlib
import itertools
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_pl.config import compose, experiment, resolve_plain, to_repeat
from flash_pl.config.shipped import as_argument
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.yaml12 import dump

if TYPE_CHECKING:
    from flash_pl.compare import Run

SINGLE = "run"  # the name of the only run where no key varies
LONGEST = 120  # characters of a name
MOST_JOBS = 100_000
# Keys that a sweep sets itself, each with a hint for the user.
RESERVED = {
    "run_dir": "use --out FOLDER",
    "ckpt_path": "leave it out: each run of a sweep goes on from its own checkpoint",
}
BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Choice:
    """A key and the texts of its values: one for all runs, or several to vary."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def read(cls, argument: str) -> "Choice":
        """The choice of an argument of the command line.

        >>> Choice.read("density=0.05,0.1")
        Choice(key='density', values=('0.05', '0.1'))

        Raises:
            ConfigError: no ``=``, an empty value between commas, a value twice, a bracket or quote that is not closed.
        """
        key, equals, text = argument.partition("=")
        if not (equals and key):
            raise ConfigError(
                "argument", f"{as_yaml(argument)} is not KEY=VALUE", "write KEY=VALUE or KEY=VALUE,VALUE,..."
            )
        values = tuple(value.strip() for value in split(key, text))
        if len(values) > 1 and not all(values):
            raise ConfigError(key, f"{as_yaml(text)} has a comma without a value on both sides")
        if len(set(values)) < len(values):
            raise ConfigError(key, f"{as_yaml(text)} has the same value twice")
        return cls(key, values)

    @property
    def varies(self) -> bool:
        """Whether there are several values."""
        return len(self.values) > 1


def split(key: str, text: str) -> list[str]:
    """The parts of ``text`` between its commas; commas inside brackets and quotes do not separate parts.

    The parts, joined with commas, are ``text`` again.

    >>> split("x", "[1, 2],{a: 'b,c'},d")
    ['[1, 2]', "{a: 'b,c'}", 'd']

    Raises:
        ConfigError: by its ``key``, a text with a bracket or a quote that is not closed.
    """
    cuts = list(_commas(key, text))
    return [text[start + 1 : end] for start, end in zip([-1, *cuts], [*cuts, len(text)], strict=True)]


def _commas(key: str, text: str) -> Iterator[int]:
    closing = ""  # the brackets and the quote that must still come, the next one last
    for index, character in enumerate(text):
        if closing[-1:] in ("'", '"'):
            closing = closing[:-1] if character == closing[-1] else closing
        elif character in "'\"":
            closing += character
        elif character in BRACKETS:
            closing += BRACKETS[character]
        elif character in BRACKETS.values():
            if character != closing[-1:]:
                raise ConfigError(key, f"{as_yaml(text)} has a {character} that does not close a bracket")
            closing = closing[:-1]
        elif character == "," and not closing:
            yield index
    if closing:
        raise ConfigError(key, f"{as_yaml(text)} ends without {closing[-1]}", "close all brackets and quotes")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        name: unique in the sweep.
        directory: the run directory.
        arguments: of ``flash-pl fit``, without those that a sweep sets itself.
        config: the resolved config.
        written: the same as a comparison reads it from the run's config.yaml, see ``flash_pl.config.resolve_plain``.
    """

    name: str
    directory: Path
    arguments: tuple[str, ...]
    config: Mapping[str, Any]
    written: Mapping[str, Any]

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return self.directory.with_name(f"{self.name}.log")

    @property
    def command(self) -> list[str]:
        """The command line of the process; it resumes from the last checkpoint, if there is one."""
        fit = [sys.executable, "-m", "flash_pl", "fit"]
        return [*fit, *self.arguments, f"run_dir={as_argument(self.directory)}", "ckpt_path=last"]

    def finished(self) -> "Run | None":
        """The finished run in the job's directory, None if there is none.

        Raises:
            ConfigError: a finished run of another experiment is there, or one that cannot be read.
        """
        if not (self.directory / "result.json").exists():
            return None
        from flash_pl.compare import Run  # only here: it imports numpy, and most errors of typing come before

        run = Run.read(self.directory)
        wanted = dict(experiment(self.written)) | {"rounds": self.written["rounds"]}
        there = dict(experiment(run.config)) | {"rounds": run.config["rounds"]}
        differing = [key for key in wanted | there if wanted.get(key) != there.get(key)]
        if differing:
            values = ", ".join(f"{key}={as_yaml(there.get(key))}" for key in differing)
            problem = f"{as_yaml(str(self.directory))} holds a finished run of another experiment ({values})"
            raise ConfigError("out", problem, "give another folder")
        return run

    def other_options(self, run: "Run") -> str:
        """The trainer options of a finished ``run`` of this experiment that differ from this job's; "" if none do."""
        there, wanted = run.config["trainer"], self.written["trainer"]
        return ", ".join(f"trainer.{key}={as_yaml(there.get(key))}" for key in wanted if there.get(key) != wanted[key])


def make_jobs(config: str, content: Mapping[str, Any], choices: Sequence[Choice], folder: Path) -> list[Job]:
    """A job for each combination of values; seeds vary slowest, so that a sweep that is stopped has fewer seeds of all.

    Args:
        config: name or path of the config.
        content: its content.
        choices: the arguments of the command line.
        folder: the folder of all run directories.

    Raises:
        ConfigError: a key that is given twice or reserved, a combination that is not a valid config, or two equal
            ones, as with ``density=0.1,0.10``.
    """
    keys = [choice.key for choice in choices]
    for choice in choices:
        if keys.count(choice.key) > 1:
            hint = "give the key once, with commas between its values"
            raise ConfigError(choice.key, f"it is given {keys.count(choice.key)} times", hint)
        if choice.key in RESERVED:
            problem = f"{as_yaml(','.join(choice.values))} cannot be given to a sweep"
            raise ConfigError(choice.key, problem, RESERVED[choice.key])
    if (number := math.prod(len(choice.values) for choice in choices)) > MOST_JOBS:
        widest = max(choices, key=lambda choice: len(choice.values))
        raise ConfigError(widest.key, f"its {len(widest.values)} values and those of the other keys make {number} runs")
    jobs = []
    order = sorted(choices, key=lambda choice: choice.key != "seed")
    for combination in itertools.product(*(choice.values for choice in order)):
        values = dict(zip((choice.key for choice in order), combination, strict=True))
        overrides = [f"{key}={values[key]}" for key in keys]
        name = job_name({choice.key: values[choice.key] for choice in choices if choice.varies})
        with _naming(name):
            resolved, written = compose(content, overrides), resolve_plain(to_repeat(content, overrides), config)
            jobs.append(Job(name, folder / name, (config, *overrides), resolved, written))
    _refuse_equal(jobs, [choice for choice in order if choice.varies])
    return jobs


def _refuse_equal(jobs: Sequence[Job], varied: Sequence[Choice]) -> None:
    """Check that no two jobs have the same config; the error names the first key in whose text they differ."""
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(dump(_without_names(job.config), flow=True), job)
        if other is not job:
            here, there = (dict(argument.split("=", 1) for argument in one.arguments[1:]) for one in (other, job))
            key = next(choice.key for choice in varied if here[choice.key] != there[choice.key])
            problem = f"{here[key]} and {there[key]} are the same value, so two runs would be equal"
            raise ConfigError(key, problem, "give it once")


def _without_names(node: Any) -> Any:
    """A config without the names of fragments: a class with the same init args is the same component."""
    if not isinstance(node, Mapping):
        return node
    return {key: _without_names(item) for key, item in node.items() if key != "name" or "class_path" not in node}


def job_name(values: Mapping[str, str]) -> str:
    """A file name that is different for each combination of values of the same keys; the seed comes last.

    >>> job_name({"seed": "1", "scheduler": "jmwst", "density": "0.05"})
    'scheduler=jmwst,density=0.05,seed=1'
    >>> job_name({"data.shape": "[1, 8]"})
    'data.shape=_1,_8_-e3fcb2'
    """
    pairs = sorted(values.items(), key=lambda pair: pair[0] == "seed")
    plain = ",".join(f"{key}={value}" for key, value in pairs) or SINGLE
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", plain)[:LONGEST]
    return safe if safe == plain else f"{safe}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def check_jobs(jobs: Sequence[Job]) -> None:
    """Build everything that the jobs train, without data, to find wrong settings of components before any training.

    Raises:
        ConfigError: the first setting that cannot work.
    """
    from flash_pl.config import build_data, build_module, build_trainer  # only here, where torch is needed

    checked = set()
    for job in jobs:
        overrides = tuple(argument for argument in job.arguments if not argument.startswith("seed="))
        if overrides not in checked:
            checked.add(overrides)
            with _naming(job.name):
                build_module(job.config, build_data(job.config))
                build_trainer(job.config)


@contextmanager
def _naming(job: str) -> Iterator[None]:
    """Errors name the job, since its settings may work in other jobs."""
    try:
        yield
    except ConfigError as error:
        if job == SINGLE:
            raise
        raise ConfigError(error.key, f"{error.problem} (in {job})", error.hint) from error
