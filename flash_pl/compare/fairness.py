"""What makes the numbers of some runs unequal in kind, so that none of them is the best."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from flash_pl.compare.columns import Column, monitored_metrics
from flash_pl.compare.groups import Group
from flash_pl.compare.runs import Run
from flash_pl.compare.settings import short_key
from flash_pl.compare.shipped_name import TOP_LEVEL, settings_of
from flash_pl.yaml12 import as_short_line

ACCURACY_NAME = re.compile(r"(.*[_/ ])?acc(uracy)?(_.*)?")
OF_DATA = {"clients", "alpha"}  # keys of the top level that change the data of clients
OF_TRAINING = {"augment", "num_workers"}  # init args of data sets that change neither their division nor the test set


@dataclass(frozen=True)
class Inequality:
    """A difference between runs on the same data set.

    Args:
        data: the name of the data set.
        reason: what differs, such as ``rounds differ (3, 6)``.
        kind: ``rounds`` concern what depends on the length of a run, ``data`` everything, and an ``evaluation``
            everything but costs.
    """

    data: str
    reason: str
    kind: Literal["rounds", "data", "evaluation"]

    def concerns(self, column: Column) -> bool:
        """Whether the numbers of a column are unequal in kind."""
        if self.kind == "rounds":
            return column.of_whole_run
        return self.kind == "data" or column.table != "cost"


def inequalities(groups: Sequence[Group], last: int) -> list[Inequality]:
    """Return what makes the runs on the same data set unequal: rounds, data, evaluated rounds, percent and shares."""
    found: list[Inequality] = []
    for data in dict.fromkeys(group.data for group in groups):
        runs = [run for group in groups if group.data == data for run in group.runs]
        found += _of_runs(data, runs, last)
    return found


def _of_runs(data: str, runs: Sequence[Run], last: int) -> Iterator[Inequality]:
    rounds = sorted({int(run.metrics["round"][-1]) for run in runs if "round" in run.metrics})
    if len(rounds) > 1:
        yield Inequality(data, f"rounds differ ({_listed(rounds)})", "rounds")
    of_data = [_data_settings(run) for run in runs]
    for key in dict.fromkeys(key for settings in of_data for key in settings):
        values = list(dict.fromkeys(as_short_line(settings.get(key)) for settings in of_data))
        if len(values) > 1:
            yield Inequality(data, f"{short_key(key)} differs ({_listed(values)})", "data")
    spans = {run: span for run in runs if (span := run.rounds_of_last(run.monitor, last))}
    common = min(map(len, spans.values()), default=0) if len(rounds) > 1 else last
    examples = {
        tuple(span[-common:]): f"{len(span)} of the last {1 - min(span)} in {run.path}" for run, span in spans.items()
    }
    if len(examples) > 1:
        reason = "accuracies are means over different rounds, because trainer.eval_every or eval_last differ"
        yield Inequality(data, f"{reason} ({'; '.join(examples.values())})", "evaluation")
    for metric in monitored_metrics(runs):
        largest = {run: _largest(run) for run in runs if run.monitor == metric}
        shares, others = ([run for run, value in largest.items() if (value <= 1) == low] for low in (True, False))
        if ACCURACY_NAME.fullmatch(metric) and shares and others:
            reason = f"{metric} is at most 1 in {shares[0].path} and above 1 in {others[0].path}"
            yield Inequality(data, reason, "evaluation")


def _data_settings(run: Run) -> dict[str, object]:
    """The settings that change the division of the data or the test set; a seed does so for every method alike."""
    skipped = (TOP_LEVEL - OF_DATA) | OF_TRAINING
    settings = settings_of(run.config)
    own = {key: settings[key] for key in OF_DATA if settings.get(key) is not None}
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        if key.startswith("data.init_args.") and value is not None and own.get(name) != value:
            if not skipped.intersection(key.split(".")):
                own[key] = value
    return own


def _largest(run: Run) -> float:
    return max((value for value in run.values(run.monitor).tolist() if math.isfinite(value)), default=0.0)


def _listed(values: Sequence[object]) -> str:
    texts = [str(value)[:40] for value in values]
    return ", ".join(texts if len(texts) <= 5 else [*texts[:4], f"and {len(texts) - 4} others"])
