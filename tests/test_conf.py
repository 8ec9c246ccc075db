"""Every shipped config runs a round and leaves a complete run directory."""

import csv
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from flash_pl.cli import main
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.config.shipped import SHIPPED, description, names

CONFIGS = sorted(SHIPPED.glob("*.yaml"))
TINY = ["data=synthetic", "data.samples=60", "data.test_samples=20", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=4", "cohort=2", "batch_size=8", "rounds=1", "density=0.2"]
TINY += ["trainer.accelerator=cpu", "trainer.threads=1", "run_dir=run"]
RESULT = {
    "scheduler", "data", "model", "weights", "target_density", "density", "layer_density", "accuracy", "accuracy_union",
    "loss", "rounds", "clients", "cohort", "seed", "seconds", "seconds_per_round", "mismatch", "cost", "versions",
    "best", "process", "density_of", "density_flops",
}  # fmt: skip
HETERO = {"tiers", "accuracy_clients"}  # only in the results of the shipped configs with tiers


def test_every_scheduler_has_a_config_and_its_own_aggregator():
    for scheduler in names("scheduler"):
        assert scheduler in {path.stem for path in CONFIGS}
        two = "budget.tiers=[{density: 0.1, share: 0.5}, {density: 0.2, share: 0.5}]"
        for tiers, budget in ((1, []), (2, [two])):
            trainer = build_trainer(compose(read_config(scheduler), [*TINY, *budget]))
            assert type(trainer.aggregator) is type(trainer.scheduler.aggregator(tiers)), (scheduler, tiers)
            assert vars(trainer.aggregator) == vars(trainer.scheduler.aggregator(tiers))


@pytest.mark.parametrize("compat", ["null", "official"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_round_of_every_config(path, compat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert description(path.stem)
    assert main(["fit", path.stem, *TINY, f"compat={compat}"]) == 0
    run = Path("run")
    result = json.loads((run / "result.json").read_text())
    tiered = path.stem.startswith("hetero_")
    assert set(result) == RESULT | (HETERO if tiered else set())
    assert set(result["mismatch"]) == {"clients", "server", "temporal"}
    assert set(result["versions"]) == {"flash_pl", "python", "torch", "lightning"}
    assert result["best"] == {"value": pytest.approx(result["accuracy"]), "round": 1}
    assert set(result["process"]) == {"command", "host", "peak_memory_mb"}
    assert 0 <= result["accuracy"] <= 1
    assert result["accuracy_union"] is None if path.stem == "stead" else 0 <= result["accuracy_union"] <= 1
    assert (
        result["scheduler"] == path.stem.removeprefix("hetero_")
        and result["data"] == "synthetic"
        and result["model"] == "digits_cnn"
    )
    assert set(result["layer_density"]) == {"conv1", "conv2", "fc1", "fc2"}
    expected = 1.0 if path.stem == "dense" else 0.2
    near = 0.25 if compat == "official" else 0.01 if path.stem == "heterofl" else 1e-3  # whole channels
    assert result["density"] == pytest.approx(expected, rel=near)
    if tiered:
        assert [tier["density"] for tier in result["tiers"]] == pytest.approx([0.1, 0.15, 0.2])
        assert result["tiers"][-1]["accuracy"] == result["accuracy"]
        assert set(result["accuracy_clients"]) == {"mean", "lowest_tenth", "highest_tenth"}
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert result["target_density"] == (None if path.stem == "dense" else 0.2)
    assert len(rows) == 1 and float(rows[0]["val_acc"]) == pytest.approx(result["accuracy"])
    assert list(run.glob("events.out.tfevents.*"))
    saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert compose(saved) == compose(read_config(path.stem), [*TINY[:-1], f"compat={compat}"])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["flash_pl"]["extra"]["config"] == saved


@pytest.mark.parametrize("data", names("data"))
def test_every_data_set_composes_with_its_own_model(data):
    config = compose(read_config("jmwst"), [f"data={data}"])
    assert config["data"]["name"] == data and config["model"]["name"] in names("model")
