"""The keys of a config: their help texts, defaults and types. They are read from source code, so that nobody waits for
the import of torch to learn that a key does not exist.

The keys under ``trainer.`` and ``wire.`` are declared by the classes that take them: a new parameter of
``FederatedTrainer`` with a line in its docstring's ``Args:`` is a new key.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from flash_pl.checks import MOST_THREADS, check_booleans, check_choice, check_integers
from flash_pl.config.declared import declared
from flash_pl.config.names import unknown_key
from flash_pl.errors import ConfigError, as_yaml


@dataclass
class Keys:
    """The top-level keys of an experiment. A component is the name of a shipped fragment, or names a class.

    Args:
        data: data set; data.root=..., data.partition=iid and the like refine it.
        model: network; null takes the data set's own.
        density: target share of active weights, over all weights that may be masked; or of FLOPs (density_of).
        density_of: what densities, also of budget.tiers, are shares of: weights (those that may be masked) or flops
            (the forward multiply-adds of their layers in the dense network).
        clients: number of clients N; null takes the data's natural clients.
        cohort: clients per round K.
        rounds: communication rounds R.
        local_epochs: epochs that a client trains in a round.
        batch_size: batch size of the clients' training.
        optimizer: optimizer of the clients' training: sgd or adam.
        lr: learning rate of round 0.
        lr_end: learning rate after lr_horizon rounds, reached exponentially; an lr below it stays as it is.
        lr_horizon: rounds of the decay from lr to lr_end, whatever rounds is.
        alpha: Dirichlet concentration of the partition; 1000 is nearly IID.
        seed: seed of every random draw.
        compat: official makes the choices of the FLASH authors' code.
        run_dir: directory of the run; the default one gets a number if it is taken.
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
    density_of: str = "weights"
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
        check_integers(optional=True, patience=self.patience)
        check_integers(optional=True, most=MOST_THREADS, threads=self.threads)
        check_choice("max", "min", monitor_mode=self.monitor_mode)
        check_choice("auto", "ddp", strategy=self.strategy)
        check_booleans(progress=self.progress)


TOP = "flash_pl.config.keys.Keys"
# The classes whose parameters are the keys of a section.
SECTIONS = {
    "trainer": (
        "flash_pl.trainer.FederatedTrainer",
        "flash_pl.loops.settings.EvaluationSchedule",
        "flash_pl.loops.settings.FaultPolicy",
        "flash_pl.config.keys.RunOptions",
    ),
    "wire": ("flash_pl.costs.traffic.WireFormat",),
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


@cache
def options_of(class_path: str) -> dict[str, Key]:
    """The keys that ``Keys`` or a class of ``SECTIONS`` declares: its parameters, by name."""
    others = {*SET_OTHERWISE, *declared(TOP)} if class_path == SECTIONS["trainer"][0] else set()
    return {
        name: Key(parameter.hint(), parameter.default(), in_yaml(parameter.help))
        for name, parameter in declared(class_path).items()
        if name not in others
    }


def in_yaml(text: str) -> str:
    """A help text with values as YAML has them, and without the marks of reStructuredText.

    >>> in_yaml("None skips ``validate``; True does not.")
    'null skips validate; true does not.'
    """
    words = {"None": "null", "True": "true", "False": "false", "``": ""}
    return re.sub(r"\b(?:None|True|False)\b|``", lambda match: words[match[0]], text)


def _all_keys() -> Iterator[tuple[str, Key]]:
    for name, key in options_of(TOP).items():
        yield name, key
        for class_path in SECTIONS.get(name, ()):
            for option, option_key in options_of(class_path).items():
                yield f"{name}.{option}", option_key


KEYS: dict[str, Key] = dict(_all_keys())  # by dotted name, such as "trainer.eval_every"


def keys_of(section: str) -> list[str]:
    """The names of the keys of a section, or of the top level for ``""``."""
    return [name.rpartition(".")[2] for name in KEYS if name.rpartition(".")[0] == section]


def check_key(name: str) -> None:
    """Check that a dotted name is a key, or is below one: what is below a component is known to its class alone.

    >>> check_key("scheduler.prune_rate"), check_key("trainer.eval_every")
    (None, None)
    >>> check_key("denisty")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: denisty: there is no such key; did you mean density?

    Raises:
        ConfigError: it is not.
    """
    section, *below = name.split(".")
    _check_known(f"{section}.{below[0]}" if section in SECTIONS and below else section)


def check_names(layer: Mapping[str, Any]) -> None:
    """Check that every key of a layer of the config exists, and that every section is a mapping.

    Raises:
        ConfigError: an unknown key, by its dotted name.
    """
    for name, value in leaves(layer):
        _check_known(name)
        if name in SECTIONS:
            raise ConfigError(name, f"{as_yaml(value)} is not a mapping", f"its keys are {', '.join(keys_of(name))}")


def _check_known(name: str) -> None:
    if name not in KEYS:
        section = name.rpartition(".")[0]
        raise unknown_key(name, keys_of(section), [] if section else described_by(name)[:2])


def described_by(name: str) -> list[str]:
    """The keys whose help has all words of a name, as other programs may call them; the earlier the words, the better.

    >>> described_by("learning_rate")[0], described_by("epochs")[0]
    ('lr', 'local_epochs')
    """
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    found = {}
    for key, value in KEYS.items():
        places = [re.search(rf"\b{word}\b", value.help.lower()) for word in words]
        if words and all(places):
            found[key] = max(place.start() for place in places if place)
    return sorted(found, key=lambda key: found[key])


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted name, value) of the sections; a component is one value."""
    if isinstance(node, Mapping) and (not name or name in SECTIONS):
        for key, value in node.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node
