"""The command ``flash-pl configs``, and the help text of ``flash-pl fit``."""

import argparse
import json
import textwrap
from typing import Any

from flash_pl.config import shipped
from flash_pl.config.docstrings import first_sentence
from flash_pl.config.keys import KEYS, SECTIONS

ABOUT = """
Inside data, model, scheduler, budget, aggregator, sampler and other components a key stands for an argument of the
class: scheduler.prune_rate is short for scheduler.init_args.prune_rate. A name stands for a shipped file, see flash-pl
configs. A data set has defaults, such as its model; your own values win.

examples:
  flash-pl fit jmwst                                       digits, a minute on a CPU
  flash-pl fit jmwst data=fashion_mnist density=0.1        another data set
  flash-pl fit spdst data=cifar10 data.root=FOLDER rounds=600
  flash-pl fit jmwst scheduler.prune_rate=0.3 data.partition=iid
  flash-pl fit jmwst data=cifar10 model=torchvision.models.resnet18
  flash-pl fit jmwst scheduler.voter=my_file.MyVote
  flash-pl fit jmwst "callbacks=[my_file.MyCallback]"
  flash-pl fit hetero_jmwst "budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"
  flash-pl fit RUN/config.yaml                             repeat a run
  flash-pl fit jmwst rounds=200 ckpt_path=last             resume the newest run of this name
  flash-pl fit jmwst trainer.devices=4 trainer.accelerator=gpu             on four GPUs, with the same result
"""
COLUMN, WIDTH = 33, 120  # where the help of a key begins, and where its lines end


def configs(options: argparse.Namespace) -> None:
    """List the shipped configs and the names that keys can have."""
    print(list_shipped())


def list_shipped() -> str:
    """Configs, data sets, models and all other fragments, one line each."""
    lines = ["configs (flash-pl fit NAME)"]
    lines += [f"  {name:<22}{shipped.description(name)}" for name in shipped.names()]
    others = [folder for folder in shipped.folders() if folder not in ("data", "model")]
    for folder in ["data", "model", *others]:
        lines += ["", folder]
        lines += [f"  {name:<22}{shipped.description(name, folder)}" for name in shipped.names(folder)]
    return "\n".join(lines)


def fit_help() -> str:
    """Every key with the first sentence of its help and its default, and examples."""
    return "\n".join(["keys, meaning [default]:", *map(_key_help, KEYS), ABOUT])


def _key_help(name: str) -> str:
    default = "" if name in SECTIONS else f" [{_as_text(KEYS[name].default)}]"
    text = first_sentence(KEYS[name].help) + default
    return textwrap.fill(
        text, WIDTH, initial_indent=f"  {name:<{COLUMN}}", subsequent_indent=" " * (COLUMN + 2), break_on_hyphens=False
    )


def _as_text(default: Any) -> str:
    """A default value as a user writes it."""
    return default if isinstance(default, str) else json.dumps(default)
