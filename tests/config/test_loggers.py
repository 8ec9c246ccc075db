"""The key ``logger``: names, classes, what is refused, and what loggers get that the user does not set."""

from pathlib import Path

import pytest
from lightning.pytorch import loggers as pl_loggers

from flash_pl import ConfigError
from flash_pl.config import build_loggers, compose, read_config
from flash_pl.config.shipped import names


def composed(*arguments, **config):
    return compose(read_config("pdst") | config, arguments)


def kinds(config):
    return [node["class_path"].rpartition(".")[2] for node in config["logger"]]


BOARD, CSV, WANDB, MLFLOW = "TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger"
VALUES = [
    ([], [BOARD]),
    (["logger=true"], [BOARD]),
    (["logger=false"], []),
    (["logger=null"], []),
    (["logger=[]"], []),
    (["logger=csv"], [CSV]),
    (["logger=tensorboard,csv,wandb,mlflow"], [BOARD, CSV, WANDB, MLFLOW]),
    (["logger=[csv, {class_path: lightning.pytorch.loggers.WandbLogger, project: x}]"], [CSV, WANDB]),
    (["logger={name: wandb, project: x}"], [WANDB]),
    (["logger=wandb", "logger.project=x"], [WANDB]),
    (["logger=lightning.pytorch.loggers.CSVLogger"], [CSV]),
]


@pytest.mark.parametrize(("arguments", "expected"), VALUES)
def test_forms_of_the_key(arguments, expected):
    config = composed(*arguments)
    assert kinds(config) == expected and compose(config) == config
    if "project" in str(arguments):
        assert config["logger"][-1]["init_args"] == {"project": "x"}
    assert kinds(composed("logger=csv", logger=["wandb", "mlflow"])) == [CSV]  # the command line wins


REFUSED = [
    ("logger=wandbb", "logger", "did you mean wandb?"),
    ("logger=csv,,wandb", "logger[1]", "''"),
    ("logger=5", "logger", "5"),
    ("logger={project: x}", "logger", "project"),
    ("logger=[csv, [wandb]]", "logger[1]", "wandb"),
]


@pytest.mark.parametrize(("argument", "key", "word"), REFUSED)
def test_values_that_name_no_logger(argument, key, word):
    with pytest.raises(ConfigError) as error:
        composed(argument)
    assert error.value.key == key and word in str(error.value)


UNBUILDABLE = [
    ("logger=torch.nn.Linear", "logger.class_path", "Logger"),
    ("logger={name: csv, folder: x}", "logger.folder", "save_dir"),
    ("logger={name: csv, flush_logs_every_n_steps: often}", "logger.flush_logs_every_n_steps", "'often'"),
]


@pytest.mark.parametrize(("argument", "key", "word"), UNBUILDABLE)
def test_loggers_that_cannot_be_built(argument, key, word, tmp_path):
    with pytest.raises(ConfigError) as error:
        build_loggers(composed(argument), tmp_path)
    assert error.value.key == key and word in str(error.value)


def test_a_class_whose_package_is_missing_or_whose_service_does_not_answer(tmp_path, monkeypatch):
    for raised, word in ((ModuleNotFoundError("pip install x"), "pip install x"), (OSError("no route"), "no route")):

        class Remote(pl_loggers.CSVLogger):
            def __init__(self, save_dir: str, error: Exception = raised):
                raise error

        monkeypatch.setattr(pl_loggers, "Remote", Remote, raising=False)
        with pytest.raises(ConfigError, match=rf"^logger: Remote .*{word}"):
            build_loggers(composed("logger=lightning.pytorch.loggers.Remote"), tmp_path)


def test_files_are_in_the_run_directory_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    board, csv = build_loggers(composed("logger=tensorboard,csv"), tmp_path)
    assert Path(board.log_dir) == tmp_path and csv.log_dir == str(tmp_path / "csv" / "version_0")
    (csv,) = build_loggers(composed(f"logger={{name: csv, save_dir: {tmp_path / 'other'}}}"), tmp_path)
    assert csv.save_dir == str(tmp_path / "other")
    pytest.importorskip("wandb", reason="W&B is not installed")
    (run,) = build_loggers(composed("logger=wandb"), tmp_path / "a-run")
    assert run.save_dir == str(tmp_path / "a-run") and run._name == "a-run" and run.name == "flash_pl"
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    (run,) = build_loggers(composed("logger=wandb"), tmp_path)
    assert run.name == "theirs"


def test_mlflow_takes_the_server_of_the_environment_or_of_the_key(tmp_path, monkeypatch):
    made = []

    class Recorded(pl_loggers.CSVLogger):
        def __init__(self, save_dir: str, tracking_uri: str = "", artifact_location: str = ""):
            super().__init__(save_dir)
            made.append((tracking_uri, artifact_location))

    monkeypatch.setattr(pl_loggers, "MLFlowLogger", Recorded)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build_loggers(composed("logger=mlflow"), tmp_path)
    build_loggers(composed("logger={name: mlflow, tracking_uri: 'http://host'}"), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    build_loggers(composed("logger=mlflow"), tmp_path)
    local = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "mlflow")
    assert made == [local, ("http://host", ""), ("http://env", "")]


def test_every_shipped_logger_can_be_named_from_python():
    from flash_pl.callbacks.arguments import NAMED

    assert sorted(NAMED) == names("logger")
