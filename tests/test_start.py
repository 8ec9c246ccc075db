"""The start of a command: what is imported before it is needed, and Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from flash_pl.cli import _parser
from flash_pl.commands.export import WRITERS

ROOT = Path(__file__).parents[1]
# Packages that take long to import. PyYAML is no such package.
HEAVY = {"jinja2", "lightning", "matplotlib", "numpy", "omegaconf", "rich", "torch", "torchmetrics", "torchvision"}
COMMANDS = {  # each with its exit code
    "--help": 0,
    "--version": 0,
    "configs": 0,
    "configs jmwst": 0,
    "configs schedulers": 0,
    "configs scheduler/jmwst": 0,
    "help": 0,
    "help fit": 0,
    "help density": 0,
    "help scheduler.prune_rate": 0,
    "help data.partition": 0,
    "completion bash": 0,
    "_complete flash-pl": 0,
    **{f"{command} --help": 0 for command in ("fit", "validate", "sweep", "compare", "export", "inspect", "configs")},
    "help denisty": 2,
    "help scheduler.prune_rat": 2,
    "configs jmwts": 2,
    "completion tcsh": 2,
    "fit jmwst --denisty=0.1": 2,
    "fit jmwst --trainer.eval_evry 2": 2,
    "fit jmwst --data=mnits --dry-run": 2,
    "fit jmwts --print-config": 2,
    "": 2,
    "fti": 2,
    "fit": 2,
    "fit jmwts": 2,
    "fit jmwst density": 2,
    "fit jmwst denisty=0.1": 2,
    "fit jmwst trainer.eval_evry=2": 2,
    "fit jmwst trainer=2": 2,
    "fit jmwst data=mnits": 2,
    "fit mine.yaml": 2,
    "sweep jmwts seed=1,2": 2,
    "sweep jmwst sede=1,2": 2,
    "validate last.ckpt denisty=0.1": 2,
    "help fit lr": 0,
    "help LR": 2,
    "fit jmwst --seed --lr 0.1": 2,
    "fit jmwst --workers 2": 2,
    # Names inside of components are in the source of their classes.
    "fit jmwst scheduler=jmwts": 2,
    "fit jmwst model=restnet18": 2,
    "fit jmwst scheduler.prune_rat=0.1": 2,
    "fit jmwst scheduler.prune_rate=x": 2,
    "fit jmwst data.sampels=5": 2,
    "fit jmwst model.exlude=[a]": 2,
    "fit jmwst scheduler.voter=magnitud": 2,
    "fit jmwst scheduler.sensitivity.move.growth=rndom": 2,
    "fit jmwst data.partition.alpa=3": 2,
    "fit jmwst scheduler=flash_pl.schedulers.JMWTS": 2,
    "fit jmwst scheduler.class_path=flash_pl.schedulers.JMWTS": 2,
    "fit jmwst scheduler=flash_pl.schedulrs.JMWST": 2,
    "fit jmwst callbacks=[flash_pl.callbacks.EarlyStoping]": 2,
    "fit jmwst scheduler.prune_rate=2": 2,
    "fit jmwst data.partition.alpha=0": 2,
    "sweep jmwst scheduler.prune_rat=0.1,0.2": 2,
    "sweep jmwst seed=1, --workers 2": 2,
}
# Values of typed keys are checked by OmegaConf, and the runs of a sweep are composed one after the other.
WITH_OMEGACONF = {
    "fit jmwst density=2": 2,
    "fit jmwst rounds=x --dry-run": 2,
    "sweep jmwst scheduler=jmwst,jmwts": 2,
    "sweep jmwst scheduler.prune_rate=0.1,2": 2,
    "sweep jmwst seed=1,2 --target 80": 2,
}
PROBE = """
import contextlib, io, json, sys
from flash_pl.cli import main
ends = {}
for command in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(command.split())
        except SystemExit as end:
            code = end.code
    ends[command] = code, err.getvalue(), [name for name in sys.modules if "." not in name]
print(json.dumps(ends))
"""


@pytest.fixture(autouse=True)
def ctrl_c():
    """A shell lets programs in the background ignore SIGINT, and tests may run there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options).stdout


def test_help_and_errors_of_typing_import_nothing_that_takes_long(tmp_path):
    (tmp_path / "mine.yaml").write_text("scheduler: jmwst\nrouns: 3\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    commands = COMMANDS | WITH_OMEGACONF
    ends = json.loads(python(PROBE, input=json.dumps(list(commands)), cwd=tmp_path, env=environment))
    for command, code in commands.items():
        ended, err, modules = ends[command]
        assert ended == code and err.count("\n") == (code != 0), (command, err)
        assert not HEAVY & set(modules) - ({"omegaconf"} if command in WITH_OMEGACONF else set()), command
    assert "error: rouns: " in ends["fit mine.yaml"][1]


@pytest.mark.parametrize("name", ["flash_pl", "flash_pl.config", "flash_pl.parent", "flash_pl.config.components"])
def test_a_package_is_imported_without_torch(name):
    assert python(f"import sys, {name}; print({HEAVY!r} & set(sys.modules))") == "set()\n"


def test_names_come_when_they_are_used():
    code = "import sys, flash_pl; flash_pl.ConfigError; assert 'torch' not in sys.modules; print(flash_pl.models.MLP)"
    assert "flash_pl.models.small.MLP" in python(code)
    code = "import pickle; from flash_pl import *; print(pickle.loads(pickle.dumps(JMWST)) is JMWST, FederatedTrainer)"
    assert python(code).startswith("True <class 'flash_pl.trainer.FederatedTrainer'>")


def declared_commands():
    (commands,) = (action for action in _parser()._actions if action.dest == "==SUPPRESS==" and action.choices)
    return commands.choices


def test_every_declared_command_has_a_function():
    for name, parser in declared_commands().items():
        module, _, function = parser.get_default("run").rpartition(".")
        found = getattr(import_module(module), function)
        first_line = found.__doc__.partition("\n")[0]
        assert first_line == parser.description, name


def test_the_help_of_export_names_every_suffix():
    text = declared_commands()["export"].format_help()
    assert all(suffix in text for suffix in WRITERS)


# A torch that is always being imported, and that catches every exception, as the real one does here and there.
SLOW_TORCH = """
import pathlib, time
pathlib.Path("ready").touch()
while True:
    try:
        time.sleep(600)
    except BaseException:
        pass
"""


def entry_point():
    module, function = re.search(r'^flash-pl = "([\w.]+):(\w+)"', (ROOT / "pyproject.toml").read_text(), re.M).groups()
    return ["-c", f"import sys; from {module} import {function}; sys.exit({function}())"]


@pytest.mark.parametrize(
    "start",
    [["-m", "flash_pl"], entry_point(), ["-c", "import sys; from flash_pl.cli import main; sys.exit(main())"]],
    ids=["module", "script", "main"],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_ctrl_c_during_the_import_of_torch_is_one_line(start, rank, tmp_path):
    (tmp_path / "torch.py").write_text(SLOW_TORCH)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "LOCAL_RANK": rank}
    command = [sys.executable, *start, "fit", "jmwst"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "flash-pl: interrupted\n" if rank == "0" else "")


def test_the_handler_of_ctrl_c_is_there_before_modules_that_take_long():
    """The test compares with an interpreter that does nothing, which may import much to find installed packages."""
    modules = "import sys; {}; print(*sys.modules)"
    at_start, at_main = (
        python(modules.format(code)).split() for code in ("pass", "from flash_pl.__main__ import main")
    )
    late = {"argparse", "ast", "inspect", "threading", "pathlib", "flash_pl.cli", "flash_pl.parent"}
    assert not late & (set(at_main) - set(at_start))


def test_whoever_calls_main_keeps_its_own_handling_of_ctrl_c(tmp_path, monkeypatch, capsys):
    """In a notebook Ctrl-C during the start is an exit code; it does not end the notebook."""
    from flash_pl.cli import main

    def interrupted(module):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr("flash_pl.cli.import_module", interrupted)
    assert main(["fit", "jmwst"]) == 130
    assert capsys.readouterr().err == "flash-pl: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
