"""The typed keys of a config: help text, default and type, and the check of a config against them.

The keys under ``trainer.`` and ``wire.`` are declared by the classes that take them: a new parameter of
``FederatedTrainer`` with a line in its docstring's ``Args:`` is a new key.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from flash_pl.checks import check_booleans, check_choice, check_integers, check_numbers
from flash_pl.config.docstrings import parameter_help
from flash_pl.config.names import unknown_key
from flash_pl.config.signature import describe, fits, signature
from flash_pl.costs import WireFormat
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.loops import EvaluationSchedule, FaultPolicy
from flash_pl.trainer import FederatedTrainer


@dataclass
class Keys:
    """The top-level keys of an experiment. A component is the name of a shipped fragment, or names a class.

    Args:
        data: data set; data.root=..., data.partition=iid and the like refine it.
        model: network; null takes the data set's own.
        density: target share of active weights, over all weights that may be masked.
        clients: number of clients N; null takes the data's natural clients.
        cohort: clients per round K.
        rounds: communication rounds R.
        local_epochs: epochs that a client trains in a round.
        batch_size: batch size of the clients' training.
        optimizer: optimizer of the clients' training: sgd or adam.
        lr: learning rate of round 0.
        lr_end: learning rate after lr_horizon rounds, reached exponentially.
        lr_horizon: rounds of the decay from lr to lr_end, whatever rounds is.
        alpha: Dirichlet concentration of the partition; 1000 is nearly IID.
        seed: seed of every random draw.
        compat: official makes the choices of the FLASH authors' code.
        run_dir: directory of the run; it gets a number if it is taken.
        ckpt_path: checkpoint to resume from; last is the newest one in run_dir.
        scheduler: sparse scheduler and its settings, such as scheduler.prune_rate=0.3.
        budget: densities that the clients can afford; budget.tiers lists classes of devices.
        aggregator: how the clients' weights are averaged; null takes the scheduler's own average.
        server_optimizer: optimizer of the server; null takes the clients' mean as it is.
        round_average: average over rounds that is deployed; null deploys the last round's model.
        sampler: how the cohort of a round is drawn.
        fleet: devices whose time is simulated, with a fleet.deadline; null simulates none.
        callbacks: list of callbacks of your own, such as [my_file.MyCallback].
        logger: who gets the metrics, as names like tensorboard,wandb or classes of Lightning loggers; false for nobody.
        trainer: machine, evaluation, checkpoints.
        wire: how models are sent, and which bytes are counted.
    """

    data: Any = "digits"
    model: Any = None
    density: float = 0.05
    clients: int | None = 100
    cohort: int = 10
    rounds: int = 100
    local_epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_end: float = 0.001
    lr_horizon: int = 1000
    alpha: float = 1.0
    seed: int = 1
    compat: str | None = None
    run_dir: str = "runs/{data}-{scheduler}-d{density}-s{seed}"
    ckpt_path: str | None = None
    scheduler: Any = None
    budget: Any = "by_share"
    aggregator: Any = None
    server_optimizer: Any = None
    round_average: Any = None
    sampler: Any = "uniform"
    fleet: Any = None
    callbacks: list[Any] = ()  # type: ignore[assignment]  # a list in every config
    logger: Any = "tensorboard"
    trainer: Any = None
    wire: Any = None


THREADS = 4096  # of a process, at most: each has a stack, and OpenMP ends the process if it cannot start them


@dataclass(frozen=True)
class RunOptions:
    """Options of a run on the command line that ``FederatedTrainer`` does not have.

    Args:
        checkpoint_every: rounds between two checkpoints; 0 saves only the best and the last one.
        monitor: the metric that result.json calls accuracy, and by which best.ckpt is chosen.
        monitor_mode: max or min, the best value of that metric.
        patience: end the run after this many evaluations in a row without a new best value of monitor; null never does.
        progress: show a progress bar in a terminal, elsewhere a line every ten seconds.
        threads: CPU threads of a process; the last bits depend on it; null leaves the number to torch.
        strategy: auto or ddp, as in Lightning; both spread the clients over the processes.
        lr_delay: rounds by which the decay of the learning rate lags.

    Raises:
        ConfigError: a value out of range.
    """

    checkpoint_every: int = 10
    monitor: str = "val_acc"
    monitor_mode: str = "max"
    patience: int | None = None
    progress: bool = True
    threads: int | None = 1
    strategy: str = "auto"
    lr_delay: int = 0

    def __post_init__(self) -> None:
        check_integers(0, checkpoint_every=self.checkpoint_every, lr_delay=self.lr_delay)
        check_integers(1, THREADS, optional=True, threads=self.threads)
        check_integers(optional=True, patience=self.patience)
        check_choice("max", "min", monitor_mode=self.monitor_mode)
        check_choice("auto", "ddp", strategy=self.strategy)
        check_booleans(progress=self.progress)


# The classes whose parameters are the keys of a section.
SECTIONS: dict[str, tuple[type, ...]] = {
    "trainer": (FederatedTrainer, EvaluationSchedule, FaultPolicy, RunOptions),
    "wire": (WireFormat,),
}
# Parameters of FederatedTrainer that are not keys under trainer., each with its source. A parameter with the name of a
# top-level key is set by that key and is not listed.
SET_OTHERWISE = {
    "decay": "lr_end, lr_horizon and trainer.lr_delay",
    "include": "model.include",
    "exclude": "model.exclude",
    "exclude_first_last": "model.exclude_first_last",
    "enable_progress_bar": "trainer.progress",
    "evaluate": "the keys of EvaluationSchedule",
    "faults": "the keys of FaultPolicy",
}


@dataclass(frozen=True)
class Key:
    """One typed key."""

    hint: Any
    default: Any
    help: str


def options_of(target: type) -> dict[str, Key]:
    """The keys that a class of ``SECTIONS`` declares: its parameters, by name."""
    takes, texts, top = signature(target).parameters, parameter_help(target), signature(Keys).parameters
    others = {*SET_OTHERWISE, *top} if target is FederatedTrainer else set()
    return {
        name: Key(parameter.hint, parameter.default, _in_yaml(texts.get(name, "")))
        for name, parameter in takes.items()
        if name not in others
    }


def _in_yaml(text: str) -> str:
    """A help text with values as YAML has them, and without the marks of reStructuredText.

    >>> _in_yaml("None skips ``validate``; True does not.")
    'null skips validate; true does not.'
    """
    words = {"None": "null", "True": "true", "False": "false", "``": ""}
    return re.sub(r"\b(?:None|True|False)\b|``", lambda match: words[match[0]], text)


def _all_keys() -> Iterator[tuple[str, Key]]:
    for name, key in options_of(Keys).items():
        yield name, key
        for target in SECTIONS.get(name, ()):
            for option, option_key in options_of(target).items():
                yield f"{name}.{option}", option_key


KEYS: dict[str, Key] = dict(_all_keys())  # by dotted name, such as "trainer.eval_every"


def keys_of(section: str) -> list[str]:
    """The names of the keys of a section, or of the top level for ``""``."""
    return [name.rpartition(".")[2] for name in KEYS if name.rpartition(".")[0] == section]


def check_names(layer: Mapping[str, Any]) -> None:
    """Check that every key of a layer of the config exists, and that every section is a mapping.

    Raises:
        ConfigError: an unknown key, by its dotted name.
    """
    for name, value in _leaves(layer):
        if name not in KEYS:
            raise unknown_key(name, keys_of(name.rpartition(".")[0]))
        if name in SECTIONS:
            raise ConfigError(name, f"{as_yaml(value)} is not a mapping", f"its keys are {', '.join(keys_of(name))}")


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to ``values``, convert them to the keys' types and resolve interpolations.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation of a missing key.
    """
    check_names(values)
    # OmegaConf would convert text to numbers and booleans; only what a reference stands for is known later.
    _check_types({name: value for name, value in _leaves(values) if "${" not in str(value) and value != "???"})
    config = _converted(values, resolve=True)
    _check_types(dict(_leaves(config)))
    check_numbers("(0, 1]", density=config["density"])
    check_numbers("(0, inf)", **{key: config[key] for key in ("lr", "lr_end", "alpha")})
    check_integers(**{key: config[key] for key in ("cohort", "rounds", "local_epochs", "batch_size", "lr_horizon")})
    check_choice("sgd", "adam", optimizer=config["optimizer"])
    check_integers(optional=True, clients=config["clients"])
    check_integers(0, seed=config["seed"])
    try:
        RunOptions(**{name: config["trainer"][name] for name in options_of(RunOptions)})
    except ConfigError as error:
        raise error.within("trainer") from error
    return config


def _check_types(values: Mapping[str, Any]) -> None:
    """Check values by their dotted names against the hints of their keys."""
    for name, value in values.items():
        if not fits(value, KEYS[name].hint):
            raise ConfigError(name, f"{as_yaml(value)} is not {describe(KEYS[name].hint)}")


def referring(values: Mapping[str, Any]) -> dict[str, Any]:
    """Like ``typed``, but with the interpolations as they are, and without a check of values."""
    return _converted(values, resolve=False)


def resolve(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A complete config that was read from the file at ``path``, with its interpolations resolved.

    The section ``given`` is left out.

    Raises:
        ConfigError: an interpolation of a missing key.
    """
    values = {key: value for key, value in config.items() if key != "given"}
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("config", f"{path} refers to a key that it does not have ({reason})") from error
    return {str(name): value for name, value in dict(resolved).items()}  # type: ignore[arg-type]


# Lets a fragment refer to a share of another key: ${times:0.5,${density}}.
OmegaConf.register_resolver("times", lambda factor, value: float(factor) * float(value), replace=True)


def _structured(section: str = "") -> type:
    """A dataclass with the keys of a section, from which OmegaConf takes types and defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for name in keys_of(section):
        key = KEYS[f"{section}.{name}".lstrip(".")]
        if not section and name in SECTIONS:
            nested = _structured(name)
            fields.append((name, nested, field(default_factory=nested)))
        elif isinstance(key.default, list | tuple):
            fields.append((name, Any, field(default_factory=partial(list, key.default))))
        else:
            fields.append((name, _omegaconf_type(key.hint), field(default=key.default)))
    return make_dataclass(section or "Config", fields)


def _omegaconf_type(hint: Any) -> Any:
    """The hint if OmegaConf can convert to it, else Any: then ``typed`` alone checks the value."""
    choices = set(get_args(hint)) - {NoneType} if get_origin(hint) in (Union, UnionType) else {hint}
    return hint if len(choices) == 1 and choices <= {int, float, bool, str} else Any


STRUCTURE = _structured()


def _converted(values: Mapping[str, Any], resolve: bool) -> dict[str, Any]:
    check_names(values)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(STRUCTURE), values)
        config = OmegaConf.to_container(merged, resolve=resolve, throw_on_missing=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        problem = f"a reference ${{...}} has no fitting value ({reason})"
        raise ConfigError(str(error.full_key), problem) from error
    except MissingMandatoryValue as error:
        raise ConfigError(str(error.full_key), "??? stands for a missing value", "give a value") from error
    except ValidationError as error:
        name, value = str(error.full_key), getattr(error, "value", None)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        raise ConfigError(name, f"{as_yaml(value)} is not {describe(KEYS[name].hint)}") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(str(error.full_key or "config"), f"a value cannot be read ({reason})") from error
    return {str(name): value for name, value in dict(config).items()}  # type: ignore[arg-type]


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted name, value) of the sections; a component is one value."""
    if isinstance(node, Mapping) and (not name or name in SECTIONS):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node
