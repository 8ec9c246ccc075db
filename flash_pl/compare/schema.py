"""What the files of a finished run may hold. What follows in a comparison relies on it, and checks nothing again.

A rule is the words for a value and its test, a mapping of keys to rules for a mapping in which every key may be absent,
or an ``Each`` for the values of a mapping with any keys or of a list.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flash_pl.compare.files import Columns
from flash_pl.config import label
from flash_pl.config.given import OPTIONAL
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.errors import ConfigError, as_yaml, printable

SECTIONS = ("data", "model", "scheduler")  # the components by whose names runs are called

LONGEST_NAME = 200  # characters
MOST_METRICS = 1_000  # columns of metrics.csv
DEEPEST = 50  # mappings and lists inside of each other
LARGEST = 1e30  # of bytes, FLOPs, seconds and numbers of things
ROUNDING = 1e-6  # of shares that are means in single precision, and of tables that a spreadsheet has saved


@dataclass(frozen=True)
class Kind:
    """The values that a key may have, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]

    @property
    def or_null(self) -> "Kind":
        """The same values, and null."""
        return Kind(f"{self.words} or null", lambda value: value is None or self.holds(value))


@dataclass(frozen=True)
class Each:
    """The rule of every value of a mapping, or of a list."""

    rule: "Rule"
    of_list: bool = False


Rule = Kind | Each | Mapping[str, Any]


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_name(value: object) -> bool:
    """Whether a value is a text that may stand in a table, a figure and a file."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: is_number(value) and low <= value <= high


NUMBER = Kind("a finite number", is_number)
SHARE = Kind("a number from 0 to 1", _between(0, 1 + ROUNDING))
COST = Kind(f"a number from 0 to {LARGEST:g}", _between(0, LARGEST))
COUNT = Kind("a whole number of at least 0", lambda value: _between(0, 2**63)(value) and value == int(value))
INDEX = Kind("a whole number of at least 1", lambda value: COUNT.holds(value) and value >= 1)
SEED = Kind("an integer of at least 0", lambda value: isinstance(value, int) and is_number(value) and value >= 0)
POSITIVE = Kind("an integer of at least 1", lambda value: isinstance(value, int) and INDEX.holds(value))
# A metric that a module logs is infinite if the run has diverged.
METRIC = Kind("a number", lambda value: True)
DENSITY = Kind("a number in (0, 1]", lambda value: is_number(value) and 1e-9 <= value <= 1)
DENSITY_OF = Kind("weights or flops", lambda value: value in ("weights", "flops"))
NAME = Kind(f"a text of 1 to {LONGEST_NAME} printable characters", is_name)
TEXT = Kind("a text", lambda value: isinstance(value, str))
COMPONENT = Kind(
    "a component with a class_path",
    lambda value: (
        isinstance(value, dict)
        and is_name(value.get("class_path"))
        and isinstance(value.get("init_args", {}), dict)
        and (value.get("name") is None or is_name(value["name"]))
    ),
)

RESULT: Mapping[str, Rule] = {
    **dict.fromkeys(SECTIONS, NAME),
    "weights": Each(COUNT),
    "target_density": DENSITY.or_null,
    "density_of": DENSITY_OF,
    "density": SHARE,
    "density_flops": SHARE.or_null,
    "layer_density": Each(SHARE),
    "accuracy": NUMBER.or_null,
    "accuracy_union": NUMBER.or_null,
    "best": Kind(
        "null, or a number and its round",
        lambda best: (
            best is None
            or (isinstance(best, dict) and is_number(best.get("value")) and POSITIVE.holds(best.get("round")))
        ),
    ),
    "loss": NUMBER.or_null,
    "rounds": POSITIVE,
    "clients": POSITIVE,
    "cohort": POSITIVE,
    "seed": SEED,
    "seconds": COST,
    "seconds_per_round": COST.or_null,
    "cost": Each(COST),
    "mismatch": Each(SHARE.or_null),
    "versions": Each(NAME),
    "process": {
        "command": TEXT,
        "host": Each(Kind("a text or a number", lambda value: isinstance(value, str) or COUNT.holds(value))),
        "peak_memory_mb": Each(COST),
    },
    "stopped": TEXT,
    "tiers": Each({"density": DENSITY, "accuracy": NUMBER.or_null}, of_list=True),
    "accuracy_clients": Each(NUMBER.or_null),
    "accuracy_finetuned": Each(NUMBER.or_null),
    "reports": Each(COUNT),
    "failed_clients": COUNT,
}
CONFIG: Mapping[str, Rule] = {
    **{section: COMPONENT.or_null if section in OPTIONAL else COMPONENT for section in COMPONENTS},
    "density": DENSITY,
    "density_of": DENSITY_OF,
    "seed": SEED,
    "rounds": POSITIVE,
    "cohort": POSITIVE,
    "compat": NAME.or_null,
    "trainer": {"monitor": NAME, "monitor_mode": Kind("max or min", lambda value: value in ("max", "min"))},
}
NEEDED = (*SECTIONS, "density", "seed", "rounds", "cohort", "trainer")  # the keys that every config of a run has

# Columns of the tables, by their names. Others, which a module may log, hold any number: an accuracy may be in percent.
TABLES: Mapping[str, Mapping[str, Kind]] = {
    "metrics.csv": {
        "round": INDEX,
        "participants|late|failed|moved|messages_(up|down)": COUNT,
        "density(_union|_flops)?|mismatch_(clients|server|temporal)(_d.*)?|in_(all_masks|one_mask)": SHARE,
        "bytes_(once|(up|down)(_entropy|_bitmap|_values|_total)?)": COST,
        "flops(_total|_ratio|_inference|_inference_ratio)?": COST,
        "fleet_seconds(_total)?|seconds(_train)?": COST,
    },
    "consensus.csv": {
        "round": INDEX,
        "votes/.*": COUNT,
        "(density|mismatch_(clients|server|temporal))/.*": SHARE,
    },
}

# Keys of result.json that repeat the last round, or the sum over all rounds, of a column of metrics.csv.
LAST = {
    "rounds": "round",
    "loss": "val_loss",
    "density": "density",
    "density_flops": "density_flops",
    **{f"cost.{name}": f"{name}_total" for name in ("bytes_up", "bytes_down", "flops", "fleet_seconds")},
    **{f"mismatch.{name}": f"mismatch_{name}" for name in ("clients", "server", "temporal")},
}
SUMS = {"reports.in_time": "participants", "reports.late": "late"}


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Check a resolved config.

    Raises:
        ConfigError: the file at ``path`` and the first key that no run writes.
    """
    for key in NEEDED:
        if key not in config:
            raise ConfigError("run", f"{as_yaml(str(path))} is not the config of a run: {key} is missing")
    _check_plain(path, config)
    _check(path, CONFIG, config)


def check_result(path: Path, result: Mapping[str, Any]) -> None:
    """Check the content of result.json.

    Raises:
        ConfigError: the file at ``path`` and the first key that no run writes.
    """
    _check_plain(path, result)
    _check(path, RESULT, result)


def check_table(path: Path, columns: Columns) -> None:
    """Check the columns of metrics.csv or consensus.csv: their names, their values, and that no round is missing.

    Raises:
        ConfigError: the file at ``path``, the first column and the round that no run writes.
    """
    file, rounds = as_yaml(str(path)), columns["round"]
    if path.name == "metrics.csv" and len(columns) > MOST_METRICS:
        raise ConfigError("run", f"{file} has {len(columns)} columns, more than {MOST_METRICS}")
    for name, values in columns.items():
        if name and not is_name(name):
            problem = f"has the column {printable(name[:80])}, whose name is not {NAME.words}"
            raise ConfigError("run", f"{file} {problem}")
        kind = _kind_of_column(path.name, name)
        for value, round in zip(values.tolist(), rounds.tolist(), strict=True):
            if value == value and not kind.holds(value):
                place = f" in round {round:g}" * (name != "round")
                raise ConfigError("run", f"{file}: {name} is {value:g}{place}, not {kind.words}")
    if np.isnan(rounds).any():
        raise ConfigError("run", f"{file} has a row without a round")
    gaps = np.flatnonzero(np.diff(rounds) != 1)
    if len(gaps):
        before, after = rounds[gaps[0] : gaps[0] + 2]
        raise ConfigError("run", f"{file} has round {after:g} after round {before:g}; rounds must ascend without gaps")


def _kind_of_column(table: str, name: str) -> Kind:
    return next((kind for pattern, kind in TABLES[table].items() if re.fullmatch(pattern, name)), METRIC)


def check_agreement(path: Path, config: Mapping[str, Any], result: Mapping[str, Any], metrics: Columns) -> None:
    """Check that result.json says the same as config.yaml and metrics.csv of the run at ``path``.

    Raises:
        ConfigError: the first key that differs, with both values.
    """
    there: dict[str, Any] = {section: str(label(config, section)) for section in SECTIONS}
    there |= {"seed": config["seed"], "cohort": config["cohort"], "target_density": config["density"]}
    monitor = config["trainer"].get("monitor", "val_acc")
    columns = LAST | {"accuracy": monitor, "accuracy_union": f"{monitor}_union"}
    pairs = [(key, value, "config.yaml") for key, value in there.items()]
    pairs += [
        (key, float(metrics[name][-1]), f"metrics.csv ({name})") for key, name in columns.items() if name in metrics
    ]
    pairs += [
        (key, float(np.nansum(metrics[name])), f"metrics.csv (sum of {name})")
        for key, name in SUMS.items()
        if name in metrics
    ]
    for key, value, source in pairs:
        section, _, name = key.rpartition(".")
        found = (result.get(section, {}) if section else result).get(name)
        if not (found is None or value != value or _equal(found, value)):
            file, problem = as_yaml(str(path / "result.json")), f"{key} is {as_yaml(found)}, but {as_yaml(value)}"
            raise ConfigError("run", f"{file} does not fit its run: {problem} in {source}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-12)


def _check(path: Path, rule: Rule, value: Any, key: str = "") -> None:
    """Check a value and all values in it against a rule."""
    if isinstance(rule, Kind):
        if not rule.holds(value):
            raise _error(path, key, f"is {_shown(value)}, not {rule.words}")
        return
    if isinstance(rule, Each) and rule.of_list:
        if not isinstance(value, list):
            raise _error(path, key, f"is {_shown(value)}, not a list")
        inner: Iterator[tuple[Any, Rule]] = ((index, rule.rule) for index in range(len(value)))
    else:
        if not isinstance(value, dict):
            raise _error(path, key, f"is {_shown(value)}, not a mapping")
        rules = dict.fromkeys(value, rule.rule) if isinstance(rule, Each) else rule
        inner = ((name, rules[name]) for name in rules if name in value)
    for name, inner_rule in inner:
        _check(path, inner_rule, value[name], f"{key}.{name}".lstrip("."))


def _check_plain(path: Path, content: Any) -> None:
    """Check that a content has mappings with names, lists, texts, finite numbers, true, false and null only."""
    nodes: list[tuple[str, Any, int]] = [("", content, 0)]
    while nodes:
        key, value, depth = nodes.pop()
        if depth > DEEPEST:
            raise _error(path, key, f"is nested deeper than {DEEPEST} levels")
        if isinstance(value, dict):
            for name in value:
                if not (isinstance(name, int) and abs(name) < 2**63) and not is_name(name):
                    raise _error(path, key, f"has the key {_shown(name)}, which is not {NAME.words}")
            nodes += [(f"{key}.{name}".lstrip("."), item, depth + 1) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            nodes += [(f"{key}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        elif not (value is None or isinstance(value, str | bool) or is_number(value)):
            raise _error(path, key, f"is {_shown(value)}, not a finite number, a text, true, false or null")


def _error(path: Path, key: str, problem: str) -> ConfigError:
    return ConfigError("run", f"{as_yaml(str(path))}: {printable(key)[:LONGEST_NAME] or 'the whole file'} {problem}")


def _shown(value: Any) -> str:
    """The beginning of a value; Python does not write integers of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of too many digits"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = as_yaml(value[:80] if isinstance(value, str) else value)
    return printable(text)
