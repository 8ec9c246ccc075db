"""Which run directories a user means."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from flash_pl.compare.runs import Run
from flash_pl.errors import ConfigError


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[ConfigError]]:
    """The finished runs at ``paths`` or, to any depth, below them, each once; and why others are left out."""
    runs, errors, seen = [], [], set[Path]()
    for path in map(Path, paths):
        found = list(_below(path))
        if not found:
            errors.append(ConfigError("run", str(path), "a run directory or a folder with some"))
        for directory in found:
            if directory.resolve() in seen:
                continue
            seen.add(directory.resolve())
            try:
                runs.append(Run.read(directory))
            except ConfigError as error:
                errors.append(error)
    return runs, errors


def _below(path: Path) -> Iterator[Path]:
    """Run directories in alphabetical order. Links are followed: a folder of links to runs is a selection of them."""
    entered = set()
    for here, folders, files in os.walk(path, followlinks=True):
        if _is_run(folders, files):
            yield Path(here)
            folders.clear()
        real = os.path.realpath(here)
        if real in entered:  # by a link to a folder around it
            folders.clear()
        entered.add(real)
        folders.sort()


def _is_run(folders: list[str], files: list[str]) -> bool:
    return not {"metrics.csv", "result.json"}.isdisjoint(files) or ("config.yaml" in files and "checkpoints" in folders)
