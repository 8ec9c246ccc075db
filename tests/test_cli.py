"""The command line: refusals, run directories, validate, resume, listings."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.commands.result import best_of
from flash_pl.commands.screen import metrics_table, result_table
from flash_pl.config.keys import KEYS
from flash_pl.errors import ConfigError
from flash_pl.units import percent

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]
TINY += ["trainer.enable_model_summary=false"]


def refusal(capsys, *arguments, command="fit"):
    """The one line that a command prints when it refuses."""
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_class_that_is_no_data_set_and_data_without_a_default_model(capsys):
    line = refusal(capsys, "jmwst", "data.class_path=torch.nn.Linear", "model=lenet5")
    assert line.startswith("data.class_path: 'torch.nn.Linear'") and "FederatedData" in line
    line = refusal(capsys, "jmwst", "data.class_path=flash_pl.data.TensorData")
    assert line.startswith("model: ") and "lenet5" in line


def test_a_network_that_does_not_fit_the_data_is_one_line_and_leaves_nothing(capsys, tmp_path):
    module = "import lightning as L, torch\nclass Own(L.LightningModule):\n"
    module += "    def __init__(self):\n        super().__init__()\n        self.head = torch.nn.Linear(63, 4)\n"
    module += "    def training_step(self, batch, batch_idx):\n        return self.head(batch[0].flatten(1)).sum()\n"
    module += "    def configure_optimizers(self):\n        return torch.optim.SGD(self.parameters(), lr=0.1)\n"
    (tmp_path / "own_step.py").write_text(module)
    module += (
        "    def validation_step(self, batch, batch_idx):\n        self.log('val_acc', self.training_step(batch, 0))\n"
    )
    (tmp_path / "own_module.py").write_text(module)
    others = [argument for argument in TINY if not argument.startswith("model")]
    cases = {
        ("model.num_classes=2",): ["2 outputs", "label 3"],
        ("model.in_channels=3",): ["model.conv1 (Conv2d)", "3 channels", "[40, 1, 8, 8]"],
        ("model.image_size=16",): ["model.fc1 (Linear)", "features", "from a batch of shape [40, 1, 8, 8]"],
        ("model=own_module.Own",): ["head (Linear)", "63 features", "64", "[40, 64]"],
    }
    for wrong, words in cases.items():
        line = refusal(capsys, "pdst", *(others if wrong[0].startswith("model=") else TINY), *wrong)
        assert line.startswith("the network does not fit the data: ") and all(word in line for word in words), line
    assert not list(tmp_path.glob("runs"))
    # Without a validation_step the first client is the first to know.
    assert main(["fit", "pdst", *others, "model=own_step.Own", "trainer.monitor=train_loss"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "in round 1: the network does not fit the data: head (Linear) takes 63 features" in line


def test_an_error_that_is_not_about_shapes_keeps_its_words(capsys, tmp_path):
    code = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    code += "        self.fc = nn.Linear(64, 4)\n    def forward(self, images):\n"
    code += "        self.fc(images.flatten(1))\n        raise ValueError('mine')\n"
    (tmp_path / "raising_net.py").write_text(code)
    others = [argument for argument in TINY if not argument.startswith("model")]
    line = refusal(capsys, "pdst", *others, "model=raising_net.Net")
    assert line.startswith("a batch of the data cannot be evaluated: ValueError: mine (") and "raising_net.py:8" in line


def test_a_fleet_is_not_added_to_a_checkpoint(capsys):
    assert main(["fit", "pdst", *TINY, "run_dir=run"]) == 0
    capsys.readouterr()
    line = refusal(capsys, "run/checkpoints/last.ckpt", "fleet=mixed", command="validate")
    assert line.startswith("fleet: ") and "the checkpoint" in line


def test_a_state_that_could_not_be_read_again_is_refused_at_once(capsys, tmp_path):
    code = "from flash_pl import PDST\nimport numpy\n"
    code += "class Counts(PDST):\n    def state_dict(self):\n        return {'seen': numpy.zeros(3)}\n"
    (tmp_path / "counting.py").write_text(code)
    assert main(["fit", "pdst", *TINY, "scheduler=counting.Counts"]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("flash-pl: error: scheduler: ") and "Counts" in line and "state_dict()" in line


def test_a_missing_data_folder_names_its_key(capsys):
    line = refusal(capsys, "jmwst", "data=fashion_mnist", "data.root=nowhere")
    assert line.startswith("data.root: ") and "nowhere" in line


def test_missing_data_are_one_line_with_a_remedy(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))
    assert "set root to" in refusal(capsys, "jmwst", "data=femnist")


def test_arguments_that_argparse_refuses_exit_with_2(capsys):
    for wrong in ([], ["fti"], ["fit"], ["validate"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert "flash-pl" in capsys.readouterr().err


def test_arguments_may_stand_around_options(tmp_path, capsys):
    runs = [tmp_path / name for name in ("a", "b")]
    with pytest.raises(SystemExit):
        main(["validate"])
    assert capsys.readouterr().err.partition(";")[0].endswith("required: CKPT")  # optional arguments are not listed
    assert main(["compare", str(runs[0]), "--last", "3", str(runs[1])]) == 2
    err = capsys.readouterr().err
    assert all(str(run) in err for run in runs)
    assert main(["sweep", "pdst", "seed=1", "--workers", "2", "roundz=3"]) == 2
    err = capsys.readouterr().err
    assert "error: roundz: " in err and "did you mean rounds?" in err


def test_the_commands_that_a_run_prints_at_its_end_work(capsys, tmp_path):
    assert main(["fit", "pdst", *TINY, f"run_dir={tmp_path / 'runs' / 'of mine'}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " flash-pl " in line]
    for line in lines:
        assert main(shlex.split(line)[shlex.split(line).index("flash-pl") + 1 :]) == 0
    assert [line.split("  ")[0] for line in lines] == ["report", "validate", "export", "or smaller", "go on"]
    dense, sparse = (tmp_path / f"{name}.safetensors" for name in ("model", "sparse"))
    assert sparse.stat().st_size < dense.stat().st_size
    assert (tmp_path / "report" / "report.html").exists() and (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "runs" / "of mine" / "result.json").read_text())["rounds"] == 4


def test_the_final_table_names_the_metric_and_shows_percent_only_for_shares(tmp_path):
    cost = {"bytes_up": 1.2346e6, "bytes_down": 999}
    process = {"peak_memory_mb": {"host": 512.34}}
    result = {"scheduler": "pdst", "data": "digits", "rounds": 2, "density": 0.2, "target_density": 0.2, "mismatch": {}}
    result |= {
        "density_of": "weights",
        "density_flops": 0.3,
        "cost": cost,
        "seconds": 75.0,
        "seconds_per_round": 0.5,
        "accuracy_union": None,
        "process": process,
    }

    def shown(accuracy, monitor, highest, **more):
        console = Console(file=io.StringIO(), width=100)
        best = {"value": accuracy, "round": 37}
        console.print(
            result_table(result | {"accuracy": accuracy, "best": best} | more, tmp_path, monitor, highest, ["rounds=4"])
        )
        return " ".join(console.file.getvalue().split())

    text = shown(0.5, "val_acc", True)
    assert "best accuracy 50.0 % in round 37 last accuracy 50.0 %" in text and "density 0.2000 (target 0.2)" in text
    assert "1.23 MB up, 999 B down" in text and "1 min 15 s, 0.50 s a round" in text and "512 MB" in text
    assert "val_loss[a] 2.3276 density" in shown(2.3276, "val_loss[a]", False)
    assert "accuracy of the union 40.0 %" in shown(0.5, "val_acc", True, accuracy_union=0.4)
    assert "val_loss 0.5000" in shown(0.5, "val_loss", False) and "accuracy" not in shown(0.5, "val_loss", False)
    assert "accuracy 98.0 %" in shown(0.98, "val_acc", True) and "val_f1 50.0 %" in shown(0.5, "val_f1", True)
    assert "best" not in shown(None, "val_f1", True, best=None)
    dense = shown(0.5, "val_acc", True, density=1.0, target_density=None)
    assert not any(word in dense for word in ("density", "target", "mismatch", "union", "--sparse"))
    mismatch = {"clients": 0.25, "server": None}
    explained = shown(0.5, "val_acc", True, mismatch=mismatch, accuracy_union=0.4)
    assert "25.0 % two clients" in explained and explained.count("mask mismatch: ") == explained.count("union: ") == 1


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_breaks_no_command_and_no_row(columns, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    run = tmp_path / "a directory with a long name and spaces" / "run"
    assert (
        main(["fit", "jmwst", *TINY, "scheduler.sensitivity.epochs=1", "trainer.progress=true", f"run_dir={run}"]) == 0
    )
    out, err = capsys.readouterr()
    (line,) = (line for line in out.splitlines() if line.startswith("go on"))
    assert shlex.split(line)[2:5] == ["flash-pl", "fit", str(run / "config.yaml")] and line.endswith(" rounds=4")
    rows = out.split("\n\n")[0].splitlines()
    assert rows and all(len(row) <= columns for row in rows)
    lines = [line for line in err.splitlines() if line.startswith(("round", "stage"))]
    assert lines and all(len(line) <= columns for line in lines) and "val_acc" in lines[-1]


def test_a_result_says_what_was_best_by_which_command_and_where(tmp_path):
    arguments = ["fit", "pdst", *TINY, "run_dir=a run", "rounds=3"]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "a run" / "result.json").read_text())
    assert shlex.split(result["process"]["command"]) == ["flash-pl", *arguments]
    with open(tmp_path / "a run" / "metrics.csv", newline="") as file:
        values = [float(row["val_acc"]) for row in csv.DictReader(file)]
    assert result["best"] == {"value": max(values), "round": 1 + values.index(max(values))}
    host, memory = result["process"]["host"], result["process"]["peak_memory_mb"]
    assert host["device"] == "cpu" and host["cores"] >= 1 and host["processes"] == 1 and host["kernels"]
    assert all(amount > 10 for amount in memory.values())
    assert main(["compare", "a run"]) == 0  # which checks the file


def test_the_best_value_of_a_metric_that_should_be_low():
    rows = [{"round": 1, "val_loss": "inf"}, {"round": 2, "val_loss": "2.0"}, {"round": 3, "val_loss": "2.0"}]
    assert best_of([*rows, {"round": 4, "val_loss": "nan"}], "val_loss", highest=False) == {"value": 2.0, "round": 2}
    assert best_of(rows[:1], "val_loss", highest=False) is None


def test_a_default_cohort_fits_the_clients_and_a_given_one_is_refused(capsys, tmp_path):
    some = [argument for argument in TINY if not argument.startswith(("clients", "cohort"))]
    assert main(["fit", "pdst", *some, "data.clients=3", "run_dir=run"]) == 0
    notices = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flash-pl: notice: cohort=3")]
    assert len(notices) == 1 and "default is 5" in notices[0]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["cohort"] == 3
    assert main(["fit", "run/config.yaml", "run_dir=run", "ckpt_path=last", "rounds=3"]) == 0  # the same experiment
    assert "notice" not in capsys.readouterr().err
    for clients in ("clients=3", "data.clients=3"):
        assert refusal(capsys, "pdst", *some, clients, "cohort=4").startswith("cohort: 4 ")


@pytest.mark.parametrize("deadline, end", [(1e-9, ": no report was used, see fleet.deadline"), (1e9, "")])
def test_the_end_of_a_run_reports_how_many_reports_were_late(deadline, end, capsys, tmp_path):
    arguments = ["fit", "pdst", *TINY, "fleet=mixed", f"fleet.deadline={deadline}", "cohort=3", "run_dir=here"]
    assert main([*arguments, "rounds=2"]) == 0
    table = tmp_path / "here" / "metrics.csv"
    numbers = re.sub(
        r",(\d+)(?=,|$)", r",\1.0", table.read_text(), flags=re.MULTILINE
    )  # a spreadsheet saves integers like this
    table.write_text(numbers)
    assert main([*arguments, "rounds=3", "ckpt_path=last"]) == 0
    late = 9 if end else 0
    assert f"late {late} of 9 reports{end}" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "here" / "result.json").read_text())["reports"] == {"in_time": 9 - late, "late": late}


def test_brackets_in_the_name_of_a_metric_are_shown():
    console = Console(file=io.StringIO(), width=100)
    console.print(metrics_table({"acc[top1]": 0.5, "f1[/macro]": 0.25}, "last.ckpt"))
    assert "acc[top1] 0.5000 f1[/macro] 0.2500" in " ".join(console.file.getvalue().split())


def test_a_config_repeats_its_run_and_the_default_directory_is_never_replaced(capsys, tmp_path):
    assert main(["fit", "jmwst", *TINY, "scheduler.sensitivity.epochs=1"]) == 0
    first = tmp_path / "runs" / "synthetic-jmwst-d0.2-s1"
    text = capsys.readouterr().out
    assert "tensorboard --logdir runs" in text and f"{first.name}/checkpoints/last.ckpt" in text
    assert main(["fit", str(first / "config.yaml")]) == 0
    second = first.with_name(first.name + "-2")
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    results = [json.loads((run / "result.json").read_text()) for run in (first, second)]
    timing = {"seconds", "seconds_per_round", "process"}
    without_times = [{key: value for key, value in result.items() if key not in timing} for result in results]
    assert without_times[0] == without_times[1]
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validate_repeats_the_last_metrics(capsys, tmp_path, monkeypatch):
    assert main(["fit", "pdst", *TINY, "run_dir=here"]) == 0
    accuracy = json.loads((tmp_path / "here" / "result.json").read_text())["accuracy"]
    capsys.readouterr()
    assert main(["validate", "here/checkpoints/last.ckpt", "data.eval_batch_size=7"]) == 0
    table = capsys.readouterr().out
    assert percent(accuracy) in table and "val_loss" in table
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["validate", "here/checkpoints/last.ckpt"]) == 0
    assert capsys.readouterr().out.startswith("here/checkpoints/last.ckpt\n")
    assert "nowhere.ckpt" in refusal(capsys, "nowhere.ckpt", command="validate")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    line = refusal(capsys, "foreign.ckpt", command="validate")
    assert line.startswith("ckpt_path: ") and "foreign.ckpt" in line


def test_a_run_goes_on_from_its_checkpoint_as_if_never_stopped(capsys, tmp_path):
    assert main(["fit", "nst", *TINY, "run_dir=uninterrupted", "rounds=3"]) == 0
    assert main(["fit", "nst", *TINY, "run_dir=parts"]) == 0
    more = ["ckpt_path=parts/checkpoints/last.ckpt", "run_dir=parts", "rounds=3"]
    assert main(["fit", "parts/config.yaml", *more]) == 0
    states = [read_checkpoint(f"{run}/checkpoints/last.ckpt")["flash_pl"] for run in ("uninterrupted", "parts")]
    assert torch.equal(states[0]["server"]["weights"], states[1]["server"]["weights"])
    with open("parts/metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    capsys.readouterr()
    line = refusal(capsys, "parts/config.yaml", *more, "model.hidden=8")
    assert line.startswith("model.init_args.hidden: 8 differs") and "model.init_args.hidden=16" in line
    line = refusal(capsys, "parts/config.yaml", *more, "seed=9")
    assert line.startswith("data.init_args.seed, seed: 9, 9 differ") and "data.init_args.seed=1, seed=1" in line
    assert OmegaConf.load("parts/config.yaml").rounds == 3


def test_a_table_that_cannot_be_read_ends_a_resume_before_anything_is_removed(capsys, tmp_path):
    assert main(["fit", "pdst", *TINY, "run_dir=here"]) == 0
    table = tmp_path / "here" / "metrics.csv"
    table.write_text(table.read_text().replace(",", ";"))
    capsys.readouterr()
    assert main(["fit", "pdst", *TINY, "run_dir=here", "ckpt_path=last", "rounds=3"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("flash-pl: error: run_dir: ") and "here/metrics.csv" in last and "column round" in last
    assert (tmp_path / "here" / "result.json").exists()


def test_a_class_in_the_working_directory_that_logs_no_accuracy(capsys, tmp_path):
    (tmp_path / "beside_me.py").write_text(
        "import torch\nimport lightning as L\n"
        "class Mine(L.LightningModule):\n"
        "    def __init__(self, lr):\n        super().__init__()\n        self.fc = torch.nn.Linear(64, 4)\n"
        "        self.rate = lr\n"
        "    def training_step(self, batch, index):\n"
        "        return torch.nn.functional.cross_entropy(self.fc(batch[0].flatten(1)), batch[1])\n"
        "    def validation_step(self, batch, index):\n        pass\n"
        "    def configure_optimizers(self):\n        return torch.optim.SGD(self.parameters(), self.rate)\n"
    )
    arguments = [argument for argument in TINY if not argument.startswith("model")]
    assert main(["fit", "pdst", *arguments, "model.class_path=beside_me.Mine", "run_dir=here"]) == 0
    assert "not logged" in capsys.readouterr().out
    result = json.loads((tmp_path / "here" / "result.json").read_text())
    assert result["accuracy"] is None and result["model"] == "Mine" and list(result["layer_density"]) == ["fc"]


def test_a_module_that_cannot_be_federated_is_one_line(capsys, tmp_path):
    (tmp_path / "stubborn.py").write_text(
        "import torch\nimport lightning as L\n"
        "class Manual(L.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = torch.nn.Linear(64, 4)\n"
        "        self.automatic_optimization = False\n"
        "class Two(L.LightningModule):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = torch.nn.Linear(64, 4)\n"
        "    def configure_optimizers(self):\n"
        "        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]\n"
        "    def training_step(self, batch, index):\n        return self.fc(batch[0].flatten(1)).sum()\n"
    )
    arguments = [argument for argument in TINY if not argument.startswith("model")]
    assert "manual optimization" in refusal(capsys, "pdst", *arguments, "model.class_path=stubborn.Manual")
    assert "exactly one optimizer" in refusal(capsys, "pdst", *arguments, "model.class_path=stubborn.Two")
    assert not (tmp_path / "runs").exists()


def test_configs_help_and_version(capsys):
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    for word in ("jmwst", "fashion_mnist", "mnistnet", "truncating", "data", "model"):
        assert word in listed
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("lr_horizon", "[1000]", "trainer.eval_every", "flash-pl fit jmwst data=fashion_mnist"):
        assert word in text
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("flash-pl ")


def test_an_error_with_line_breaks_is_one_line(capsys, monkeypatch):
    def broken(*arguments):
        raise ConfigError("key", "a\nb", "one\nline")

    monkeypatch.setattr("flash_pl.commands.fit.read_config", broken)
    assert refusal(capsys, "jmwst").endswith("one line\n")


def test_a_hangup_saves_the_run_also_if_nobody_reads_what_it_prints(tmp_path):
    """As when a terminal is closed: SIGHUP, and an error for everything that is printed from then on."""
    terminal, ours = os.openpty()
    command = [sys.executable, "-m", "flash_pl", "fit", "nst", *TINY, "run_dir=run", "rounds=100000"]
    process = subprocess.Popen([*command, "trainer.progress=true"], stdout=ours, stderr=ours)
    os.close(ours)
    try:
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.close(terminal)
        time.sleep(0.5)  # the progress display prints in the meantime
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 129
    finally:
        process.kill()
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["flash_pl"]
    with open("run/metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == saved["round"]
    assert not (tmp_path / "run" / ".lock").exists()


def test_sigterm_ends_with_143_and_the_run_goes_on(tmp_path):
    command = [sys.executable, "-m", "flash_pl", "fit", "nst", *TINY, "run_dir=run"]
    process = subprocess.Popen([*command, "rounds=100000"], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and err.splitlines()[-1].startswith("flash-pl: stopped by SIGTERM; ")
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["flash_pl"]
    with open("run/metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == saved["round"]
    rounds = saved["round"] + 2
    for run in ("run", "uninterrupted"):
        assert main(["fit", "nst", *TINY, f"run_dir={run}", f"rounds={rounds}", "ckpt_path=last"]) == 0
    ends = [read_checkpoint(f"{run}/checkpoints/last.ckpt")["flash_pl"]["server"] for run in ("run", "uninterrupted")]
    assert torch.equal(ends[0]["weights"], ends[1]["weights"]) and torch.equal(ends[0]["mask"], ends[1]["mask"])


def test_a_client_that_fails_ends_with_3_and_a_traceback_in_a_file(capsys, tmp_path):
    (tmp_path / "fragile.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc, self.calls = nn.Linear(64, 4), 0\n"
        "    def forward(self, images):\n        self.calls += 1\n        assert self.calls < 5, 'tired'\n"
        "        return self.fc(images.flatten(1))\n"
    )
    arguments = [argument for argument in TINY if not argument.startswith("model")]
    assert main(["fit", "pdst", *arguments, "model.class_path=fragile.Net", "run_dir=run"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "round 1: AssertionError: tired" in err and "fragile.py:8" in err
    assert "run/errors.log" in err and "Traceback" in (tmp_path / "run" / "errors.log").read_text()
    assert read_checkpoint("run/checkpoints/last.ckpt")["flash_pl"]["round"] == 0


def test_too_little_disk_is_refused_before_anything_is_trained(capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    line = refusal(capsys, "pdst", *TINY)
    assert line.startswith("run_dir: ") and "0 MiB free" in line


NOTING = """
from flash_pl.callbacks import Callback

class Rounds(Callback):
    def __init__(self, path: str = "rounds.txt"):
        self.path = path

    def on_round_end(self, loop, row):
        with open(self.path, "a") as file:
            file.write(f"{loop.round}\\n")
"""


def test_a_callback_in_the_working_directory_joins_a_run_and_a_resumed_run_may_have_others(tmp_path, capsys):
    (tmp_path / "noting.py").write_text(NOTING)
    assert main(["fit", "pdst", *TINY, "run_dir=run", "callbacks=[noting.Rounds]"]) == 0
    assert (tmp_path / "rounds.txt").read_text().split() == ["1", "2"]
    other = "callbacks=[{class_path: noting.Rounds, init_args: {path: other.txt}}]"
    assert main(["fit", "run/config.yaml", "run_dir=run", "ckpt_path=last", "rounds=3", other]) == 0
    assert (tmp_path / "other.txt").read_text().split() == ["3"]
    assert main(["validate", "run/checkpoints/last.ckpt", "--trust"]) == 0
    capsys.readouterr()
    assert refusal(capsys, "pdst", *TINY, "callbacks=[noting.Round]").startswith("callbacks[0].class_path: ")
    assert main(["sweep", "pdst", *TINY, "callbacks=[noting.Rounds]", "--out", "sweep"]) == 0
    assert (tmp_path / "rounds.txt").read_text().split() == ["1", "2", "1", "2"]


def test_the_config_of_a_run_ends_with_what_the_user_gave_and_starts_another_scheduler(tmp_path):
    assert main(["fit", "dense", *TINY, "lr=0.2", "run_dir=run"]) == 0
    text = (tmp_path / "run" / "config.yaml").read_text()
    comment, _, given = text.rpartition("\ngiven:\n")
    assert comment.splitlines()[-1].startswith("# ") and "lr: 0.2" in given and "run_dir" not in given
    assert "init: torch" in text and "init:" not in given  # dense.yaml brings it
    assert main(["fit", "run/config.yaml", "scheduler=pdst", "run_dir=next"]) == 0
    config = OmegaConf.load("next/config.yaml")
    assert config.model.init_args.init == "lecun" and config.lr == 0.2 and config.given.scheduler.name == "pdst"
    assert main(["fit", "next/config.yaml", "run_dir=again"]) == 0
    assert (tmp_path / "again" / "config.yaml").read_text() == (tmp_path / "next" / "config.yaml").read_text()


def test_every_key_is_in_the_help_of_fit(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in KEYS:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert len(line.split()) > 2 and len(line) <= 120
