"""What a checkpoint holds can be read again, and belongs to the run that goes on from it."""

import numpy as np
import pytest
import torch

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.sparsity import SparsityBudget, Tier


def trainer(folder, *callbacks, extra=None, **settings):
    settings = {"density": 0.3, "rounds": 2, "cohort": 2, "accelerator": "cpu"} | settings
    return FederatedTrainer(PDST(), callbacks=[Checkpoint(folder, every=1, extra=extra), *callbacks], **settings)


class Stop:
    def on_round_end(self, loop, row):
        loop.should_stop = np.float64(row["round"]) >= 2


NUMPYS = [
    {"density": np.float64(0.3)},
    {"density": np.float32(0.3)},
    {"seed": np.int64(1), "rounds": np.int64(2), "cohort": np.int32(2), "local_epochs": np.int64(1)},
    {"density": 0.3, "budget": SparsityBudget([Tier(np.float64(0.1), 0.5), Tier(np.float64(0.3), np.float64(0.5))])},
]


@pytest.mark.parametrize("settings", NUMPYS)
def test_a_run_with_numpys_numbers_can_go_on(settings, unaware, tiny_data, tmp_path):
    trainer(tmp_path, Stop(), **settings).fit(unaware(), tiny_data)
    loop = trainer(tmp_path, **settings | {"rounds": 3}).fit(unaware(), tiny_data, ckpt_path="last")
    assert loop.round == 2 and loop.done  # as it was stopped


class Adds:
    def __init__(self, value):
        self.value = value

    def on_save_checkpoint(self, loop, state):
        state["mine"] = {"deep": self.value}


def test_what_could_not_be_read_again_is_refused_before_it_is_written(unaware, tiny_data, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint: mine.deep: 'float64'"):
        trainer(tmp_path, Adds(np.float64(1))).fit(unaware(), tiny_data)
    with pytest.raises(ConfigError, match="checkpoint: flash_pl.extra.where: 'PosixPath|WindowsPath'"):
        trainer(tmp_path, extra={"where": tmp_path}).fit(unaware(), tiny_data)
    assert not list(tmp_path.iterdir())
    trainer(tmp_path, Adds([torch.ones(2), 1.0, "x", None])).fit(unaware(), tiny_data)


def test_last_is_never_a_run_before_this_one(unaware, tiny_data, tmp_path):
    class Break:
        def on_round_end(self, loop, row):
            if row["round"] == 2:
                raise KeyboardInterrupt

    def module():
        torch.manual_seed(0)
        return unaware()

    longer = trainer(tmp_path, rounds=4).fit(module(), tiny_data)
    with pytest.warns(UserWarning, match="its checkpoints are now .*earlier-"), pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, Break(), rounds=4, seed=1).fit(module(), tiny_data)
    loop = trainer(tmp_path, rounds=4, seed=1).fit(module(), tiny_data, ckpt_path="last")
    alone = trainer(tmp_path / "alone", rounds=4, seed=1).fit(module(), tiny_data)
    assert loop.metrics["val_loss"] == alone.metrics["val_loss"] != longer.metrics["val_loss"]
    assert sorted(file.name for file in tmp_path.glob("earlier-*")) == [
        "earlier-best.ckpt",
        "earlier-last.ckpt",
        "earlier-previous.ckpt",
    ]
