"""What the command line shows: help, listings, tables."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flash_pl.compare import title_of
from flash_pl.compare.columns import PERCENT, scale_of_metric
from flash_pl.config import shipped
from flash_pl.config.run_dir import as_argument
from flash_pl.config.schema import KEYS, Key

ABOUT = """
Inside data, model, scheduler, budget, aggregator, sampler and the like a key is short for an init arg of the class:
scheduler.prune_rate is scheduler.init_args.prune_rate. A name stands for a shipped file, see flash-pl configs.
A data set brings defaults of its own, such as a model; what is given here wins.

examples:
  flash-pl fit jmwst                                       digits, a minute on a CPU
  flash-pl fit jmwst data=fashion_mnist density=0.1        another data set
  flash-pl fit spdst data=cifar10 data.root=FOLDER rounds=600
  flash-pl fit jmwst scheduler.prune_rate=0.3 data.partition=iid
  flash-pl fit jmwst data=cifar10 model=torchvision.models.resnet18
  flash-pl fit jmwst scheduler.voter=my_file.MyVote
  flash-pl fit hetero_jmwst "budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"
  flash-pl fit RUN/config.yaml                             repeat a run
  flash-pl fit jmwst rounds=200 ckpt_path=last             go on with the newest run of this name
  flash-pl fit jmwst trainer.devices=4 trainer.accelerator=gpu             on four GPUs, with the same result
"""

CLIENTS = {"accuracy_clients": " of clients", "accuracy_finetuned": " of clients after fine-tuning"}


def fit_help() -> str:
    """Every key with its meaning and default, and examples."""
    lines = [f"  {name:<33}{key.help}{_default(key)}" for name, key in KEYS.items()]
    return "\n".join(["keys, meaning [default]:", *lines, ABOUT])


def list_shipped() -> str:
    """Configs, data sets, models and all other fragments, one line each."""
    lines = ["configs (flash-pl fit NAME)"]
    lines += [f"  {name:<22}{shipped.description(name)}" for name in shipped.names()]
    others = [folder for folder in shipped.folders() if folder not in ("data", "model")]
    for folder in ["data", "model", *others]:
        lines += ["", folder]
        lines += [f"  {name:<22}{shipped.description(name, folder)}" for name in shipped.names(folder)]
    return "\n".join(lines)


def metrics_table(metrics: Mapping[str, float], title: object) -> Group:
    """One line a metric."""
    return _table({name: f"{value:.4f}" for name, value in metrics.items()}, str(title))


def result_table(result: Mapping[str, Any], run: Path, monitor: str, highest: bool) -> Group:
    """A run's main numbers, where its files are and what to do with them.

    Args:
        monitor: the metric that ``result`` calls accuracy.
        highest: whether it should be high.
    """
    mismatch, title = result["mismatch"], title_of(monitor)
    write = _percent if scale_of_metric([result["accuracy"]], highest) is PERCENT else _plain
    rows = {
        title: write(result["accuracy"]),
        f"{title} of the union": write(result["accuracy_union"]),
        **{f"{title} at d = {tier['density']:g}": write(tier["accuracy"]) for tier in result.get("tiers", ())},
        **{title + ending: _spread(result[key], write) for key, ending in CLIENTS.items() if key in result},
        "density": f"{result['density']:.4f} (target {result['target_density']:g})",
        "mask mismatch": "  ".join(
            f"{kind} {_percent(value)}" for kind, value in mismatch.items() if value is not None
        ),
        "sent": "  ".join(f"{way} {result['cost'][f'bytes_{way}'] / 1e6:.2f} MB" for way in ("up", "down")),
        **({"simulated time": _duration(seconds)} if (seconds := result["cost"].get("fleet_seconds")) else {}),
        **({"late": _late(**result["reports"])} if "reports" in result else {}),
        "time": f"{result['seconds']:.1f} s, {result['seconds_per_round'] or 0:.2f} s a round",
    }
    beside, last, again = (
        shlex.quote(str(path)) for path in (run.parent, run / "checkpoints" / "last.ckpt", run / "config.yaml")
    )
    where = shlex.quote(f"run_dir={as_argument(run)}")
    lines = [
        f"run         {run}",
        f"curves      tensorboard --logdir {beside}",
        f"report      flash-pl compare {beside} --out report",
        f"validate    flash-pl validate {last}",
        f"export      flash-pl export {last} --to model.safetensors",
        f"go on       flash-pl fit {again} {where} ckpt_path=last rounds={2 * result['rounds']}",
    ]
    heading = f"{result['scheduler']} on {result['data']}, {result['rounds']} rounds"
    return Group(_table(rows, heading), *map(_line, lines))


def _table(rows: Mapping[str, str], title: str) -> Group:
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))  # a metric's brackets are no markup
    return Group(_line(title), table)


def _line(text: str) -> Text:
    """Whole, however narrow the terminal is: paths and commands are there to be copied."""
    return Text(text, overflow="ignore", no_wrap=True)


def _spread(accuracy: Mapping[str, float | None], write: Callable[[float | None], str]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {write(value)}" for name, value in accuracy.items())


def _duration(seconds: float) -> str:
    """
    >>> _duration(4000), _duration(12.3)
    ('1 h 7 min', '12.3 s')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{hours} h {minutes} min"


def _late(in_time: int, late: int) -> str:
    """
    >>> _late(in_time=563, late=37), _late(in_time=0, late=600)
    ('37 of 600 reports', '600 of 600 reports: no client had a say, see fleet.deadline')
    """
    unheard = ": no client had a say, see fleet.deadline" if late and not in_time else ""
    return f"{late} of {in_time + late} reports{unheard}"


def _percent(value: float | None) -> str:
    return "not logged" if value is None else f"{value:.2%}"


def _plain(value: float | None) -> str:
    return "not logged" if value is None else f"{value:.4f}"


def _default(key: Key) -> str:
    """A default as YAML has it; a section has none."""
    if is_dataclass(key.hint):
        return ""
    return f" [{key.default if isinstance(key.default, str) else json.dumps(key.default)}]"
