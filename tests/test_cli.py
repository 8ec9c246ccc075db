"""The command line: what it refuses and how, what a run leaves, validate, resume, listings."""

import csv
import json

import pytest
import torch
from omegaconf import OmegaConf

from flash_pl.cli import main
from flash_pl.errors import ConfigError

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]


def refusal(capsys, *arguments, command="fit"):
    """The one line that a command prints when it refuses."""
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "argument, key, expected",
    [
        ("rond=3", "rond", "did you mean rounds?"),
        ("trainer.eval_evry=1", "trainer.eval_evry", "did you mean eval_every?"),
        ("cost.bytes=1", "cost.bytes", "no keys here yet"),
        ("trainer=5", "trainer", "a mapping"),
        ("rounds=ten", "rounds", "'ten' is not allowed; expected an integer"),
        ("rounds=1.5", "rounds", "an integer"),
        ("rounds=0", "rounds", "at least 1"),
        ("local_epochs=-1", "local_epochs", "-1 is not allowed; expected an integer of at least 1"),
        ("density=0", "density", "(0, 1]"),
        ("density=1.5", "density", "1.5 is not allowed; expected a number in (0, 1]"),
        ("density=nan", "density", "(0, 1]"),
        ("cohort=21", "cohort", "at most the number of clients, 20"),
        ("alpha=0", "alpha", "above 0"),
        ("lr=-0.1", "lr", "above 0"),
        ("lr_end=inf", "lr_end", "above 0"),
        ("trainer.devices=0", "trainer.devices", "at least 1, auto, or a list"),
        ("trainer.precision=8", "trainer.precision", "one of 32-true"),
        ("trainer.accelerator=abacus", "trainer.accelerator", "one of auto"),
        ("compat=offical", "compat", "did you mean official?"),
        ("method=jmwts", "method", "did you mean jmwst?"),
        ("data=digit", "data", "did you mean digits?"),
        ("data=5", "data", "one of"),
        ("data.rot=/x", "data.rot", "one of"),
        ("data.batch_size=many", "data.batch_size", "an integer"),
        ("data.partition=idd", "data.partition", "did you mean iid?"),
        ("data.partition.alpha=-1", "data.partition.alpha", "above 0"),
        ("model=lenet", "model", "did you mean lenet5?"),
        ("model.hidden=x", "model.hidden", "an integer"),
        ("model.exclude=[conv9]", "model.exclude", "conv1, conv2, fc1, fc2"),
        ("model.exclude=conv1", "model.exclude", "a list"),
        ("model.exclude_first_last=maybe", "model.exclude_first_last", "true or false"),
        ("model.class_path=torch.nn.Linea", "model.class_path", "did you mean Linear?"),
        ("model.class_path=no_such_package.Net", "model.class_path", "No module named 'no_such_package'"),
        ("model.class_path=torch.nn.Linear", "model.in_features", "Linear needs it"),
        ("model.class_path=torch.optim.SGD", "model.class_path", "the path of a Module"),
        ("model.class_path=torchvision.models.list_models", "model.class_path", "the path of a Module"),
        ("scheduler.prune_rat=0.3", "scheduler.prune_rat", "did you mean prune_rate?"),
        ("scheduler.prune_rate=high", "scheduler.prune_rate", "'high' is not allowed; expected a number"),
        ("scheduler.prune_rate=2", "scheduler.prune_rate", "2 is not allowed; expected a number in (0, 1]"),
        ("scheduler.sensitivity.epochs=0", "scheduler.sensitivity.epochs", "at least 1"),
        ("scheduler.voter=agregate", "scheduler.voter", "did you mean aggregate?"),
        ("scheduler.voter.class_path=flash_pl.sparsity.Move", "scheduler.voter.class_path", "the path of a Vote"),
        ("scheduler.voter.rescal=scale_down", "scheduler.voter.rescal", "did you mean rescale?"),
        ("scheduler.class_path=flash_pl.server.FedAvg", "scheduler.class_path", "the path of a SparseScheduler"),
        ("scheduler.init_args=5", "scheduler.init_args", "a mapping"),
        ("aggregator.class_path=flash_pl.PDST", "aggregator.class_path", "the path of a FedAvg"),
        ("sampler.class_path=flash_pl.PDST", "sampler.class_path", "the path of a ClientSampler"),
        ("budget.tiers=5", "budget.tiers", "a list"),
        ("budget.tiers=[{density: 0.05}]", "budget.tiers[0].share", "a number"),
        ("budget.tiers=[{density: 0.05, shar: 1}]", "budget.tiers[0].shar", "did you mean share?"),
        ("budget.tiers=[{density: 0.06, share: 0.5}, {density: 0.05, share: 0.5}]", "budget.tiers", "increase"),
        ("budget.tiers=[{density: 0.1, share: 1}]", "budget", "a largest density of 0.05, the server's"),
        (
            "budget.tiers=[{density: 0.05, share: all}]",
            "budget.tiers[0].share",
            "'all' is not allowed; expected a number",
        ),
        ("budget=file", "budget.path", "FileBudget needs it"),
        ("budget=by_tier", "budget", "one of by_position, by_share, file"),
        ("budget.class_path=flash_pl.PDST", "budget.class_path", "the path of a SparsityBudget"),
        ("sampler=availability", "sampler.offline", "AvailabilitySampler needs it"),
        ("sampler={name: availability, offline: [0.5, 0.5]}", "sampler.offline", "each of the 1 tiers"),
        ("trainer.finetune_epochs=2", "trainer.finetune_epochs", "0 while eval_clients_every is null"),
        ("clients=2000", "clients", "the number of training samples, 1437"),
        ("ckpt_path=nowhere.ckpt", "ckpt_path", "a checkpoint file that can be read (No such file"),
        ("run_dir=runs/{who}", "run_dir", "{method}"),
        ("run_dir=taken/run", "run_dir", "a folder that can be written"),
        ("lr=${speed}", "lr", "Interpolation key 'speed' not found"),
        ("rounds", "argument", "key=value"),
        ("rounds=[1", "rounds", "a value in YAML"),
    ],
)
def test_a_wrong_setting_is_one_line(argument, key, expected, capsys, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    line = refusal(capsys, "jmwst", argument)
    assert line.startswith(f"{key}: ") and "is not allowed; expected " in line and expected in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("jmwts", None, "did you mean jmwst?"),
        ("data=digits", None, "one of dense, hetero_jmwst, hetero_nst, hetero_spdst, jmwst, nst, pdst, spdst"),
        ("broken.yaml", "a: [1", "a readable YAML file"),
        ("list.yaml", "- a", "a mapping of keys to values"),
        ("unknown.yaml", "method: pdst\nname: x", "a key"),
        ("nothing.yaml", "", "one of dense, jmwst, nst, pdst, spdst"),
    ],
)
def test_a_wrong_config_is_one_line(name, content, expected, capsys, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert expected in refusal(capsys, name)


def test_data_of_another_kind_and_no_model_for_unknown_data(capsys):
    line = refusal(capsys, "jmwst", "data.class_path=torch.nn.Linear", "model=lenet5")
    assert line.startswith("data.class_path: 'torch.nn.Linear'") and "the path of a FederatedData" in line
    line = refusal(capsys, "jmwst", "data.class_path=flash_pl.data.TensorData")
    assert line.startswith("model: None") and "lenet5" in line


def test_a_missing_data_folder_names_its_key(capsys):
    assert refusal(capsys, "jmwst", "data=fashion_mnist", "data.root=nowhere").startswith("data.root: 'nowhere'")


def test_missing_data_are_one_line_with_the_remedies(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))
    assert "give root" in refusal(capsys, "jmwst", "data=femnist")


def test_arguments_that_argparse_refuses_exit_with_2(capsys):
    for wrong in ([], ["fti"], ["fit"], ["validate"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert "flash-pl" in capsys.readouterr().err


def test_a_config_repeats_its_run_and_the_default_directory_is_never_replaced(capsys, tmp_path):
    assert main(["fit", "jmwst", *TINY, "scheduler.sensitivity.epochs=1"]) == 0
    first = tmp_path / "runs" / "synthetic-jmwst-d0.2-s1"
    text = capsys.readouterr().out
    assert "tensorboard --logdir runs" in text and f"{first.name}/checkpoints/last.ckpt" in text
    assert main(["fit", str(first / "config.yaml")]) == 0
    second = first.with_name(first.name + "-2")
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    one, two = (json.loads((run / "result.json").read_text()) for run in (first, second))
    timing = {"seconds", "seconds_per_round"}
    assert {key: one[key] for key in one.keys() - timing} == {key: two[key] for key in two.keys() - timing}
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validate_repeats_the_last_metrics(capsys, tmp_path):
    assert main(["fit", "pdst", *TINY, "run_dir=here"]) == 0
    accuracy = json.loads((tmp_path / "here" / "result.json").read_text())["accuracy"]
    capsys.readouterr()
    assert main(["validate", "here/checkpoints/last.ckpt", "data.eval_batch_size=7"]) == 0
    table = capsys.readouterr().out
    assert f"{accuracy:.4f}" in table and "val_loss" in table
    assert refusal(capsys, "nowhere.ckpt", command="validate").startswith("ckpt_path: 'nowhere.ckpt'")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert "a whole checkpoint of flash_pl" in refusal(capsys, "foreign.ckpt", command="validate")


def test_a_run_goes_on_from_its_checkpoint_as_if_never_stopped(capsys, tmp_path):
    assert main(["fit", "nst", *TINY, "run_dir=whole", "rounds=3"]) == 0
    assert main(["fit", "nst", *TINY, "run_dir=parts"]) == 0
    more = ["ckpt_path=parts/checkpoints/last.ckpt", "run_dir=parts", "rounds=3"]
    assert main(["fit", "parts/config.yaml", *more]) == 0
    states = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["flash_pl"] for run in ("whole", "parts")]
    assert torch.equal(states[0]["server"]["weights"], states[1]["server"]["weights"])
    with open("parts/metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    capsys.readouterr()
    assert refusal(capsys, "parts/config.yaml", *more, "model.hidden=8").startswith(
        "model.init_args.hidden: 8 is not allowed"
    )
    assert (
        refusal(capsys, "parts/config.yaml", *more, "seed=9")
        == "seed: 9 is not allowed; expected as in the checkpoint: seed=1\n"
    )
    assert OmegaConf.load("parts/config.yaml").rounds == 3


def test_a_class_beside_the_user_and_what_it_does_not_log(capsys, tmp_path):
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
    )
    arguments = [argument for argument in TINY if not argument.startswith("model")]
    assert "manual optimisation" in refusal(capsys, "pdst", *arguments, "model.class_path=stubborn.Manual")
    assert "exactly one optimiser" in refusal(capsys, "pdst", *arguments, "model.class_path=stubborn.Two")
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

    monkeypatch.setattr("flash_pl.cli.read_config", broken)
    assert refusal(capsys, "jmwst").endswith("one line\n")
