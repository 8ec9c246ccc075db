"""``flash-pl fit CONFIG --print-config`` and ``--dry-run``: what a run would be. Nothing is written."""

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flash_pl.callbacks import Checkpoint
from flash_pl.callbacks.run_summary import summary
from flash_pl.client import layer_labels
from flash_pl.commands.fit import composed
from flash_pl.commands.screen import PLACES, plain_table
from flash_pl.config import RunDir, build_trainer, by_config_key, prepare
from flash_pl.data import torn_down
from flash_pl.lines import aligned
from flash_pl.loops import Estimate, FederatedLoop, rehearse
from flash_pl.machine import peak_memory_mb
from flash_pl.units import counted, duration, flops, percent, rough, size

SHORT_STAGE = "a rehearsal of stage 1 with one client and few steps made it, and the run will make another one"


def print_config(options: argparse.Namespace) -> None:
    """Print the config.yaml that the run would write."""
    config, repeat, _, _ = composed(options)  # refuses what the run would refuse
    build_trainer(_without_output(config))
    print(RunDir(config, repeat).text(), end="")


def dry_run(options: argparse.Namespace) -> None:
    """Show what would be trained, and estimate what it costs, from a few steps."""
    config, _, data, module = composed(options)
    directory = RunDir(config)
    trainer = build_trainer(_without_output(config))
    ranks = trainer.launch()
    with ranks.sharing_errors(), torn_down(data):
        prepare(data, ranks)
        with by_config_key():
            loop = trainer.loop(module, data)
        facts = summary(loop) | {"directory": f"{directory.path} (a dry run writes nothing)"}
        with trainer.running(loop):
            estimate = rehearse(loop)
        if ranks.rank == 0:
            console = Console()
            print("\n".join(aligned(facts, console.width - 1 if console.is_terminal else None)))
            console.print(_layers(loop, estimate), crop=False)
            disk = Checkpoint(directory.checkpoints).bytes_needed(loop)
            console.print(plain_table(_costs(loop, estimate, disk), "estimates"), crop=False)


def _without_output(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run that shows and writes nothing; callbacks of the user might write."""
    quiet = {"progress": False, "enable_model_summary": False}
    return {**config, "callbacks": [], "logger": [], "trainer": config["trainer"] | quiet}


def _layers(loop: FederatedLoop, estimate: Estimate) -> Group:
    """The maskable layers: sizes, densities, factors of the initial weights, shares of the dense forward FLOPs."""
    layout, flops = loop.server.layout, loop.ledger.flops
    sizes, densities = layout.sizes.tolist(), estimate.densities.tolist()
    names = [*layer_labels(layout), "together"]
    active = [size * density for size, density in zip(sizes, densities, strict=True)]
    active, sizes = [*map(round, active), round(sum(active))], [*sizes, layout.maskable]
    densities = [*densities, active[-1] / layout.maskable]
    scales = [f"{scale:.2f}" if scale else "" for scale in estimate.scales.tolist()]
    columns = [[f"{size:,}" for size in sizes], [f"{d:.4f}" for d in densities], [f"{count:,}" for count in active]]
    columns.append([*scales, ""])
    titles = ["weights", "density", "active", "scaled by"]
    dense = sum(flops.layers) if flops else 0.0
    if flops and dense:
        shares = [count * d / dense for count, d in zip(flops.layers, densities, strict=False)]
        columns.append([f"{share:.4f}" for share in [*shares, sum(shares)]])
        titles.append("of the FLOPs")
    table = Table(box=None, pad_edge=False)
    table.add_column("  layer")
    for title in titles:
        table.add_column(title, justify="right")
    for row in zip(names, *columns, strict=True):
        table.add_row(Text(f"  {row[0]}"), *row[1:])
    title = "layers under the first mask" + ("" if estimate.exact else f"; {SHORT_STAGE}")
    return Group(Text(), Text(title), Text(), table, Text())


def _costs(loop: FederatedLoop, estimate: Estimate, disk: int) -> dict[str, str]:
    """Bytes, FLOPs, memory and time, each with its name."""
    clients, plan = counted(loop.plan.cohort, "client"), loop.plan
    rows = {"sent in a round": f"{size(estimate.bytes_up)} up, {size(estimate.bytes_down)} down, {clients} together"}
    if estimate.flops is not None:
        share = percent(estimate.flops_ratio)
        rows["training of a round"] = f"{flops(estimate.flops)}, {share} of dense training"
    memory = peak_memory_mb(loop.fabric.device)
    peaks = [f"{size(1e6 * amount)} {PLACES[place]}" for place, amount in memory.items()]
    rows["memory"] = f"{', '.join(peaks) or 'unknown'} at the peak so far"
    rows["disk"] = f"up to {size(disk)} for checkpoints"
    parts = [f"{counted(plan.rounds, 'round')} of {duration(estimate.round)}"]
    parts += [f"evaluations of {duration(estimate.evaluation)}"]
    parts += [f"stage 1 of {duration(estimate.first_stage)}"] if not estimate.exact else []
    rows["time"] = f"about {rough(estimate.total)}: {', '.join(parts)}"
    measured = f"{counted(estimate.steps, 'step')} of {duration(estimate.step)} each"
    rows["measured"] = f"{measured}; the times above are estimates from them, without checkpoints and other work"
    return rows
