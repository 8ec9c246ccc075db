"""metrics.csv, checkpoints, logged groups."""

import csv
import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric import loggers as fabric_loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flash_pl import NST, PDST, ConfigError, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Board, Checkpoint, History, MetricsCSV, ProgressBar
from flash_pl.callbacks.csv import RoundTable
from flash_pl.checkpoint import read_checkpoint
from flash_pl.errors import RunError


def trainer(tmp_path, scheduler=None, rounds=3, more=(), **settings):
    callbacks = [MetricsCSV(tmp_path), Checkpoint(tmp_path, every=2, extra={"note": "x"}), Board(), ProgressBar()]
    scheduler = scheduler or PDST()
    return FederatedTrainer(
        scheduler, density=0.2, rounds=rounds, cohort=2, accelerator="cpu", callbacks=[*callbacks, *more], **settings
    )


def table(tmp_path):
    with open(tmp_path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_round_also_after_a_resume(unaware, tiny_data, tmp_path):
    trainer(tmp_path).fit(unaware(), tiny_data)
    first = table(tmp_path)
    assert [row["round"] for row in first] == ["1", "2", "3"]
    trainer(tmp_path, rounds=5).fit(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")
    rows = table(tmp_path)
    assert [row["round"] for row in rows] == ["1", "2", "3", "4", "5"] and rows[:3] == first


def test_a_table_from_a_spreadsheet_is_read_or_refused_in_one_line(tmp_path):
    found = RoundTable(tmp_path / "metrics.csv")
    found.path.write_bytes("\ufeffround,val_acc\r\n1.0,0.5\r\n2,\r\n3".encode())
    found.begin(2)
    assert found.rows == [{"round": "1", "val_acc": "0.5"}, {"round": "2", "val_acc": ""}]
    latin = "round,val_acc,größe\n1,0.5,1\n".encode("latin-1")
    for content in (
        b"round;val_acc\n1;0,5\n",
        latin,
        b"round,val_acc\n1,0.5\n2\n",
        b"round,a\n1,x\n",
        b"\n",
        b"round\nx",
    ):
        found.path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"run_dir: '.*metrics.csv' is not allowed.*with commas") as caught:
            found.begin(2)
        assert "\n" not in str(caught.value)


def test_last_goes_on_from_the_newest_checkpoint_or_starts_afresh(unaware, tiny_data, tmp_path, capsys):
    folder = tmp_path / "new" / "run"
    with pytest.raises(ConfigError, match="a run that has saved a checkpoint"):
        trainer(folder).validate(unaware(), tiny_data, ckpt_path="last")
    trainer(folder).fit(unaware(), tiny_data, ckpt_path="last")
    assert "no checkpoint" in capsys.readouterr().err
    (folder / "last.ckpt").write_bytes(b"torn")
    loop = trainer(folder, rounds=5).fit(unaware(), tiny_data, ckpt_path="last")
    said = capsys.readouterr().err
    assert "last.ckpt' is not allowed" in said and f"going on from {folder}" in said
    again = trainer(folder, rounds=5).validate(unaware(), tiny_data, ckpt_path="last")
    assert again["val_acc"] == loop.metrics["val_acc"]
    assert loop.round == 5 and [row["round"] for row in table(folder)] == ["1", "2", "3", "4", "5"]
    alone = FederatedTrainer(PDST(), rounds=1, cohort=2, accelerator="cpu")
    with pytest.raises(ConfigError, match="a Checkpoint among the callbacks"):
        alone.fit(unaware(), tiny_data, ckpt_path="last")


def test_a_checkpoint_opens_in_lightning_and_validates(unaware, tiny_data, tmp_path):
    loop = trainer(tmp_path, NST()).fit(unaware(), tiny_data)
    path = tmp_path / "last.ckpt"
    plain = unaware.load_from_checkpoint(path)
    assert type(plain) is unaware
    for slot in loop.server.layout.layers:
        assert torch.equal(dict(plain.named_parameters())[slot.name], slot.view(loop.server.masked()))
    stock = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    metrics = stock.validate(plain, datamodule=tiny_data, verbose=False)[0]
    assert metrics["val_acc"] == pytest.approx(loop.metrics["val_acc"])
    again = trainer(tmp_path / "other", NST()).validate(unaware(), tiny_data, ckpt_path=path)
    assert again["val_acc"] == loop.metrics["val_acc"] and again["val_acc_union"] == loop.metrics["val_acc_union"]
    assert read_checkpoint(path)["flash_pl"]["extra"] == {"note": "x"}


def test_torn_foreign_and_missing_checkpoints_are_one_clear_error(unaware, tiny_data, tmp_path):
    trainer(tmp_path).fit(unaware(), tiny_data)
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes((tmp_path / "last.ckpt").read_bytes()[:2000])
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    for path, words in [(torn, "whole checkpoint"), (foreign, "foreign"), (tmp_path / "none", "No such file")]:
        with pytest.raises(ConfigError, match=words):
            read_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save(Hostile(), tmp_path / "hostile.ckpt")
    with pytest.raises(ConfigError, match="whole checkpoint"):
        read_checkpoint(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("callbacks", [[], [Board()]], ids=["added", "given"])
def test_loggers_get_grouped_scalars(callbacks, unaware, tiny_data):
    class Recorder(L.pytorch.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.seen = []

        def log_metrics(self, metrics, step=None):
            self.seen.append((step, metrics))

    logger = Recorder()
    settings = {"density": 0.2, "rounds": 3, "cohort": 2, "accelerator": "cpu"}
    FederatedTrainer(PDST(), callbacks=callbacks, logger=logger, **settings).fit(unaware(), tiny_data)
    assert [step for step, _ in logger.seen] == [1, 2, 3]
    expected = {"accuracy/val_acc", "loss/val_loss", "mask/mismatch_clients", "layer_density/net.0"}
    assert all(expected <= metrics.keys() for _, metrics in logger.seen)


@pytest.mark.parametrize("make", [fabric_loggers.CSVLogger, L.pytorch.loggers.CSVLogger])
def test_a_logger_that_keeps_its_rows_writes_them_also_for_a_second_run(make, unaware, tiny_data, tmp_path):
    again = trainer(tmp_path, logger=make(tmp_path / "csv"))
    for runs in (1, 2):
        again.fit(unaware(), tiny_data)
        (path,) = tmp_path.glob("csv/*/*/metrics.csv")
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == runs * [1, 2, 3]
        assert all(float(row["accuracy/val_acc"]) >= 0 for row in rows)


@pytest.mark.parametrize("make", [fabric_loggers.TensorBoardLogger, L.pytorch.loggers.TensorBoardLogger])
def test_tensorboard_goes_on_in_a_second_run(make, unaware, tiny_data, tmp_path):
    logger = make(tmp_path / "board")
    again = trainer(tmp_path, logger=logger)
    again.fit(unaware(), tiny_data)
    again.rounds = 4
    again.fit(unaware(), tiny_data, ckpt_path="last")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("accuracy/val_acc")] == [1, 2, 3, 4]


def test_a_run_that_fails_leaves_its_loggers_rows(unaware, tiny_data, tmp_path):
    class Broken:
        def on_round_end(self, loop, row):
            if loop.round == 2:
                raise RunError("full")

    class Silent(fabric_loggers.CSVLogger):
        def finalize(self, status):
            raise OSError(f"{status} too")

    loggers = [Silent(tmp_path / "silent"), fabric_loggers.CSVLogger(tmp_path / "csv")]
    with pytest.warns(UserWarning, match="Silent could not write its last values: failed too"):
        with pytest.raises(RunError, match="full"):
            trainer(tmp_path, more=[Broken()], logger=loggers).fit(unaware(), tiny_data)
    (path,) = tmp_path.glob("csv/*/*/metrics.csv")
    assert len(path.read_text().splitlines()) == 3


def test_a_history_has_a_value_a_round_also_after_a_resume(unaware, tiny_data, tmp_path):
    history, evaluate = History(), EvaluationSchedule(eval_every=2)
    settings = {"density": 0.2, "cohort": 2, "accelerator": "cpu", "evaluate": evaluate}
    first = FederatedTrainer(PDST(), rounds=3, callbacks=[history, Checkpoint(tmp_path, every=2)], **settings)
    loop = first.fit(unaware(), tiny_data)
    assert history["round"] == [1, 2, 3] and history["val_acc"][2] == loop.metrics["val_acc"]
    assert math.isnan(history["val_acc"][0]) and not math.isnan(history["val_acc"][1])
    with pytest.raises(KeyError):
        history["nothing"]
    second = FederatedTrainer(PDST(), rounds=4, callbacks=[history], **settings)
    second.fit(unaware(), tiny_data, ckpt_path=tmp_path / "previous.ckpt")
    assert history["round"] == [1, 2, 3, 4]


class Opaque:
    """What cannot be read again without running code."""


def test_hyperparameters_that_cannot_be_read_again_do_not_spoil_a_checkpoint(unaware, tiny_data, tmp_path):
    class Module(unaware):
        def __init__(self, lr=0.1, act=None, path=None):
            super().__init__(lr)
            self.save_hyperparameters()

    with pytest.warns(match="checkpoints do not hold the hyperparameter act, a ReLU"):
        trainer(tmp_path).fit(Module(np.float64(0.05), torch.nn.ReLU(), Opaque()), tiny_data)
    held = read_checkpoint(tmp_path / "last.ckpt")["hyper_parameters"]
    assert held["lr"] == 0.05 and type(held["lr"]) is float and not {"act", "path"} & set(held)
    assert Module.load_from_checkpoint(tmp_path / "last.ckpt").hparams.lr == 0.05


def test_the_best_of_one_metric_is_no_measure_of_another(unaware, tiny_data, tmp_path):
    def fit(rounds, monitor, mode, **how):
        callback = Checkpoint(tmp_path, monitor=monitor, mode=mode)
        run = FederatedTrainer(PDST(), density=0.2, rounds=rounds, cohort=2, accelerator="cpu", callbacks=[callback])
        return run.fit(unaware(), tiny_data, **how), callback

    _, first = fit(2, "val_acc", "max")
    _, again = fit(3, "val_acc", "max", ckpt_path="last")
    assert again.best >= first.best
    loop, other = fit(4, "val_loss", "min", ckpt_path="last")
    assert other.best == loop.metrics["val_loss"]
    assert read_checkpoint(tmp_path / "best.ckpt")["flash_pl"]["round"] == 4


def test_a_metric_that_is_not_logged_is_named(unaware, tiny_data, tmp_path):
    callback = Checkpoint(tmp_path, monitor="val_ac")
    run = FederatedTrainer(PDST(), density=0.2, rounds=2, cohort=2, accelerator="cpu", callbacks=[callback])
    with pytest.warns(UserWarning, match="no best.ckpt: monitor=val_ac .* val_acc") as said:
        run.fit(unaware(), tiny_data)
    assert len([one for one in said if "best.ckpt" in str(one.message)]) == 1
    assert not (tmp_path / "best.ckpt").exists()
