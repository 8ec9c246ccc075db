"""The numbers of finished runs as a pandas DataFrame."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_pl.compare.comparison import Comparison
from flash_pl.compare.runs import read_runs
from flash_pl.errors import ConfigError, as_yaml

if TYPE_CHECKING:
    from pandas import DataFrame


def to_frame(paths: str | Path | Iterable[str | Path], last: int = 5, target: float | None = None) -> "DataFrame":
    """Return a DataFrame with one row for each finished run in ``paths`` and in all folders below them.

    Its columns are ``experiment`` (the name that ``flash-pl compare`` shows), ``config``, ``data``, ``model``,
    ``scheduler``, ``density``, ``seed``, ``rounds`` and ``path``; then the settings that differ, by their keys; then
    the numbers that ``table.csv`` has, in base units (bytes, FLOPs, seconds, shares). A number that a run does not
    have is NaN; a metric that diverged is inf. A run that is left out, or unequal to others, is a Python warning.

    Args:
        paths: run directories, or folders with runs.
        last: accuracies are means over this number of the last evaluated rounds.
        target: value of the monitored metric; the columns ``rounds_to_target``, ``bytes_up_to_target`` and
            ``bytes_to_target`` are for the first round that reaches it.

    Raises:
        ConfigError: no run is finished, or pandas is not installed.

    ::

        from flash_pl.compare import to_frame

        frame = to_frame("sweeps/jmwst", target=0.8)
        frame.groupby("experiment")[["val_acc", "bytes_to_target"]].mean()
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigError("pandas", "it is not installed", 'pip install "flash-pl[pandas]"') from error
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    runs, errors = read_runs(paths)
    if not runs:
        places = ", ".join(as_yaml(str(path)) for path in paths)
        raise errors[0] if len(errors) == 1 else ConfigError("run", f"there is no finished run in {places}")
    comparison, messages = Comparison.of(runs, last, target=target)
    messages = [*(f"left out: {error}" for error in errors), *messages, comparison.about_unequal]
    for message in filter(None, messages):
        warnings.warn(message, stacklevel=2)
    return pandas.DataFrame(_rows(comparison))


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    settings = dict.fromkeys(key for group in comparison.groups for key in group.settings)
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            row: dict[str, Any] = {"experiment": group.label, "config": group.config, **run.names}
            row |= {"density": run.density, "seed": run.seed, "rounds": int(run.metrics["round"][-1])}
            row |= {"path": str(run.path)}
            row |= {key: group.settings.get(key) for key in settings if key not in row}
            numbers = {column.key: column.value(run) for column in comparison.columns}
            rows.append(row | {key: float("nan") if value is None else value for key, value in numbers.items()})
    return rows
