"""``flash-pl validate CKPT KEY=VALUE ...``"""

import argparse
from typing import Any

from rich.console import Console

from flash_pl.checkpoint import read_checkpoint
from flash_pl.commands.command import add_overrides, command
from flash_pl.commands.screen import metrics_table
from flash_pl.config import build_data, build_module, build_trainer, by_config_key, compose, prepare, saved_config


def add(commands: Any) -> None:
    parser = command(commands, run)
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's checkpoints/last.ckpt")
    add_overrides(parser)


def run(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    state = read_checkpoint(options.checkpoint)
    config = compose(saved_config(state, options.checkpoint), options.arguments)
    data = build_data(config)
    module = build_module(config, data)
    trainer = build_trainer(config)
    ranks = trainer.launch()
    with ranks.sharing_errors():
        prepare(data, ranks)
        with by_config_key():
            metrics = trainer.validate(module, data, options.checkpoint)
    if ranks.rank == 0:
        Console().print(metrics_table(metrics, options.checkpoint), crop=False)
