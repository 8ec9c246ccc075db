"""When a run is saved and resumed, and what a checkpoint holds."""

import csv

import lightning as L
import numpy as np
import pytest
import torch

from flash_pl import NST, PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.sparsity import SparsityBudget, Tier


def trainer(folder, *callbacks, extra=None, **settings):
    settings = {"density": 0.3, "rounds": 2, "cohort": 2, "accelerator": "cpu"} | settings
    return FederatedTrainer(PDST(), callbacks=[Checkpoint(folder, every=1, extra=extra), *callbacks], **settings)


# Resuming


def test_last_resumes_from_the_newest_checkpoint_or_starts_anew(make_trainer, unaware, tiny_data, tmp_path, capsys):
    folder = tmp_path / "new" / "run"
    with pytest.raises(ConfigError, match="^ckpt_path: "):
        make_trainer(folder).validate(unaware(), tiny_data, ckpt_path="last")
    make_trainer(folder).fit(unaware(), tiny_data, ckpt_path="last")
    assert "no checkpoint" in capsys.readouterr().err
    (folder / "last.ckpt").write_bytes(b"torn")
    loop = make_trainer(folder, rounds=5).fit(unaware(), tiny_data, ckpt_path="last")
    printed = capsys.readouterr().err
    assert f"warning: ckpt_path: '{folder / 'last.ckpt'}'" in printed and f"going on from {folder}" in printed
    again = make_trainer(folder, rounds=5).validate(unaware(), tiny_data, ckpt_path="last")
    assert again["val_acc"] == loop.metrics["val_acc"]
    with open(folder / "metrics.csv", newline="") as file:
        rounds = [row["round"] for row in csv.DictReader(file)]
    assert loop.round == 5 and rounds == ["1", "2", "3", "4", "5"]


def test_last_needs_a_checkpoint_callback(unaware, tiny_data):
    alone = FederatedTrainer(PDST(), rounds=1, cohort=2, accelerator="cpu")
    with pytest.raises(ConfigError, match="last .*Checkpoint") as error:
        alone.fit(unaware(), tiny_data, ckpt_path="last")
    assert error.value.key == "ckpt_path"


def test_last_is_never_a_checkpoint_of_an_earlier_run(unaware, tiny_data, tmp_path):
    class Break(Callback):
        def on_round_end(self, loop, row):
            if row["round"] == 2:
                raise KeyboardInterrupt

    def module():
        torch.manual_seed(0)
        return unaware()

    longer = trainer(tmp_path, rounds=4).fit(module(), tiny_data)
    with pytest.warns(UserWarning, match="whose checkpoints are now .*earlier-"), pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, Break(), rounds=4, seed=1).fit(module(), tiny_data)
    loop = trainer(tmp_path, rounds=4, seed=1).fit(module(), tiny_data, ckpt_path="last")
    alone = trainer(tmp_path / "alone", rounds=4, seed=1).fit(module(), tiny_data)
    assert loop.metrics["val_loss"] == alone.metrics["val_loss"] != longer.metrics["val_loss"]
    assert sorted(file.name for file in tmp_path.glob("earlier-*")) == [
        "earlier-best.ckpt",
        "earlier-last.ckpt",
        "earlier-previous.ckpt",
    ]


class Stop(Callback):
    def on_round_end(self, loop, row):
        loop.should_stop = np.float64(row["round"]) >= 2


NUMPY_NUMBERS = [
    {"density": np.float64(0.3)},
    {"density": np.float32(0.3)},
    {"seed": np.int64(1), "rounds": np.int64(2), "cohort": np.int32(2), "local_epochs": np.int64(1)},
    {"density": 0.3, "budget": SparsityBudget([Tier(np.float64(0.1), 0.5), Tier(np.float64(0.3), np.float64(0.5))])},
]


@pytest.mark.parametrize("settings", NUMPY_NUMBERS)
def test_a_run_with_numbers_of_numpy_is_resumed(settings, unaware, tiny_data, tmp_path):
    trainer(tmp_path, Stop(), **settings).fit(unaware(), tiny_data)
    loop = trainer(tmp_path, **settings | {"rounds": 3}).fit(unaware(), tiny_data, ckpt_path="last")
    assert loop.round == 2 and loop.done  # the checkpoint says that the run was stopped


# The content


def test_a_checkpoint_opens_in_lightning_and_validates(make_trainer, unaware, tiny_data, tmp_path):
    loop = make_trainer(tmp_path, NST()).fit(unaware(), tiny_data)
    path = tmp_path / "last.ckpt"
    plain = unaware.load_from_checkpoint(path)
    assert type(plain) is unaware
    for layer in loop.server.layout.layers:
        assert torch.equal(dict(plain.named_parameters())[layer.name], layer.view(loop.server.masked()))
    stock = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    metrics = stock.validate(plain, datamodule=tiny_data, verbose=False)[0]
    assert metrics["val_acc"] == pytest.approx(loop.metrics["val_acc"])
    again = make_trainer(tmp_path / "other", NST()).validate(unaware(), tiny_data, ckpt_path=path)
    assert again["val_acc"] == loop.metrics["val_acc"] and again["val_acc_union"] == loop.metrics["val_acc_union"]
    assert read_checkpoint(path)["flash_pl"]["extra"] == {"note": "x"}


class Remember(Callback):
    """Adds a value to the checkpoint."""

    def __init__(self, value):
        self.value = value

    def on_save_checkpoint(self, loop, state):
        state["remembered"] = {"deep": self.value}


def test_values_that_cannot_be_read_back_are_refused_before_a_file_is_written(unaware, tiny_data, tmp_path):
    with pytest.raises(ConfigError, match="float64") as error:
        trainer(tmp_path, Remember(np.float64(1))).fit(unaware(), tiny_data)
    assert error.value.key == "checkpoint.remembered.deep"
    with pytest.raises(ConfigError, match="PosixPath|WindowsPath") as error:
        trainer(tmp_path, extra={"where": tmp_path}).fit(unaware(), tiny_data)
    assert error.value.key == "checkpoint.flash_pl.extra.where"
    assert not list(tmp_path.iterdir())
    trainer(tmp_path, Remember([torch.ones(2), 1.0, "x", None])).fit(unaware(), tiny_data)


class Opaque:
    """Cannot be read back without running code."""


def test_hyperparameters_that_cannot_be_read_back_are_left_out(make_trainer, unaware, tiny_data, tmp_path):
    class Module(unaware):
        def __init__(self, lr=0.1, act=None, path=None):
            super().__init__(lr)
            self.save_hyperparameters()

    with pytest.warns(match="checkpoints do not hold the hyperparameter act, a ReLU"):
        make_trainer(tmp_path).fit(Module(np.float64(0.05), torch.nn.ReLU(), Opaque()), tiny_data)
    saved = read_checkpoint(tmp_path / "last.ckpt")["hyper_parameters"]
    assert saved["lr"] == 0.05 and type(saved["lr"]) is float and not {"act", "path"} & set(saved)
    assert Module.load_from_checkpoint(tmp_path / "last.ckpt").hparams.lr == 0.05


# The best round


def test_the_best_value_of_one_metric_is_not_compared_with_another_metric(unaware, tiny_data, tmp_path):
    def fit(rounds, monitor, mode, **keywords):
        callback = Checkpoint(tmp_path, monitor=monitor, mode=mode)
        run = FederatedTrainer(PDST(), density=0.2, rounds=rounds, cohort=2, accelerator="cpu", callbacks=[callback])
        return run.fit(unaware(), tiny_data, **keywords), callback

    _, first = fit(2, "val_acc", "max")
    _, again = fit(3, "val_acc", "max", ckpt_path="last")
    assert again.best >= first.best
    loop, other = fit(4, "val_loss", "min", ckpt_path="last")
    assert other.best == loop.metrics["val_loss"]
    assert read_checkpoint(tmp_path / "best.ckpt")["flash_pl"]["round"] == 4


def test_a_monitor_that_is_not_logged_is_named_once(unaware, tiny_data, tmp_path):
    callback = Checkpoint(tmp_path, monitor="val_ac")
    run = FederatedTrainer(PDST(), density=0.2, rounds=2, cohort=2, accelerator="cpu", callbacks=[callback])
    with pytest.warns(UserWarning, match="no best.ckpt: monitor=val_ac .*val_acc") as warnings:
        run.fit(unaware(), tiny_data)
    assert len([warning for warning in warnings if "best.ckpt" in str(warning.message)]) == 1
    assert not (tmp_path / "best.ckpt").exists()


def test_another_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'best'") as error:
        Checkpoint(tmp_path, mode="best")
    assert error.value.key == "mode"
