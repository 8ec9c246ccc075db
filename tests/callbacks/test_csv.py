"""metrics.csv, consensus.csv (also in test_tensorboard.py), and the history in memory."""

import csv
import math

import pytest

from flash_pl import PDST, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Checkpoint, History


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_one_row_per_round_also_after_a_resume(make_trainer, unaware, tiny_data, tmp_path):
    make_trainer(tmp_path).fit(unaware(), tiny_data)
    first = read(tmp_path / "metrics.csv")
    assert [row["round"] for row in first] == ["1", "2", "3"]
    make_trainer(tmp_path, rounds=5).fit(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt")
    rows = read(tmp_path / "metrics.csv")
    assert [row["round"] for row in rows] == ["1", "2", "3", "4", "5"] and rows[:3] == first


def test_a_history_has_a_value_per_round_also_after_a_resume(unaware, tiny_data, tmp_path):
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
