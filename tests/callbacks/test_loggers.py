"""What every logger gets, loggers by name, loggers that fail, and runs of W&B and MLflow that are continued."""

from pathlib import Path

import pytest
from lightning.fabric.utilities import rank_zero_only
from lightning.pytorch import loggers as pl_loggers
from lightning.pytorch.loggers.logger import DummyLogger

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Checkpoint, Loggers, ProgressBar, ProgressLines, TensorBoard, arguments
from flash_pl.callbacks.arguments import as_loggers
from flash_pl.cli import main

TINY = ["data=synthetic", "data.samples=60", "data.test_samples=20", "model=digits_cnn", "model.hidden=16", "clients=4"]
TINY += ["cohort=2", "rounds=2", "density=0.2", "trainer.accelerator=cpu", "trainer.progress=false"]
TINY += ["trainer.enable_model_summary=false", "run_dir=run"]


class Recorder(DummyLogger):
    """Keeps what it gets; fails at the call of the method ``fails`` in step ``at``."""

    def __init__(self, fails: str = "", at: int | None = None):
        super().__init__()
        self.fails, self.at = fails, at
        self.settings, self.metrics, self.calls = {}, [], 0

    def _call(self, name, step=None):
        self.calls += 1
        if name == self.fails and step == self.at:
            raise OSError("no network\nat all")

    def log_hyperparams(self, params):
        self._call("log_hyperparams")
        self.settings = dict(params)

    def log_metrics(self, metrics, step=None):
        self._call("log_metrics", step)
        self.metrics.append((step, metrics))

    def finalize(self, status):
        self._call("finalize")


def fit(module, data, logger, rounds=3, callbacks=(), **kwargs):
    settings = {"density": 0.2, "rounds": rounds, "cohort": 2, "accelerator": "cpu", "seed": 5}
    trainer = FederatedTrainer(PDST(), logger=logger, callbacks=callbacks, **settings)
    return trainer.fit(module, data, **kwargs)


# What every logger gets


def test_every_logger_gets_settings_rounds_and_final_metrics(unaware, tiny_data):
    loggers = [Recorder(), Recorder()]
    loop = fit(unaware(lr=0.03), tiny_data, loggers)
    for logger in loggers:
        expected = {"scheduler": "PDST", "density": 0.2, "rounds": 3, "cohort": 2, "seed": 5, "lr": 0.03, "clients": 8}
        assert expected.items() <= logger.settings.items()
        assert [step for step, _ in logger.metrics] == [1, 2, 3, 3]
        assert logger.metrics[2][1]["accuracy/val_acc"] == loop.metrics["val_acc"]
        final = logger.metrics[3][1]
        assert final["final/accuracy"] == loop.metrics["val_acc"] and final["final/MB_up"] > 0
        assert all(name.startswith("final/") for name in final)


def test_settings_that_are_no_plain_values_are_sent_as_text(unaware, tiny_data):
    class Odd(unaware):
        def __init__(self, widths, rate=None):
            super().__init__()
            self.save_hyperparameters()

    logger = Recorder()
    fit(Odd([1, 2]), tiny_data, logger, rounds=1)
    assert logger.settings["widths"] == "[1, 2]" and logger.settings["rate"] == "null"


def test_the_final_metrics_follow_the_monitor(unaware, tiny_data):
    logger = Recorder()
    loop = fit(unaware(), tiny_data, logger, rounds=1, callbacks=[Loggers(monitor="val_loss")])
    assert logger.metrics[-1][1]["final/accuracy"] == loop.metrics["val_loss"]


def test_only_tensorboards_loggers_bring_tensorboards_callback():
    def kinds(logger):
        return [type(callback) for callback in FederatedTrainer(PDST(), accelerator="cpu", logger=logger).callbacks]

    assert kinds(Recorder()) == [Loggers] and kinds("csv") == [Loggers]
    assert kinds(["csv", "tensorboard"]) == [Loggers, TensorBoard] and kinds(False) == []


# Loggers that fail


def test_a_logger_that_fails_in_a_round_is_left_out_and_the_run_goes_on(unaware, tiny_data):
    failing, working = Recorder("log_metrics", at=2), Recorder()
    with pytest.warns(UserWarning, match="Recorder has failed.* no network at all") as warned:
        assert fit(unaware(), tiny_data, [failing, working], rounds=4).round == 4
    assert len([warning for warning in warned if "no network" in str(warning.message)]) == 1
    assert [step for step, _ in failing.metrics] == [1]
    assert failing.calls == 4  # settings, two rounds, end
    assert [step for step, _ in working.metrics] == [1, 2, 3, 4, 4]


def test_a_logger_that_fails_at_the_end_does_not_lose_the_run(unaware, tiny_data):
    with pytest.warns(UserWarning, match="could not write its last values"):
        assert fit(unaware(), tiny_data, Recorder("finalize")).round == 3


def test_tensorboard_that_fails_does_not_lose_the_run(unaware, tiny_data, tmp_path):
    def full(*args, **kwargs):
        raise OSError("no space left")

    logger = pl_loggers.TensorBoardLogger(tmp_path)
    logger.experiment.add_scalar = full
    with pytest.warns(UserWarning, match="no space left"):
        assert fit(unaware(), tiny_data, logger).round == 3


@pytest.mark.parametrize("display", [ProgressBar, ProgressLines])
def test_a_logger_that_cannot_start_is_refused_before_the_first_round(display, unaware, tiny_data):
    with pytest.raises(ConfigError) as error:
        fit(unaware(), tiny_data, [Recorder(), Recorder("log_hyperparams")], callbacks=[Loggers(), display()])
    assert error.value.key == "logger" and "Recorder" in str(error.value) and "no network at all" in str(error.value)


def test_the_next_run_tries_a_failed_logger_again(unaware, tiny_data):
    logger = Recorder("log_metrics", at=2)
    trainer = FederatedTrainer(PDST(), density=0.2, rounds=3, cohort=1, accelerator="cpu", logger=logger)
    with pytest.warns(UserWarning, match="no network"):
        trainer.fit(unaware(), tiny_data)
    logger.at = None
    trainer.fit(unaware(), tiny_data)
    assert [step for step, _ in logger.metrics] == [1, 1, 2, 3, 3]


# Loggers by name


def test_names_and_switches(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert as_loggers(False) == as_loggers(None) == as_loggers([]) == []
    (board,) = as_loggers(True)
    assert type(board) is pl_loggers.TensorBoardLogger
    own = Recorder()
    assert [type(logger) for logger in as_loggers([own, "csv"])] == [Recorder, pl_loggers.CSVLogger]
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    assert [type(logger) for logger in as_loggers("csv")] == [DummyLogger]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_sentence_with_the_command(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arguments, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=rf'logger: .*{name}.* pip install "flash-pl\[{name}\]"'):
        as_loggers(name)
    assert main(["fit", "pdst", *TINY, f"logger={name}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f'pip install "flash-pl[{name}]"' in err
    assert not list(tmp_path.iterdir())


# W&B and MLflow


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """W&B without a network."""
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield wandb
    wandb.finish()


@pytest.fixture
def mlflow_client(monkeypatch, tmp_path):
    """Returns ``client(path)`` of a database of MLflow."""
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("sqlalchemy", reason="MLflow has no database here")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda path: MlflowClient(f"sqlite:///{path}")


def runs_of(client, experiment):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


@pytest.mark.slow
def test_a_resumed_run_of_the_command_line_continues_the_same_runs(wandb, mlflow_client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "pdst", *TINY, "logger=tensorboard,csv,wandb,mlflow"]
    assert main(command) == 0
    first = wandb.run.id
    assert wandb.run.name == "run" and wandb.run.project == "flash_pl"
    assert wandb.run.config["scheduler.name"] == "pdst" and wandb.run.config["trainer.accelerator"] == "cpu"
    assert wandb.run.summary["final/accuracy"] == wandb.run.summary["accuracy/val_acc"]
    wandb.finish()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # Lightning's logger sets it for all of MLflow
    assert main([*command, "rounds=3", "ckpt_path=last"]) == 0
    assert wandb.run.id == first and wandb.run.config["rounds"] == 3
    folders = [path.name for path in Path("run/wandb").glob("offline-run-*")]
    assert all(name.endswith(first) for name in folders)

    client = mlflow_client(tmp_path / "run" / "mlflow.db")
    (run,) = runs_of(client, "flash_pl")
    history = client.get_metric_history(run.info.run_id, "accuracy/val_acc")
    assert [metric.step for metric in history] == [1, 2, 3] and run.info.status == "FINISHED"
    assert run.data.params["rounds"] == "2" and run.data.tags["rounds"] == "3"  # MLflow keeps parameters as they are
    assert run.data.params["scheduler.name"] == "pdst" and "final/accuracy" in run.data.metrics
    assert list(Path("run").glob("events.out.tfevents.*"))
    assert len(list(Path("run/csv").glob("version_*/metrics.csv"))) == 2


@pytest.mark.slow
def test_a_resumed_run_from_python_continues_the_same_runs(wandb, mlflow_client, unaware, tiny_data, tmp_path):
    def run(rounds, ckpt_path=None):
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        loggers = [pl_loggers.WandbLogger(save_dir=tmp_path), pl_loggers.MLFlowLogger("mine", tracking_uri=uri)]
        callbacks = [Checkpoint(tmp_path / "checkpoints")]
        fit(unaware(), tiny_data, loggers, rounds, callbacks, ckpt_path=ckpt_path)
        ids = [logger.version for logger in loggers]
        wandb.finish()
        return ids

    first = run(1)
    assert run(2, "last") == first
    fresh = run(1)
    assert all(new != old for new, old in zip(fresh, first, strict=True))
    client = mlflow_client(tmp_path / "mlflow.db")
    assert len(runs_of(client, "mine")) == 2
    with pytest.raises(ConfigError, match="logger: MLFlowLogger cannot start"):
        client.delete_run(fresh[1])
        run(2, "last")


@pytest.mark.slow
def test_mlflow_and_wandb_by_name_from_python(wandb, mlflow_client, unaware, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(unaware(), tiny_data, ["mlflow", "wandb"], rounds=1)
    (run,) = runs_of(mlflow_client(tmp_path / "mlflow.db"), "lightning_logs")
    assert run.data.params["scheduler"] == "PDST" and wandb.run.summary["final/accuracy"] >= 0


@pytest.mark.slow
def test_a_module_sees_its_loggers_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "seeing.py").write_text(
        "from flash_pl import Classifier\nfrom flash_pl.models import LeafCNN\nSEEN = []\n"
        "class Seeing(Classifier):\n"
        "    def __init__(self):\n        super().__init__(LeafCNN(channels=(4, 8), hidden=16), classes=10)\n"
        "    def validation_step(self, batch, batch_idx):\n"
        "        self.logger.experiment.add_text('note', 'a text', 0)\n"  # also on the batch that is tried before
        "        SEEN.append([type(logger).__name__ for logger in self.loggers])\n"
        "        super().validation_step(batch, batch_idx)\n"
    )
    arguments = [argument for argument in TINY if not argument.startswith("model")]
    assert main(["fit", "pdst", *arguments, "model=seeing.Seeing", "logger=tensorboard"]) == 0
    import seeing

    assert seeing.SEEN[0] == ["DummyLogger"] and seeing.SEEN[-1] == ["TensorBoardLogger"]
