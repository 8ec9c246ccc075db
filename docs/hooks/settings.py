"""Pages that mkdocs builds from the code: the commands with their options, all settings, and the changelog."""

import argparse
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from flash_pl.cli import _parser
from flash_pl.commands.help import ABOUT
from flash_pl.config import shipped
from flash_pl.config.docstrings import parameter_help
from flash_pl.config.explained import as_text
from flash_pl.config.init_args import init_args
from flash_pl.config.keys import KEYS, SECTIONS, keys_of
from flash_pl.config.signature import locate, signature

ROOT = Path(__file__).parents[2]
# Kinds of components in the order in which the config has them; the others are parts of these.
MAIN = [
    "scheduler",
    "data",
    "model",
    "partition",
    "budget",
    "aggregator",
    "server_optimizer",
    "round_average",
    "sampler",
]
MAIN += ["fleet", "logger", "compat"]
ABOUT_COMMANDS = """\
# The command line

This page is generated from the parser of `flash-pl`. `flash-pl COMMAND --help` prints the same in a terminal, and
`flash-pl --version` prints the version.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | the result could not be printed |
| 2 | a setting or the data must be corrected; no run has started |
| 3 | a run that had started could not go on |
| 128 + n | signal n stopped a run, which saved its state |
"""
ABOUT_KEYS = """\
# Settings

This page is generated from the code and from the files in `conf/`. A key is set on the command line, as in
`flash-pl fit jmwst density=0.1 trainer.eval_every=5`, or in a YAML file. A component, such as `scheduler`, is the name
of a shipped file or the path of your own class. A dot leads to its arguments: `scheduler=jmwst
scheduler.prune_rate=0.3`. A data set may bring other defaults, such as its model.

## Shipped configurations

`flash-pl fit NAME`:
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def commands() -> str:
    """Every command with its arguments and options."""
    (subcommands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    page = [ABOUT_COMMANDS]
    for name, parser in subcommands.choices.items():
        if name.startswith("_"):  # what the completion of a shell calls
            continue
        page += ["", f"## flash-pl {name}", "", parser.description or "", "", "```", _usage(parser), "```", ""]
        page += _table("argument", "meaning", [_argument(action) for action in parser._actions])
        if name == "fit":
            page += ["", "The keys are on the page [Settings](keys.md)."]
        examples = (ABOUT if name == "fit" else parser.epilog or "").partition("examples:\n")[2]
        page += (
            ["", "```", *(line.removeprefix("  ") for line in examples.rstrip().splitlines()), "```"]
            if examples
            else []
        )
    return "\n".join(page) + "\n"


def _usage(parser: argparse.ArgumentParser) -> str:
    return re.sub(r"\s+", " ", parser.format_usage()).strip().removeprefix("usage: ")


def _argument(action: argparse.Action) -> list[str]:
    value = f" {action.metavar}" if action.metavar and action.option_strings else ""
    names = ", ".join(f"{option}{value}" for option in action.option_strings) or str(action.metavar)
    return [f"`{names}`", action.help or ""]


def keys() -> str:
    """Every key with its default and meaning; every shipped fragment with the arguments of its class."""
    page = [ABOUT_KEYS]
    page += _table("name", "meaning", [[f"`{name}`", shipped.description(name)] for name in shipped.names()])
    page += ["", "## Keys of an experiment", ""]
    page += _keys([name for name in keys_of("") if name not in SECTIONS])
    for section in SECTIONS:
        page += ["", f"## Keys under `{section}`", "", KEYS[section].help.capitalize(), ""]
        page += _keys([f"{section}.{name}" for name in keys_of(section)])
    parts = [folder for folder in shipped.folders() if folder not in MAIN]
    for folder in [*MAIN, *parts]:
        page += ["", f"## {folder}", ""]
        names = shipped.names(folder)
        page += _table("name", "meaning", [[f"`{name}`", shipped.description(name, folder)] for name in names])
        for name in names:
            page += _fragment(folder, name)
    return "\n".join(page) + "\n"


def _keys(names: list[str]) -> list[str]:
    rows = [[f"`{name}`", f"`{as_text(_plain(KEYS[name].default))}`", KEYS[name].help] for name in names]
    return _table("key", "default", "meaning", rows)


def _fragment(folder: str, name: str) -> list[str]:
    """The arguments of a fragment's class: those of the file, then the others that the class has."""
    content = shipped.read_yaml(shipped.SHIPPED / folder / f"{name}.yaml")
    if "class_path" not in content:
        return []
    target = locate(folder, content["class_path"])
    given = content.get("init_args", {})
    own = {key: argument.help for key, argument in init_args(content["class_path"]).items()}  # knows "as in ``Other``"
    texts = parameter_help(target) | own
    others = {key: value for key, value in content.items() if key not in ("class_path", "init_args", "defaults")}
    defaults = {key: value.default for key, value in signature(target).parameters.items() if key in texts}
    rows = []
    for key, value in {**defaults, **given, **others}.items():
        text = texts.get(key) or (KEYS[key].help if key in KEYS else "")
        rows.append([f"`{key}`", f"`{as_text(_plain(value))}`", text])
    if not rows:
        return []
    brings = content.get("defaults") or {}
    note = ", ".join(f"`{key}={as_text(value)}`" for key, value in brings.items() if not isinstance(value, dict))
    head = ["", f"### {folder}={name} {{: #{folder}-{name} }}", "", f"Class `{content['class_path']}`."]
    head += [f"Defaults that it brings: {note}."] if note else []
    return [*head, "", *_table("argument", "default", "meaning", rows)]


def _plain(value: Any) -> Any:
    """A default as YAML has it: an object stands for itself by its class."""
    if isinstance(value, tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, list | dict | str | int | float | bool) or value is None:
        return value
    return type(value).__name__


def _table(*columns: Any) -> list[str]:
    """A table; the last argument is the list of rows."""
    *titles, rows = columns
    cells = [[cell.replace("|", "\\|").replace("``", "`").replace("\n", " ") for cell in row] for row in rows]
    lines = [titles, ["---"] * len(titles), *cells]
    return ["| " + " | ".join(line) + " |" for line in lines]


def changelog() -> str:
    """CHANGELOG.md with links that hold on the site; a link to a file that the site does not have becomes its text."""

    def link(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')})"
        return match[0] if "://" in target else text

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


PAGES = {"reference/commands.md": commands, "reference/keys.md": keys, "changelog.md": changelog}
