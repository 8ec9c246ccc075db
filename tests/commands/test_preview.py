"""``fit --print-config`` and ``fit --dry-run`` write nothing and say what a run would be."""

import json
from pathlib import Path

import pytest

from flash_pl.cli import main
from flash_pl.commands.preview import dry_run
from flash_pl.config import build_data, build_module, build_trainer, compose, read_config
from flash_pl.loops import rehearse
from flash_pl.loops.evaluation import EvaluationLoop
from flash_pl.yaml12 import load

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rehearsal(*arguments):
    config = compose(read_config(arguments[0]), [*TINY, *arguments[1:]])
    data = build_data(config)
    module = build_module(config, data)
    trainer = build_trainer(config | {"trainer": config["trainer"] | {"enable_model_summary": False}})
    loop = trainer.loop(module, data)
    with trainer.running(loop):
        return loop, rehearse(loop)


def test_the_printed_config_is_the_one_that_the_run_writes(capsys, tmp_path):
    arguments = ["jmwst", *TINY, "scheduler.sensitivity.epochs=1"]
    assert main(["fit", *arguments, "--print-config"]) == 0
    text = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(["fit", *arguments, "run_dir=run"]) == 0
    assert (tmp_path / "run" / "config.yaml").read_text() == text
    composed = compose(read_config("jmwst"), arguments[1:])
    kept = {key: value for key, value in compose(load(text)).items() if key not in ("run_dir", "given")}
    assert kept == {key: composed[key] for key in kept}


def test_a_wrong_setting_is_refused_by_both(capsys):
    for option in ("--print-config", "--dry-run"):
        assert main(["fit", "jmwst", option, "density=2"]) == 2
        out, err = capsys.readouterr()
        assert not out and "density: 2" in err
        assert main(["fit", "pdst", option, "scheduler.prune_rate=0.3"]) == 2  # PDST moves nothing
        out, err = capsys.readouterr()
        assert not out and "scheduler.prune_rate: " in err


def test_one_of_them_at_a_time(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "jmwst", "--print-config", "--dry-run"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["pdst", "jmwst", "nst", "dense", "ssfl", "hetero_jmwst", "fedrts"])
def test_a_dry_run_writes_nothing(config, capsys, tmp_path):
    before = {path for path in tmp_path.rglob("*")}
    more = ["fleet=mixed", "fleet.deadline=1e-9", "logger=csv"]
    assert main(["fit", config, *TINY, *more, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert {path for path in tmp_path.rglob("*")} == before and not err
    for name in ("data", "scheduler", "conv1", "fc1", "sent in a round", "training of a round", "memory", "time"):
        assert name in out
    assert ("rehearsal of stage 1" in out) == (config in ("jmwst", "ssfl", "hetero_jmwst"))


def test_the_estimate_has_the_numbers_of_the_run(tmp_path):
    """PDST: the mask is known, and every round has the same costs once the clients have had a mask."""
    loop, estimate = rehearsal("pdst")
    assert main(["fit", "pdst", *TINY, "rounds=20", "run_dir=run"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert estimate.exact and estimate.densities.tolist() == list(result["layer_density"].values())
    header, *_, last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert estimate.bytes_down == float(row["bytes_down"]) and estimate.bytes_up == float(row["bytes_up"])
    assert estimate.flops == pytest.approx(float(row["flops"]), rel=0.05)
    assert estimate.flops_ratio == pytest.approx(float(row["flops_ratio"]))
    assert estimate.steps and 0 < estimate.step < estimate.round < estimate.total
    assert estimate.first_stage == 0 and estimate.total >= 2 * estimate.round


def test_stage_1_and_tiers_are_part_of_the_estimate():
    loop, estimate = rehearsal("hetero_jmwst", "cohort=6")
    assert not estimate.exact and estimate.first_stage > 0
    assert float(loop.server.mask.double().mean()) == pytest.approx(0.2, abs=1e-3)
    assert len(loop.tier_masks) == 3


def test_the_first_evaluation_does_not_count(monkeypatch):
    """Some kernels are made in it; the estimate comes from later ones, of a few test batches."""
    run, batches = EvaluationLoop.run, []

    def count(self, client, weights, data, *arguments):
        batches.append(len(data))
        return run(self, client, weights, data, *arguments)

    monkeypatch.setattr(EvaluationLoop, "run", count)
    rehearsal("pdst", "data.test_samples=900")
    assert set(batches) == {1, 5} and batches.count(1) >= 2 * batches.count(5)


def test_a_client_that_fails_is_named(tmp_path, capsys):
    Path("fragile_net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(64, 4)\n"
        "    def forward(self, images):\n        assert not self.training, 'tired'\n"
        "        return self.fc(images.flatten(1))\n"
    )
    others = [argument for argument in TINY if not argument.startswith("model")]
    for policy in ("raise", "skip"):
        run = ["pdst", *others, "model=fragile_net.Net", f"trainer.on_client_error={policy}", "--dry-run"]
        assert main(["fit", *run]) == 3
        assert "tired" in capsys.readouterr().err
    assert dry_run.__doc__
