"""Tables that the commands print on the terminal."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group
from rich.padding import Padding
from rich.text import Text

from flash_pl.commands.export import SPARSE
from flash_pl.compare import title_of
from flash_pl.compare.columns import PERCENT, scale_of_metric
from flash_pl.config.shipped import as_argument
from flash_pl.lines import aligned, command
from flash_pl.units import counted, duration, metric, percent, size

CLIENTS = {"accuracy_clients": " of clients", "accuracy_finetuned": " of clients after fine-tuning"}
BETWEEN = {"clients": "two clients", "server": "client and server", "temporal": "old and new server mask"}
INDENT = 2  # of a table below its title
STEP = 12  # where the commands begin that show, export and continue a run
PLACES = {"host": "of this process", "device": "on its GPU"}

Write = Callable[[float | None], str]


def metrics_table(metrics: Mapping[str, float], title: object, shares: str = "") -> Group:
    """A table with a line per metric.

    Args:
        metrics: values by name.
        title: the line above.
        shares: a metric to be written in percent, also of the union and of tiers.
    """
    rows = {
        name: metric(value, shares != "" and f"{name}_".startswith(f"{shares}_")) for name, value in metrics.items()
    }
    return plain_table(rows, str(title))


def result_table(
    result: Mapping[str, Any],
    run: Path,
    monitor: str,
    highest: bool,
    to_go_on: Sequence[str],
    own_code: bool = False,
) -> Group:
    """The main numbers of a finished run, what they mean, and the commands that show, export and continue it.

    Args:
        result: the content of result.json.
        run: the run's directory.
        monitor: the metric that ``result`` calls accuracy.
        highest: whether a high value of that metric is good.
        to_go_on: arguments with which the run trains more rounds.
        own_code: the config names classes of the user, which other commands use only with ``--trust``.
    """
    best, title, target, sparse = result["best"], title_of(monitor), result["target_density"], result["density"] < 1
    values = [result["accuracy"], *([best["value"]] if best else [])]
    is_share = scale_of_metric(values, highest) is PERCENT

    def write(value: float | None) -> str:
        return metric(value, is_share)

    rows, meanings = {}, []
    if best:
        rows[f"best {title}"] = f"{write(best['value'])} in round {best['round']}"
    rows[f"last {title}"] = write(result["accuracy"])
    if sparse and result["accuracy_union"] is not None:
        rows[f"{title} of the union"] = write(result["accuracy_union"])
        meanings.append("union: the server's model after a round, before it is masked")
    rows |= {f"{title} at d = {tier['density']:g}": write(tier["accuracy"]) for tier in result.get("tiers", ())}
    rows |= {title + ending: _spread(result[key], write) for key, ending in CLIENTS.items() if key in result}
    if sparse or target is not None:
        aim = f" (target {target:g})" if target is not None else ""
        if result["density_of"] == "flops":
            rows["density"] = f"{result['density_flops']:.4f} of the FLOPs{aim}, {result['density']:.4f} of the weights"
            meanings.append("FLOPs: forward multiply-adds of the maskable layers, against those of the dense model")
        else:
            rows["density"] = f"{result['density']:.4f}{aim}"
    mismatch = {kind: value for kind, value in result["mismatch"].items() if value is not None}
    if sparse and mismatch:
        rows["mask mismatch"] = "\n".join(f"{percent(value)} {BETWEEN[kind]}" for kind, value in mismatch.items())
        meanings.append("mask mismatch: of the weights in either of two masks, the share that is not in both")
    rows["sent"] = ", ".join(f"{size(result['cost'][f'bytes_{way}'])} {way}" for way in ("up", "down"))
    if seconds := result["cost"].get("fleet_seconds"):
        rows["simulated time"] = duration(seconds)
    if "reports" in result:
        rows["late"] = _late(**result["reports"])
    if "stopped" in result:
        rows["stopped"] = result["stopped"]
    rows["time"] = f"{duration(result['seconds'])}, {duration(result['seconds_per_round'] or 0)} a round"
    if memory := result["process"]["peak_memory_mb"]:
        rows["peak memory"] = ", ".join(f"{size(1e6 * amount)} {PLACES[place]}" for place, amount in memory.items())
    heading = f"{result['scheduler']} on {result['data']}, {counted(result['rounds'], 'round')}"
    explained = [Padding(Text(text), (0, 0, 0, INDENT)) for text in meanings]
    steps = [_line(step) for step in _next_steps(result, run, to_go_on, own_code)]
    return Group(plain_table(rows, heading), *explained, *[Text()] * bool(explained), *steps)


def _next_steps(result: Mapping[str, Any], run: Path, to_go_on: Sequence[str], own_code: bool) -> list[str]:
    runs, checkpoint, config = (
        shlex.quote(str(path)) for path in (run.parent, run / "checkpoints" / "last.ckpt", run / "config.yaml")
    )
    database = shlex.quote(f"sqlite:///{run / 'mlflow.db'}")
    run_dir = shlex.quote(f"run_dir={as_argument(run)}")
    export = f"flash-pl export {checkpoint} --to"
    steps = [
        ("run", str(run)),
        *([("curves", f"tensorboard --logdir {runs}")] if any(run.glob("events.out.tfevents.*")) else []),
        *([("curves", f"mlflow ui --backend-store-uri {database}")] if (run / "mlflow.db").exists() else []),
        ("report", f"flash-pl compare {runs} --out report"),
        ("validate", f"flash-pl validate {checkpoint}{' --trust' if own_code else ''}"),
        ("export", f"{export} model.safetensors"),
        *([("or smaller", f"{export} sparse.safetensors --sparse")] if result["density"] <= SPARSE else []),
        ("go on", f"flash-pl fit {config} {run_dir} ckpt_path=last {shlex.join(to_go_on)}"),
    ]
    return [f"{name:<{STEP}}{command(text, STEP)}" for name, text in steps]


class PlainTable:
    """A table with a name and a text in each row, as wide as the terminal at most.

    Args:
        rows: texts by name; a text may have several lines.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text()
        for line in aligned(self.rows, options.max_width - INDENT, gap=3):
            yield _line(" " * INDENT + line)
        yield Text()


def plain_table(rows: Mapping[str, str], title: str) -> Group:
    """A table with a title."""
    return Group(_line(title), PlainTable(rows))


def _line(text: str) -> Text:
    """A line that is not broken in a narrow terminal, so that paths and commands can be copied."""
    return Text(text, overflow="ignore", no_wrap=True)


def _spread(accuracy: Mapping[str, float | None], write: Write) -> str:
    return "\n".join(f"{write(value)} {name.replace('_', ' ')}" for name, value in accuracy.items())


def _late(in_time: int, late: int) -> str:
    """
    >>> _late(in_time=563, late=37), _late(in_time=0, late=600)
    ('37 of 600 reports', '600 of 600 reports: no report was used, see fleet.deadline')
    """
    warning = ": no report was used, see fleet.deadline" if late and not in_time else ""
    return f"{late} of {in_time + late} reports{warning}"
