"""Run folders of somebody else: what no run writes is refused, by the file and the key."""

import json
import os
import sys

import pytest
import yaml

from flash_pl.cli import main
from flash_pl.compare import Comparison, Run
from flash_pl.errors import ConfigError

COLUMNS = {"bytes_up": (10, 20), "bytes_up_total": (10, 30), "density": (0.05, 0.05), "participants": (5, 5)}


@pytest.fixture
def path(make_run):
    return make_run("run", accuracies=(0.5, 0.75), columns=COLUMNS)


def refused(path, *words):
    with pytest.raises(ConfigError) as caught:
        Run.read(path)
    message = str(caught.value)
    assert caught.value.key in ("run", "config") and str(path) in message and "\n" not in message
    assert all(word in message for word in words) and len(message) < 1000
    return message


# A table of metrics, the column and the round of the error.
TABLES = [
    ("round,val_acc\n1,0.5\n3,0.5\n", "round", "3"),
    ("round,val_acc\n1,0.5\n1,0.5\n", "round", "1"),
    ("round,val_acc\n2,0.5\n1,0.5\n", "round", "1"),
    ("round,val_acc\n0,0.5\n1,0.5\n", "round", "0"),
    ("round,val_acc\n1.5,0.5\n2.5,0.5\n", "round", "1.5"),
    ("round,val_acc\n-1,0.5\n", "round", "-1"),
    ("round,val_acc\n,0.5\n", "round", ""),
    ("round,val_acc\nnan,0.5\n", "round", "inf"),
    ("round,bytes_up\n1,-5\n", "bytes_up", "round 1"),
    ("round,flops_total\n1,inf\n", "flops_total", "round 1"),
    ("round,flops_total\n1,1e400\n", "flops_total", "round 1"),
    ("round,seconds\n1,nan\n", "seconds", "round 1"),
    ("round,density\n1,1.5\n", "density", "round 1"),
    ("round,mismatch_clients\n1,-0.5\n", "mismatch_clients", "round 1"),
    ("round,participants\n1,2.5\n", "participants", "round 1"),
    ("round,a,a\n1,2,3\n", "'a'", "twice"),
    ("round,\x1b[2J\n1,2\n", r"\x1b", "column"),
    (f"round,{'x' * 300}\n1,2\n", "xxx", "column"),
    (f"round{''.join(f',c{n}' for n in range(2000))}\n1{',0' * 2000}\n", "2001", "columns"),
    (f"round{''.join(f',c{n}' for n in range(20_000))}\n1{',0' * 20_000}\n", "10000", "columns"),
    ("round,a\n1," + "1" * 200_000 + "\n", "", ""),
    ("round,a\n1," + "1" * 2_000_000 + "\n", "", "characters"),
    ("round,a\n1,1_0\n", "", "'1_0'"),
]


@pytest.mark.parametrize(("table", "column", "words"), TABLES)
def test_a_table_that_no_run_writes(path, table, column, words):
    (path / "metrics.csv").write_text(table)
    refused(path, "metrics.csv", column, words)


def test_a_continued_run_starts_later_and_a_diverged_one_stays(path):
    (path / "metrics.csv").write_text("round,val_acc,val_loss\n7,0.5,1.0\n8,nan,1e300\n")
    run = Run.read(path)
    assert not run.has_all_rounds and run.last("val_acc") == run.last("val_loss") == float("inf")


def test_layer_densities_are_checked_too(path):
    (path / "consensus.csv").write_text("round,density/fc,votes/1\n1,0.5,3\n")
    assert Run.read(path).consensus["votes/1"][0] == 3
    (path / "consensus.csv").write_text("round,density/fc,votes/1\n1,1.5,3\n")
    refused(path, "consensus.csv", "density/fc", "round 1")


# A key of result.json and a value.
RESULTS = [
    ("density", "much"),
    ("density", 1.5),
    ("density", None),
    ("density", True),
    ("rounds", 0),
    ("rounds", 2.5),
    ("seed", -1),
    ("seed", "1"),
    ("scheduler", 5),
    ("data", ""),
    ("model", "x" * 300),
    ("model", "a\x1b[2J"),
    ("versions", ["torch"]),
    ("versions", {"torch": 2}),
    ("cost", 5),
    ("cost", {"bytes_dense": "many"}),
    ("cost", {"bytes_up": -1}),
    ("accuracy", "0.5"),
    ("tiers", {"density": 0.1}),
    ("tiers", [{"density": 0}]),
    ("layer_density", {"fc": 2}),
    ("seconds", -1),
    ("seconds", float("inf")),
    ("anything", float("nan")),
    ("anything", [{"deep": float("-inf")}]),
    ("anything", 10**400),
    ("anything", 1e400),
    ("mismatch", {"clients": "x"}),
    ("reports", {"late": 0.5}),
    ("anything", {"\x1b": 1}),
    ("stopped", 5),
    ("best", 0.5),
    ("best", {"value": "0.5", "round": 1}),
    ("best", {"value": 0.5, "round": 0}),
    ("process", "flash-pl fit"),
    ("process", {"command": 5}),
    ("process", {"host": {"cores": [2]}}),
    ("process", {"peak_memory_mb": {"host": -1}}),
    ("failed_clients", -1),
    ("weights", {"trainable": -1}),
]


@pytest.mark.parametrize(("key", "value"), RESULTS, ids=repr)
def test_a_result_that_no_run_writes(path, key, value):
    content = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(content | {key: value}))
    refused(path, "result.json", key)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "[" * 60 + "]" * 60 + "}",
        '{"accuracy": ' + "9" * 5000 + "}",
        "",
        "null",
    ],
    ids=range(6),
)
def test_json_of_any_shape(path, text):
    (path / "result.json").write_text(text)
    refused(path, "result.json", "accuracy" if "accuracy" in text else "")


# A key of config.yaml and a value.
CONFIGS = [
    ("seed", "1"),
    ("seed", -1),
    ("seed", 1.5),
    ("seed", "${oc.env:HOME}"),
    ("rounds", True),
    ("density", float("nan")),
    ("density", 1e-320),
    ("data", "digits"),
    ("model", {"class_path": 5}),
    ("model", {"class_path": "a.B", "init_args": 3}),
    ("model", {"class_path": "a.B", "name": ["x"]}),
    ("scheduler", {"class_path": "a.\x1b"}),
    ("budget", "evil.B"),
    ("sampler", {"name": "x"}),
    ("trainer", 5),
    ("trainer", {"monitor": 5}),
    ("trainer", {"monitor_mode": "best"}),
    ("alpha", float("inf")),
    ("wire", {"x": [{"y": float("-inf")}]}),
    ("lr", "${nothing}"),
    ("lr", "${lr}"),
    ("x", {"\n": 1}),
    ("compat", ["official"]),
]


@pytest.mark.parametrize(("key", "value"), CONFIGS, ids=repr)
def test_a_config_that_no_run_writes(path, key, value):
    content = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(content | {key: value}))
    refused(path, "config.yaml", key)


@pytest.mark.parametrize("line", ["x: " + "9" * 5000, "x: 0x" + "f" * 5000, "x: !!bool 3", "x: !!timestamp 3"])
def test_numbers_and_tags_that_python_does_not_read(path, line):
    (path / "config.yaml").write_text(f"{line}\n")
    refused(path, "config.yaml")


# A key of result.json that another file has too, and a value that differs.
OTHER = [
    ("scheduler", "nst"),
    ("data", "mnist"),
    ("model", "lenet"),
    ("seed", 2),
    ("cohort", 3),
    ("target_density", 0.1),
    ("rounds", 3),
    ("accuracy", 0.5),
    ("density", 0.06),
    ("cost", {"bytes_up": 31}),
    ("reports", {"in_time": 11}),
]


@pytest.mark.parametrize(("key", "value"), OTHER, ids=repr)
def test_a_result_of_another_run(path, key, value):
    same = {
        "scheduler": "jmwst",
        "data": "digits",
        "model": "digits_cnn",
        "seed": 1,
        "cohort": 5,
        "target_density": 0.05,
    }
    same |= {
        "rounds": 2,
        "accuracy": 0.75 + 1e-9,
        "density": 0.05,
        "cost": {"bytes_up": 30},
        "reports": {"in_time": 10},
    }
    (path / "result.json").write_text(json.dumps(same))
    assert Run.read(path)
    (path / "result.json").write_text(json.dumps(same | {key: value}))
    refused(path, "result.json", key)


@pytest.mark.parametrize("file", ["result.json", "config.yaml", "metrics.csv", "consensus.csv"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "endless", "loop", "dangling", "large"])
def test_something_else_in_place_of_a_file(path, file, kind):
    place = path / file
    place.unlink(missing_ok=True)
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "large":
        with open(place, "wb") as opened:
            opened.truncate(2**34)
    else:
        links = {"device": "/dev/zero", "endless": "/proc/self/pagemap", "loop": file, "dangling": "nowhere"}
        place.symlink_to(links[kind])
    refused(path, file)


def test_nothing_that_a_config_names_is_imported_and_no_variable_is_read(make_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)  # another test's
    monkeypatch.setenv("SECRET", "of this machine")
    component = {"class_path": "evil.Net", "init_args": {"x": "${oc.env:SECRET}"}}
    for number, section in enumerate(["data", "model", "scheduler", "budget", "sampler", "aggregator", "fleet"]):
        path = make_run(f"all/{section}", f"seed={number}")
        content = yaml.safe_load((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(
            yaml.safe_dump(content | {section: component, "optimizer": "${oc.env:SECRET}"})
        )
    path = make_run("all/lists", "seed=9")
    content = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(content | {"callbacks": [component], "logger": [component]}))
    assert main(["compare", "all", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert "left out" not in err and "evil" not in sys.modules
    pages = (tmp_path / "out" / "report.html").read_text() + (tmp_path / "out" / "table.csv").read_text()
    assert "of this machine" not in out + err + pages and "oc.env:SECRET" in pages


def test_names_of_somebody_else_are_text_everywhere(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "=<b>[red]$x_{$../../x"
    for number in (1, 2):
        path = make_run(
            f"all/\x1b[2J{number}",
            f"trainer.monitor={name}",
            accuracies=(0.5,),
            consensus=[{"round": 1, "density/fc": 0.1}],
        )
        content = yaml.safe_load((path / "config.yaml").read_text())
        content["data"]["name"] = f"{name}{number}"
        content["scheduler"]["init_args"] |= {"=x\x1b"[:2]: f"\x1b]0;{number}\a"}
        (path / "config.yaml").write_text(yaml.safe_dump(content))
    (make_run("all/\x1b[31m") / "result.json").write_text("{")
    assert main(["compare", "all", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert name in out.replace("*", "") and err.count("\n") >= 1
    assert (
        not (tmp_path / "x").exists()
        and sum(file.stem.startswith("layers_") for file in (tmp_path / "out").iterdir()) == 4
    )
    header, *rows = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert f",'{name}_mean," in header and all(row.startswith(f"'{name}") for row in rows)
    assert "<b>" not in (tmp_path / "out" / "report.html").read_text()


def test_a_config_with_thousands_of_settings_has_a_short_name(make_run):
    path, other = make_run("run"), make_run("other", "scheduler=nst")
    content = yaml.safe_load((path / "config.yaml").read_text())
    content["scheduler"]["init_args"] |= {f"x{number}": number for number in range(500)}
    (path / "config.yaml").write_text(yaml.safe_dump(content))
    comparison, _ = Comparison.of([Run.read(path), Run.read(other)], last=1)
    assert len(comparison.groups[0].label) < 1000 and len(comparison.groups[0].settings) == 500
