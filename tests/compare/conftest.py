"""Run directories with known numbers."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flash_pl.config import compose, read_config

ACCURACIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.fixture
def make_run(tmp_path):
    """Writes a finished run: a shipped config with arguments, a row a round, a result."""

    def make(
        name, *arguments, config="jmwst", accuracies=ACCURACIES, columns=None, result=None, consensus=None
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        config = compose(read_config(config), [f"rounds={len(accuracies)}", *arguments])
        kept = {key: value for key, value in config.items() if key not in ("run_dir", "ckpt_path")}
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))
        rows = [
            {"round": number, config["trainer"]["monitor"]: accuracy}
            | {column: values[number - 1] for column, values in (columns or {}).items()}
            for number, accuracy in enumerate(accuracies, 1)
        ]
        write_table(path / "metrics.csv", rows)
        found = {"density": config["density"], "versions": {"flash_pl": "1.2.3"}} | (result or {})
        (path / "result.json").write_text(json.dumps(found))
        if consensus:
            write_table(path / "consensus.csv", consensus)
        return path

    return make


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
