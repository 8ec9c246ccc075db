"""``flash-pl configs``"""

import argparse
from typing import Any

from flash_pl.commands.command import command
from flash_pl.commands.screen import list_shipped


def add(commands: Any) -> None:
    command(commands, run)


def run(options: argparse.Namespace) -> None:
    """List what is shipped."""
    print(list_shipped())
