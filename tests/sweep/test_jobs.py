"""The runs of a sweep: which, in which order, called what, and whether they are there."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flash_pl.config import RunDir, compose, read_config
from flash_pl.errors import ConfigError
from flash_pl.sweep import Choice, jobs
from flash_pl.sweep.jobs import name_of


def jobs_of(*arguments, folder="out"):
    return jobs("jmwst", read_config("jmwst"), [Choice.read(argument) for argument in arguments], Path(folder))


def test_seeds_vary_slowest_whatever_stands_first():
    names = [job.name for job in jobs_of("scheduler=nst,pdst", "seed=1,2", "rounds=3", "density=0.1,0.2")]
    first = [f"scheduler={method},density={density},seed=1" for method in ("nst", "pdst") for density in (0.1, 0.2)]
    assert names == first + [name.replace("seed=1", "seed=2") for name in first]
    job = jobs_of("scheduler=nst,pdst", "seed=1,2", "rounds=3")[1]
    assert (job.config["method"], job.config["seed"], job.config["rounds"]) == ("pdst", 1, 3)
    assert job.arguments == ("jmwst", "scheduler=pdst", "seed=1", "rounds=3")
    assert [job.name for job in jobs_of("rounds=3")] == ["run"]


@given(st.dictionaries(st.sampled_from(["a", "b.c"]), st.text(min_size=1, max_size=80), min_size=1))
def test_names_are_safe_and_tell_values_apart(values):
    name = name_of(values)
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.,=+-") and len(name) < 200
    other = {key: value + "x" for key, value in values.items()}
    assert name_of(other) != name


def test_the_folder_is_taken_as_it_is_written(tmp_path):
    (job,) = jobs_of("rounds=3", folder=tmp_path / "{data}: a # b")
    assert RunDir(compose(read_config("jmwst"), job.command[5:])).path == job.directory


# Arguments, what the refusal starts with, a part of it.
REFUSED = [
    (["seed=1,2", "seed=3"], "seed", "a key once"),
    (["run_dir=x"], "run_dir", "run_dir: 'x' is not allowed; expected --out"),
    (["ckpt_path=last"], "ckpt_path", "no such key in a sweep"),
    (["scheduler=nst,pdts"], "method", "did you mean pdst?"),
    (["density=0.1,2"], "density", "(0, 1] (in density=2)"),
    (["density=0.1,,2"], "density", "both sides of each comma"),
    (["density=0.1,0.1"], "density", "values that differ"),
    (["data.shape=[1,2"], "data.shape", "] is missing"),
    (["data.shape=1]"], "data.shape", "] is not"),
    (["density"], "argument", "KEY=VALUE"),
    (["=1"], "argument", "KEY=VALUE"),
]


@pytest.mark.parametrize(("arguments", "key", "words"), REFUSED)
def test_a_wrong_key_or_value_is_one_error(arguments, key, words):
    with pytest.raises(ConfigError) as caught:
        jobs_of(*arguments)
    assert caught.value.key == key and words in str(caught.value)


def test_a_finished_run_must_be_the_same_experiment(tmp_path):
    def job(*arguments):
        return jobs_of("seed=1,2", *arguments, folder=tmp_path)[0]

    assert not job().finished()
    directory = job().directory
    directory.mkdir()
    config = {key: value for key, value in job().config.items() if key not in ("run_dir", "ckpt_path")}
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (directory / "metrics.csv").write_text("round\n1\n")
    assert not job().finished()
    (directory / "result.json").write_text(json.dumps({"accuracy": 0.5}))
    assert job().finished() and job("trainer.eval_every=3", "data.root=/x").finished()
    assert not job("data.root=/x").otherwise(job().finished())
    assert job("trainer.eval_every=3").otherwise(job().finished()) == "trainer.eval_every=1"
    for other in ("rounds=9", "lr=0.2", "scheduler.prune_rate=0.1"):
        with pytest.raises(ConfigError, match=f"another experiment.*{other.partition('=')[0].rpartition('.')[2]}"):
            job(other).finished()
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        job().finished()
