"""The jobs of a sweep: values of an argument, order, names, and finished runs."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flash_pl.config import RunDir, compose, read_config
from flash_pl.errors import ConfigError
from flash_pl.sweep import Choice, make_jobs
from flash_pl.sweep.jobs import job_name, split


def jobs_of(*arguments, folder="out"):
    return make_jobs("jmwst", read_config("jmwst"), [Choice.read(argument) for argument in arguments], Path(folder))


def test_seeds_vary_slowest_whatever_stands_first():
    names = [job.name for job in jobs_of("scheduler=nst,pdst", "seed=1,2", "rounds=3", "density=0.1,0.2")]
    pairs = [(scheduler, density) for scheduler in ("nst", "pdst") for density in (0.1, 0.2)]
    first = [f"scheduler={scheduler},density={density},seed=1" for scheduler, density in pairs]
    assert names == first + [name.replace("seed=1", "seed=2") for name in first]
    job = jobs_of("scheduler=nst,pdst", "seed=1,2", "rounds=3")[1]
    assert (job.config["scheduler"]["name"], job.config["seed"], job.config["rounds"]) == ("pdst", 1, 3)
    assert job.arguments == ("jmwst", "scheduler=pdst", "seed=1", "rounds=3")
    assert [job.name for job in jobs_of("rounds=3")] == ["run"]


@given(st.dictionaries(st.sampled_from(["a", "b.c"]), st.text(min_size=1, max_size=80), min_size=1))
def test_names_are_safe_and_tell_values_apart(values):
    name = job_name(values)
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.,=+-") and len(name) < 200
    other = {key: value + "x" for key, value in values.items()}
    assert job_name(other) != name


def test_the_folder_is_taken_as_it_is_written(tmp_path):
    (job,) = jobs_of("rounds=3", folder=tmp_path / "{data}: a # b")
    assert RunDir(compose(read_config("jmwst"), job.command[5:])).path == job.directory


# Arguments, the key of the error, a part of the message.
REFUSED = [
    (["seed=1,2", "seed=3"], "seed", "2 times"),
    (["run_dir=x"], "run_dir", "--out FOLDER"),
    (["ckpt_path=last"], "ckpt_path", "'last'"),
    (["scheduler=nst,pdts"], "scheduler", "did you mean pdst?"),
    (["density=0.1,2"], "density", "2.0 is not in (0, 1] (in density=2)"),
    (["density=0.1,,2"], "density", "'0.1,,2'"),
    (["density=0.1,0.1"], "density", "'0.1,0.1'"),
    (["density=0.1,0.10"], "density", "0.1 and 0.10 are the same value"),
    (["seed=8,9,010,10"], "seed", "010 and 10"),
    (["lr=1,1.0", "seed=1,2"], "lr", "1 and 1.0"),
    (["data.partition=iid,flash_pl.data.IID"], "data.partition", "iid and flash_pl.data.IID"),
    (["seed=8,1:30"], "seed", "'1:30' is not an integer"),
    (["data.shape=[1,2"], "data.shape", "ends without ]"),
    (["data.shape=1]"], "data.shape", "has a ] that"),
    (["density"], "argument", "KEY=VALUE"),
    ([f"{key}={','.join(map(str, range(1, 1000)))}" for key in ("seed", "rounds")], "seed", "998001 runs"),
    (["=1"], "argument", "KEY=VALUE"),
]


@pytest.mark.parametrize(("arguments", "key", "words"), REFUSED)
def test_a_wrong_key_or_value_is_one_error(arguments, key, words):
    with pytest.raises(ConfigError) as caught:
        jobs_of(*arguments)
    assert caught.value.key == key and words in str(caught.value)


def test_a_finished_run_must_be_the_same_experiment(tmp_path):
    def job(*arguments):
        return jobs_of("seed=1,2", "data=mnist", *arguments, folder=tmp_path)[0]

    assert not job().finished()
    directory = job().directory
    directory.mkdir()
    config = {key: value for key, value in job().config.items() if key not in ("run_dir", "ckpt_path")}
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (directory / "metrics.csv").write_text("round\n1\n")
    assert not job().finished()
    (directory / "result.json").write_text(json.dumps({"accuracy": 0.5}))
    assert job().finished() and job("trainer.eval_every=3", "data.root=/x").finished()
    assert not job("data.root=/x").other_options(job().finished())
    assert job("trainer.eval_every=3").other_options(job().finished()) == "trainer.eval_every=1"
    for other in ("rounds=9", "lr=0.2", "scheduler.prune_rate=0.1"):
        with pytest.raises(ConfigError, match=f"another experiment.*{other.partition('=')[0].rpartition('.')[2]}"):
            job(other).finished()
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "result.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        job().finished()


def test_a_finished_run_with_a_reference_to_the_machine_is_the_same_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("RATE", "0.2")
    (job,) = jobs_of("lr=${oc.env:RATE}", "rounds=1", folder=tmp_path)
    assert job.config["lr"] == 0.2
    RunDir(job.config | {"run_dir": str(job.directory)}, job.written).open()
    (job.directory / "metrics.csv").write_text("round\n1\n")
    (job.directory / "result.json").write_text("{}")
    assert job.finished()
    monkeypatch.setenv("RATE", "0.3")
    assert jobs_of("lr=${oc.env:RATE}", "rounds=1", folder=tmp_path)[0].finished()
    with pytest.raises(ConfigError):
        jobs_of("lr=0.2", "rounds=1", folder=tmp_path)[0].finished()


PLAIN = st.text("ab01 .:=-_$", max_size=6)


def _inside(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Values in brackets, with commas between them."""
    lists = st.lists(values, max_size=3).map(",".join)
    return st.one_of(
        lists.map(lambda text: f"[{text}]"), lists.map(lambda text: f"({text})"), lists.map(lambda text: f"{{{text}}}")
    )


QUOTED = st.one_of(
    st.text("a,[)'{ ", max_size=5).map(lambda text: f'"{text}"'),
    st.text('a,](" }', max_size=5).map(lambda text: f"'{text}'"),
)
VALUE = st.recursive(PLAIN | QUOTED, _inside, max_leaves=6)


@given(st.lists(VALUE, min_size=1, max_size=5))
def test_values_come_out_as_they_went_in(values):
    assert split("key", ",".join(values)) == values


@given(st.text("ab,[](){}'\" ", max_size=12))
def test_parts_make_the_text_again_or_it_is_refused(text):
    try:
        parts = split("key", text)
    except ConfigError as error:
        assert error.key == "key" and repr(text) in error.problem
    else:
        assert ",".join(parts) == text and all(split("key", part) == [part] for part in parts)


@given(PLAIN.filter(lambda key: key and "=" not in key), st.lists(VALUE, min_size=2, max_size=4))
def test_choices_are_the_values_or_a_refusal(key, values):
    stripped = tuple(value.strip() for value in values)
    text = f"{key}={','.join(values)}"
    if all(stripped) and len(set(stripped)) == len(stripped):
        assert Choice.read(text) == Choice(key, stripped) and Choice.read(text).varies
    else:
        with pytest.raises(ConfigError):
            Choice.read(text)


def test_a_single_value_is_an_override_even_an_empty_one():
    assert Choice.read("data.shape=[1, 8, 8]") == Choice("data.shape", ("[1, 8, 8]",))
    assert Choice.read("compat=").values == ("",) and not Choice.read("compat=").varies
