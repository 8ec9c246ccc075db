"""Tables that the commands print on the terminal."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flash_pl.callbacks.progress import duration
from flash_pl.compare import title_of
from flash_pl.compare.columns import PERCENT, scale_of_metric
from flash_pl.config.run_dir import as_argument

CLIENTS = {"accuracy_clients": " of clients", "accuracy_finetuned": " of clients after fine-tuning"}


def metrics_table(metrics: Mapping[str, float], title: object) -> Group:
    """A table with a line per metric."""
    return _table({name: f"{value:.4f}" for name, value in metrics.items()}, str(title))


def result_table(result: Mapping[str, Any], run: Path, monitor: str, highest: bool, own_code: bool = False) -> Group:
    """The main numbers of a finished run, and the commands that show, export and continue it.

    Args:
        result: the content of result.json.
        run: the run's directory.
        monitor: the metric that ``result`` calls accuracy.
        highest: whether a high value of that metric is good.
        own_code: the config names classes of the user, which other commands use only with ``--trust``.
    """
    mismatch, title, target = result["mismatch"], title_of(monitor), result["target_density"]
    write = _percent if scale_of_metric([result["accuracy"]], highest) is PERCENT else _plain
    rows = {
        title: write(result["accuracy"]),
        f"{title} of the union": write(result["accuracy_union"]),
        **{f"{title} at d = {tier['density']:g}": write(tier["accuracy"]) for tier in result.get("tiers", ())},
        **{title + ending: _spread(result[key], write) for key, ending in CLIENTS.items() if key in result},
        "density": f"{result['density']:.4f} ({'no target' if target is None else f'target {target:g}'})",
        "mask mismatch": "  ".join(
            f"{kind} {_percent(value)}" for kind, value in mismatch.items() if value is not None
        ),
        "sent": "  ".join(f"{way} {result['cost'][f'bytes_{way}'] / 1e6:.2f} MB" for way in ("up", "down")),
        **({"simulated time": duration(seconds)} if (seconds := result["cost"].get("fleet_seconds")) else {}),
        **({"late": _late(**result["reports"])} if "reports" in result else {}),
        **({"stopped": result["stopped"]} if "stopped" in result else {}),
        "time": f"{result['seconds']:.1f} s, {result['seconds_per_round'] or 0:.2f} s a round",
    }
    runs, checkpoint, config = (
        shlex.quote(str(path)) for path in (run.parent, run / "checkpoints" / "last.ckpt", run / "config.yaml")
    )
    database = shlex.quote(f"sqlite:///{run / 'mlflow.db'}")
    run_dir = shlex.quote(f"run_dir={as_argument(run)}")
    lines = [
        f"run         {run}",
        *([f"curves      tensorboard --logdir {runs}"] if any(run.glob("events.out.tfevents.*")) else []),
        *([f"curves      mlflow ui --backend-store-uri {database}"] if (run / "mlflow.db").exists() else []),
        f"report      flash-pl compare {runs} --out report",
        f"validate    flash-pl validate {checkpoint}{' --trust' if own_code else ''}",
        f"export      flash-pl export {checkpoint} --to model.safetensors",
        f"go on       flash-pl fit {config} {run_dir} ckpt_path=last rounds={2 * result['rounds']}",
    ]
    heading = f"{result['scheduler']} on {result['data']}, {result['rounds']} rounds"
    return Group(_table(rows, heading), *map(_line, lines))


def _table(rows: Mapping[str, str], title: str) -> Group:
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))  # Text shows brackets, which a string would take for markup
    return Group(_line(title), table)


def _line(text: str) -> Text:
    """A line that is not broken in a narrow terminal, so that paths and commands can be copied."""
    return Text(text, overflow="ignore", no_wrap=True)


def _spread(accuracy: Mapping[str, float | None], write: Callable[[float | None], str]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {write(value)}" for name, value in accuracy.items())


def _late(in_time: int, late: int) -> str:
    """
    >>> _late(in_time=563, late=37), _late(in_time=0, late=600)
    ('37 of 600 reports', '600 of 600 reports: no report was used, see fleet.deadline')
    """
    warning = ": no report was used, see fleet.deadline" if late and not in_time else ""
    return f"{late} of {in_time + late} reports{warning}"


def _percent(value: float | None) -> str:
    return "not logged" if value is None else f"{value:.2%}"


def _plain(value: float | None) -> str:
    return "not logged" if value is None else f"{value:.4f}"
