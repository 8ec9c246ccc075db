"""The trainer's arguments ``callbacks`` and ``logger``, and the end of the loggers."""

import csv

import lightning as L
import pytest
from lightning.fabric import loggers as fabric_loggers
from lightning.pytorch import callbacks as theirs

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint, History, Loggers, TensorBoard
from flash_pl.errors import RunError


class Unrelated:
    def on_round_end(self, loop, row):
        pass


class Callbacks(Callback, L.Callback):
    """A callback of flash_pl that works in Lightning's Trainer too."""


REFUSED = [
    ({"callbacks": History()}, "callbacks", ["an object of class History", "not a list"]),
    ({"callbacks": [History]}, "callbacks", ["the class History", "pass an object", "History(...)"]),
    ({"callbacks": [lambda loop, row: None]}, "callbacks", ["an object of class function", "callbacks.Callback"]),
    ({"callbacks": [Unrelated()]}, "callbacks", ["an object of class Unrelated", "callbacks.Callback"]),
    ({"callbacks": [theirs.EarlyStopping("val_acc")]}, "callbacks", ["flash_pl.callbacks.EarlyStopping"]),
    ({"callbacks": [theirs.EarlyStopping]}, "callbacks", ["the class EarlyStopping", "flash_pl.callbacks.EarlyStop"]),
    ({"callbacks": [theirs.ModelCheckpoint()]}, "callbacks", ["ModelCheckpoint", "flash_pl.callbacks.Checkpoint"]),
    ({"callbacks": [theirs.TQDMProgressBar()]}, "callbacks", ["TQDMProgressBar", "flash_pl.callbacks.ProgressBar"]),
    ({"callbacks": [theirs.RichProgressBar()]}, "callbacks", ["RichProgressBar", "flash_pl.callbacks.ProgressBar"]),
    ({"callbacks": [theirs.ModelSummary()]}, "callbacks", ["ModelSummary", "flash_pl.callbacks.RunSummary"]),
    ({"callbacks": [theirs.LearningRateMonitor()]}, "callbacks", ["LearningRateMonitor", "lr_scale"]),
    ({"callbacks": [theirs.StochasticWeightAveraging(0.1)]}, "callbacks", ["Stochastic", "round_average"]),
    ({"callbacks": [theirs.Timer()]}, "callbacks", ["Timer", "Lightning", "loop.should_stop"]),
    ({"callbacks": [fabric_loggers.CSVLogger(".")]}, "callbacks", ["CSVLogger", "logger=CSVLogger(...)"]),
    ({"logger": 5}, "logger", ["5", "Lightning logger", "mlflow"]),
    ({"logger": "tensorbord"}, "logger", ["'tensorbord'", "wandb"]),
    ({"logger": ["csv", "tensorboard,csv"]}, "logger", ["'tensorboard,csv'", "wandb"]),
    ({"enable_progress_bar": "yes"}, "enable_progress_bar", ["'yes'"]),
    ({"enable_model_summary": 1}, "enable_model_summary", ["1"]),
]


@pytest.mark.parametrize(("arguments", "key", "words"), REFUSED)
def test_other_objects_are_refused_with_a_hint(arguments, key, words):
    with pytest.raises(ConfigError) as error:
        FederatedTrainer(PDST(), accelerator="cpu", **arguments)
    assert error.value.key == key and all(word in str(error.value) for word in words)


def test_checkpoint_comes_last_and_a_logger_brings_tensorboard(tmp_path):
    given = [Checkpoint(tmp_path), Callbacks(), History()]
    logger = fabric_loggers.TensorBoardLogger(tmp_path)
    trainer = FederatedTrainer(PDST(), accelerator="cpu", callbacks=given, logger=logger)
    assert [type(callback) for callback in trainer.callbacks] == [Callbacks, History, Loggers, TensorBoard, Checkpoint]
    own = TensorBoard(), Loggers()
    assert FederatedTrainer(PDST(), accelerator="cpu", callbacks=own, logger=logger).callbacks == own


@pytest.mark.parametrize("make", [fabric_loggers.CSVLogger, L.pytorch.loggers.CSVLogger])
def test_a_logger_that_buffers_rows_writes_them_also_in_a_second_run(make, make_trainer, unaware, tiny_data, tmp_path):
    trainer = make_trainer(tmp_path, logger=make(tmp_path / "csv"))
    for runs in (1, 2):
        trainer.fit(unaware(), tiny_data)
        (path,) = tmp_path.glob("csv/*/*/metrics.csv")
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == runs * [1, 2, 3, 3]  # the last row has the final metrics
        assert all(float(row["accuracy/val_acc"] or row["final/accuracy"]) >= 0 for row in rows)


def test_a_run_that_fails_leaves_the_rows_of_its_loggers(make_trainer, unaware, tiny_data, tmp_path):
    class Broken(Callback):
        def on_round_end(self, loop, row):
            if loop.round == 2:
                raise RunError("full")

    class Failing(fabric_loggers.CSVLogger):
        def finalize(self, status):
            raise OSError(f"{status} too")

    loggers = [Failing(tmp_path / "failing"), fabric_loggers.CSVLogger(tmp_path / "csv")]
    with pytest.warns(UserWarning, match="Failing could not write its last values: failed too"):
        with pytest.raises(RunError, match="full"):
            make_trainer(tmp_path, more=(Broken(),), logger=loggers).fit(unaware(), tiny_data)
    (path,) = tmp_path.glob("csv/*/*/metrics.csv")
    assert len(path.read_text().splitlines()) == 3
