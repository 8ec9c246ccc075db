"""A run ends once its metric no longer improves, in the same round whether it was interrupted or not."""

import json
import math

import pytest

from flash_pl import PDST, ConfigError, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint, EarlyStopping
from flash_pl.cli import main


class Scripted(Callback):
    """Gives the rounds the values of a metric ``score``; None gives a round none."""

    def __init__(self, values):
        self.values = values

    def on_round_end(self, loop, row):
        if self.values[loop.round - 1] is not None:
            row["score"] = self.values[loop.round - 1]


VALUES = [0.1, 0.5, 0.45, 0.52, 0.51, math.nan, 0.5, 0.6, 0.7, 0.7]


def run(module, data, *, rounds=10, values=VALUES, folder=None, stopping=None, callbacks=(), **fit):
    stopping = [stopping] if stopping else []
    checkpoints = [Checkpoint(folder, every=1)] if folder else []
    callbacks = [*checkpoints, Scripted(values), *stopping, *callbacks]
    trainer = FederatedTrainer(PDST(), density=0.2, rounds=rounds, cohort=1, accelerator="cpu", callbacks=callbacks)
    return trainer.fit(module, data, **fit)


STOPS = [
    (EarlyStopping("score", patience=3), 7),
    (EarlyStopping("score", patience=4), 10),
    (EarlyStopping("score", patience=3, min_delta=0.05), 5),
    (EarlyStopping("score", "min", patience=2), 3),
]


@pytest.mark.parametrize(("stopping", "last"), STOPS)
def test_the_run_ends_after_evaluations_without_improvement(stopping, last, unaware, tiny_data):
    for _ in range(2):  # the second run starts from nothing
        loop = run(unaware(), tiny_data, stopping=stopping)
        assert loop.round == last and bool(loop.stop_reason) == (last < 10)
        assert ("score" in loop.stop_reason) == (last < 10)


def test_rounds_without_the_metric_do_not_count(unaware, tiny_data):
    values = [0.5, None, 0.4, None, None, 0.3, 0.9, 0.9, 0.9, 0.9]
    assert run(unaware(), tiny_data, values=values, stopping=EarlyStopping("score", patience=2)).round == 6


@pytest.mark.parametrize("interrupted", [3, 6])
def test_a_resumed_run_stops_in_the_same_round(interrupted, unaware, tiny_data, tmp_path):
    def stopping():
        return EarlyStopping("score", patience=3)

    assert run(unaware(), tiny_data, rounds=interrupted, folder=tmp_path, stopping=stopping()).round == interrupted
    loop = run(unaware(), tiny_data, folder=tmp_path, stopping=stopping(), ckpt_path="last")
    assert loop.round == 7
    again = run(unaware(), tiny_data, folder=tmp_path, stopping=stopping(), ckpt_path="last")
    assert again.round == 7 and again.stop_reason == loop.stop_reason


def test_a_stopped_run_goes_on_with_more_patience_or_without_the_callback(unaware, tiny_data, tmp_path):
    for folder, stopping, last in ((tmp_path / "more", EarlyStopping("score", patience=4), 10), (tmp_path, None, 10)):
        assert run(unaware(), tiny_data, folder=folder, stopping=EarlyStopping("score", patience=3)).round == 7
        assert run(unaware(), tiny_data, folder=folder, stopping=stopping, ckpt_path="last").round == last


def test_another_metric_starts_from_nothing(unaware, tiny_data, tmp_path):
    run(unaware(), tiny_data, rounds=6, folder=tmp_path, stopping=EarlyStopping("score", patience=3))
    stopping = EarlyStopping("score", "min", patience=3)
    assert run(unaware(), tiny_data, folder=tmp_path, stopping=stopping, ckpt_path="last").round == 10


def test_a_metric_that_no_round_has_is_one_sentence_with_all_names(unaware, tiny_data):
    with pytest.raises(ConfigError) as error:
        run(unaware(), tiny_data, stopping=EarlyStopping("val_f1"))
    text = str(error.value)
    assert error.value.key == "monitor" and "'val_f1'" in text and "val_acc" in text and "density" in text


def test_a_metric_of_later_rounds_is_waited_for(unaware, tiny_data):
    def fit(monitor, schedule, rounds):
        callbacks = [EarlyStopping(monitor, patience=1)]
        settings = {"rounds": rounds, "cohort": 1, "accelerator": "cpu", "evaluate": schedule}
        return FederatedTrainer(PDST(), density=0.2, callbacks=callbacks, **settings).fit(unaware(), tiny_data)

    for monitor in ("val_acc_clients", "val_loss"):
        fit(monitor, EvaluationSchedule(eval_every=3, eval_clients_every=3), 3)
    with pytest.raises(ConfigError, match="val_f1"):
        fit("val_f1", EvaluationSchedule(eval_every=2), 4)


@pytest.mark.parametrize(
    ("arguments", "key"), [({"mode": "most"}, "mode"), ({"patience": 0}, "patience"), ({"min_delta": -1}, "min_delta")]
)
def test_arguments_that_cannot_work(arguments, key):
    with pytest.raises(ConfigError) as error:
        EarlyStopping(**arguments)
    assert error.value.key == key


@pytest.mark.slow
def test_patience_of_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["data=synthetic", "data.samples=60", "data.test_samples=20", "model=digits_cnn", "model.hidden=16"]
    tiny += ["clients=4", "cohort=2", "rounds=9", "density=0.2", "trainer.accelerator=cpu", "trainer.progress=false"]
    command = ["fit", "pdst", *tiny, "trainer.monitor=density", "trainer.patience=2", "run_dir=run"]
    assert main(command) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["rounds"] == 3 and "density" in result["stopped"]
    assert result["stopped"] in " ".join(capsys.readouterr().out.split())
    assert main([*command, "trainer.patience=4", "ckpt_path=last"]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["rounds"] == 5
    assert main([*command[:-1], "trainer.patience=0", "run_dir=other"]) == 2
    assert "error: trainer.patience: 0 " in capsys.readouterr().err
