"""The arguments of every command. Nothing here imports torch, so that help and the errors of typing take no time."""

import argparse
from pathlib import Path
from typing import Any

from flash_pl.commands.help import fit_help
from flash_pl.commands.parser import add_config, add_instead, add_overrides, add_trust, command, folder, integer, number
from flash_pl.config.composition import check_change, compose
from flash_pl.config.given import check_given
from flash_pl.config.keys import check_key
from flash_pl.config.shipped import read_config
from flash_pl.errors import ConfigError

ABOUT_SWEEP = """
Each combination of the values is trained in its own process and its own folder. A finished run is not trained again,
and an unfinished run is resumed: the same command can be stopped and repeated.
Commas inside brackets and quotes do not separate values.

examples:
  flash-pl sweep jmwst scheduler=jmwst,spdst,nst seed=1,2,3 rounds=60
  flash-pl sweep jmwst density=0.02,0.05,0.1 scheduler.prune_rate=0.2,0.3 --workers 2
"""
ABOUT_EXPORT = """
examples:
  flash-pl export RUN --to model.safetensors            a state dict
  flash-pl export RUN --to model.safetensors --sparse   positions and values of active weights
  flash-pl export RUN --to model.flash --values fp16    the shortest file
  flash-pl export RUN --to model.onnx                   needs pip install "flash-pl[onnx]"
  flash-pl export RUN --to small.onnx --density 0.05    the model for a tier of devices
"""
ABOUT_COMPLETION = """
put it into the shell's start file:
  source <(flash-pl completion bash)       ~/.bashrc
  source <(flash-pl completion zsh)        ~/.zshrc
  flash-pl completion fish | source        ~/.config/fish/config.fish
"""


def add_commands(commands: Any) -> None:
    """Declare all commands, in the order of ``flash-pl --help``."""
    _add_fit(commands)
    _add_validate(commands)
    _add_sweep(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_inspect(commands)
    _add_configs(commands)
    _add_help(commands)
    _add_completion(commands)


def _add_fit(commands: Any) -> None:
    parser = command(
        commands,
        "fit",
        "flash_pl.commands.fit.fit",
        "Train, and write a run directory",
        check=_check_fit,
        writes_files=True,
        epilog=fit_help(),
    )
    add_config(parser)
    add_overrides(parser)
    instead = parser.add_mutually_exclusive_group()
    add_instead(
        instead,
        "--print-config",
        "flash_pl.commands.preview.print_config",
        "print the composed config, as the run would write it to config.yaml, and end",
    )
    add_instead(
        instead,
        "--dry-run",
        "flash_pl.commands.preview.dry_run",
        "write nothing: show layers and densities, and estimate bytes, FLOPs and time from a few steps",
    )


def _check_fit(options: argparse.Namespace) -> None:
    compose(read_config(options.config), options.arguments)


def _add_validate(commands: Any) -> None:
    parser = command(
        commands,
        "validate",
        "flash_pl.commands.fit.validate",
        "Evaluate a checkpoint",
        check=_check_validate,
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="a run directory (its checkpoints/last.ckpt) or a checkpoint"
    )
    add_trust(parser)
    add_overrides(parser)


def _check_validate(options: argparse.Namespace) -> None:
    """Check the arguments, and with the config.yaml of the run what they change in its components.

    The checkpoint has the run's config too, but torch must read it. What somebody has written into config.yaml since
    does not count here.
    """
    check_given({}, options.arguments)
    path = Path(options.checkpoint)
    try:
        config = read_config(str((path if path.is_dir() else path.parent.parent) / "config.yaml"))
        check_change(config, [])
    except ConfigError:
        return
    check_change(config, options.arguments)


def _add_sweep(commands: Any) -> None:
    parser = command(
        commands,
        "sweep",
        "flash_pl.commands.sweep.sweep",
        "Train every combination of values and compare the runs",
        check=_plan_sweep,
        writes_files=True,
        epilog=ABOUT_SWEEP,
    )
    add_config(parser)
    add_overrides(parser, metavar="KEY=VALUES", nargs="+", help="overrides; a,b,c for several values")
    parser.add_argument("--out", metavar="FOLDER", type=folder, help="folder of the runs [sweeps/CONFIG]")
    parser.add_argument("--workers", metavar="N", type=integer, default=1, help="runs that train at the same time [1]")
    _add_target(parser)


def _plan_sweep(options: argparse.Namespace) -> None:
    """Work out the runs, ``options.jobs`` in ``options.folder``: nobody waits for torch to learn that one is wrong."""
    from flash_pl.sweep.jobs import Choice, make_jobs

    content = read_config(options.config)
    options.folder = Path(options.out or f"sweeps/{Path(options.config).stem}")
    check_given(content)
    choices = [Choice.read(argument) for argument in options.arguments]
    for choice in choices:
        check_key(choice.key)
    options.jobs = make_jobs(options.config, content, choices, options.folder)
    monitors = {job.config["trainer"]["monitor"] for job in options.jobs}
    own = any(not job.config["model"]["class_path"].startswith("flash_pl.") for job in options.jobs)
    if options.target is not None and options.target > 1 and monitors == {"val_acc"} and not own:
        raise ConfigError("--target", f"{options.target:g} is above 1, and val_acc is a share", "write 0.8 for 80 %")


def _add_compare(commands: Any) -> None:
    parser = command(commands, "compare", "flash_pl.commands.compare.compare", "Compare finished runs")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder with runs at any depth")
    parser.add_argument("--out", metavar="FOLDER", type=folder, help="also write tables, figures and report.html there")
    parser.add_argument(
        "--last", metavar="K", type=integer, default=5, help="accuracy is the mean over the last K evaluated rounds [5]"
    )
    _add_target(parser)


def _add_target(parser: argparse.ArgumentParser) -> None:
    about = "also show the rounds, and the bytes sent in them, until trainer.monitor first reaches this value (for a "
    about += "loss: falls to it), such as 0.8; as measured after a round, without smoothing or interpolation"
    parser.add_argument("--target", metavar="VALUE", type=number, help=about)


def _add_export(commands: Any) -> None:
    parser = command(
        commands,
        "export",
        "flash_pl.commands.export.export",
        "Write the model of a checkpoint for other programs",
        writes_files=True,
        epilog=ABOUT_EXPORT,
    )
    about = "a run directory, whose last checkpoint is taken, or a checkpoint of it"
    parser.add_argument("checkpoint", metavar="CKPT", help=about)
    parser.add_argument(
        "--to", metavar="FILE", type=Path, required=True, help="with suffix .safetensors, .flash or .onnx"
    )
    parser.add_argument("--density", metavar="D", type=number, help="density of a tier of devices [the server's]")
    parser.add_argument("--sparse", action="store_true", help=".safetensors: only the active weights of masked tensors")
    parser.add_argument("--values", metavar="TYPE", help=".flash: type of active weights: fp32, fp16 or bf16 [fp32]")
    parser.add_argument("--compress", action="store_true", help=".flash: also try a compressed bitmap for the mask")
    add_trust(parser)


def _add_inspect(commands: Any) -> None:
    about = "Show the contents of a file with a model: densities, and bytes of each tensor"
    parser = command(commands, "inspect", "flash_pl.commands.export.inspect", about)
    parser.add_argument("file", metavar="FILE", type=Path, help="a .flash, .safetensors, .onnx or .ckpt file, or a run")


def _add_configs(commands: Any) -> None:
    about = "List the shipped configs and the names that keys can have, or show one of them"
    parser = command(commands, "configs", "flash_pl.commands.configs.configs", about)
    what = "a config (jmwst) or a fragment (scheduler/jmwst), whose file is shown; a section (schedulers), whose names "
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"{what}are listed with their options and defaults")


def _add_help(commands: Any) -> None:
    about = "Explain keys of the config, or commands"
    parser = command(commands, "help", "flash_pl.commands.help.help", about)
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="such as density or scheduler.prune_rate; or a command"
    )
    parser.set_defaults(parsers=commands.choices)


def _add_completion(commands: Any) -> None:
    about = "Print a script that completes commands, keys and values in a shell"
    parser = command(commands, "completion", "flash_pl.commands.completion.completion", about, epilog=ABOUT_COMPLETION)
    parser.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"], help="bash, zsh or fish")
    about = "Print the words that can stand at the end of a command line"
    parser = command(commands, "_complete", "flash_pl.commands.completion.complete", about)
    parser.add_argument("line", metavar="LINE", help="what is typed, from flash-pl to the cursor")
    parser.set_defaults(parsers=commands.choices)
