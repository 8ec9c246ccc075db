"""Files from somebody else run no code: a class is called only if it is of the asked kind, and shipped or allowed."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from flash_pl.checkpoint import read_checkpoint, write_checkpoint
from flash_pl.cli import main
from flash_pl.config import compose
from flash_pl.config.build import build_trainer
from flash_pl.config.data import build_data
from flash_pl.config.instantiate import instantiate
from flash_pl.errors import ConfigError
from flash_pl.export import missing_packages
from flash_pl.schedulers import SparseScheduler

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=8", "clients=6", "cohort=2", "density=0.2", "rounds=1"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false"]

# A file in the folder where the commands run. Its import and every call leave a file.
EVIL = """
from pathlib import Path
from torch import nn
from flash_pl.schedulers import PDST

Path("imported").touch()

def call(*arguments, **keywords):
    Path("called").touch()

def annotated(*arguments, **keywords) -> PDST:
    Path("called").touch()

class Net(nn.Module):
    def __init__(self, **keywords):
        Path("called").touch()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["fit", "pdst", *TINY, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path


def ran(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} & {"imported", "called", "touched"}


SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch touched"}}
# What a stranger may write into the config of a checkpoint: a dotted key and its value.
HOSTILE = [
    ("budget", SYSTEM),
    ("scheduler", SYSTEM),
    ("model", {"class_path": "evil.Net"}),
    ("model", {"class_path": "evil.call"}),
    ("data", {"class_path": "evil.call"}),
    ("data.init_args.partition", {"class_path": "evil.call"}),
    ("data.collate_fn", "evil.call"),
    ("scheduler.init_args.first_mask", {"class_path": "evil.call"}),
    ("callbacks", [{"class_path": "evil.call", "init_args": {}}]),
    ("sampler", {"name": "uniform", "class_path": "evil.call"}),
    ("fleet", {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "touched"]}}),
    ("run_dir", "${oc.env:HOME}"),
    ("run_dir", "${o${c}.env:HOME}"),
    ("run_dir", "${ oc.env :HOME}"),
]


def put(config, key, value):
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[last] = value


def write_foreign(run, key, value):
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")
    put(state["flash_pl"]["extra"]["config"], key, value)
    write_checkpoint(Path("foreign.ckpt"), state)


@pytest.mark.parametrize("key, value", HOSTILE)
def test_no_command_runs_code_of_a_strangers_checkpoint(key, value, run, folder, capsys):
    write_foreign(run, key, value)
    assert main(["inspect", "foreign.ckpt"]) == 0
    assert main(["export", "foreign.ckpt", "--to", "model.flash"]) == 0
    capsys.readouterr()
    assert main(["validate", "foreign.ckpt"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    if not missing_packages():
        main(["export", "foreign.ckpt", "--to", "model.onnx"])
    main(["fit", "pdst", *TINY, "run_dir=own", "rounds=2", "ckpt_path=foreign.ckpt"])
    assert not ran(folder)


@pytest.mark.parametrize("key, value", HOSTILE)
def test_compare_runs_no_code_of_a_strangers_run(key, value, run, folder):
    foreign = folder / "foreign"
    foreign.mkdir()
    for name in ("metrics.csv", "result.json"):
        (foreign / name).write_bytes((run / name).read_bytes())
    config = yaml.safe_load((run / "config.yaml").read_text())
    put(config, key, value)
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    main(["compare", str(foreign), str(run), "--out", "report"])
    assert not ran(folder)


def test_references_that_double_are_refused_before_they_are_written_out(run, folder, capsys):
    texts = {f"a{level}": f"${{data.init_args.a{level - 1}}}" * 2 for level in range(1, 40)}
    write_foreign(run, "data.init_args", {"a0": "x" * 100} | texts)
    assert main(["validate", "foreign.ckpt"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("flash-pl: error: ckpt_path: ") and line.count("\n") == 1 and len(line) < 1000


def test_a_user_may_resume_a_run_with_environment_variables(folder, monkeypatch):
    monkeypatch.setenv("RATE", "0.05")
    assert main(["fit", "pdst", *TINY, "lr=${oc.env:RATE}", "run_dir=run"]) == 0
    again = ["fit", "pdst", *TINY, "lr=${oc.env:RATE}", "run_dir=run", "ckpt_path=last", "rounds=2"]
    assert main(again) == 0
    assert main(["validate", "run/checkpoints/last.ckpt"]) == 2
    assert main(["validate", "run/checkpoints/last.ckpt", "--trust"]) == 0


def test_trust_allows_what_the_checkpoint_names_and_says_so(folder, capsys):
    (folder / "mine.py").write_text("from flash_pl.models import LeafCNN\n\nclass Net(LeafCNN):\n    pass\n")
    own = [argument for argument in TINY if not argument.startswith("model")]
    assert main(["fit", "pdst", *own, "model=mine.Net", "run_dir=run"]) == 0
    assert "last.ckpt --trust" in capsys.readouterr().out
    assert main(["validate", "run/checkpoints/last.ckpt"]) == 2
    assert "mine.Net" in capsys.readouterr().err
    assert main(["validate", "run/checkpoints/last.ckpt", "--trust"]) == 0
    assert "mine.Net" in capsys.readouterr().err
    # What the user names is the user's own; and so a resumed run needs no permission.
    assert main(["validate", "run/checkpoints/last.ckpt", "model=mine.Net"]) == 0
    assert main(["fit", "run/config.yaml", "run_dir=run", "ckpt_path=last", "rounds=2"]) == 0


@pytest.mark.parametrize(
    "arguments, key",
    [
        (["data=evil.call"], "data.class_path"),
        (["data.partition=evil.call"], "data.partition.class_path"),
        (["scheduler=evil.call"], "scheduler.class_path"),
        (["scheduler=evil.Net"], "scheduler.class_path"),
        (["scheduler.voter=evil.Net"], "scheduler.voter.class_path"),
        (["sampler=evil.annotated"], "sampler.class_path"),
        (["budget={class_path: os.system, command: touch touched}"], "budget.class_path"),
        (["fleet=builtins.exec"], "fleet.class_path"),
        (["callbacks=[pathlib.Path]"], "callbacks[0].class_path"),
    ],
)
def test_a_users_own_config_calls_nothing_of_another_kind(arguments, key, folder):
    with pytest.raises(ConfigError) as error:
        config = compose({"scheduler": "jmwst"}, [*TINY[5:], *arguments])
        build_data(config)
        build_trainer(config)
    assert error.value.key == key
    assert "called" not in ran(folder) and "touched" not in ran(folder)


class Holder(SparseScheduler):
    def __init__(self, part, parts: list = ()):
        self.part = part


@pytest.mark.parametrize("init_args", [{"part": {"class_path": "evil.Net"}}, {"part": 1, "parts": [SYSTEM]}])
def test_an_argument_without_a_type_hint_takes_no_component(init_args, folder):
    node = {"class_path": f"{__name__}.Holder", "init_args": init_args}
    with pytest.raises(ConfigError) as error:
        instantiate("scheduler", node, SparseScheduler)
    assert error.value.key.startswith("scheduler.part")
    assert "called" not in ran(folder) and "touched" not in ran(folder)


def test_a_function_whose_annotation_is_wrong_is_refused_after_its_call(folder):
    with pytest.raises(ConfigError) as error:
        instantiate("scheduler", {"class_path": "evil.annotated"}, SparseScheduler)
    assert error.value.key == "scheduler.class_path"


def test_result_and_facts_name_the_run(run, folder):
    names = read_checkpoint(run / "checkpoints" / "last.ckpt")["flash_pl"]["extra"]["names"]
    result = json.loads((run / "result.json").read_text())
    assert {"scheduler": result["scheduler"], "data": result["data"]}.items() <= names.items()
