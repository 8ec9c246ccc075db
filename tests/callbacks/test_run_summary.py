"""The block of facts before the first round."""

import io

import pytest
import torch

from flash_pl import JMWST, PDST, Dense, FederatedTrainer
from flash_pl.callbacks import Checkpoint, RunSummary
from flash_pl.cli import main
from flash_pl.data import Synthetic
from flash_pl.sparsity import SparsityBudget, Tier


def printed(capsys, module, data, scheduler=None, ckpt_path=None, **settings):
    """The facts that a run prints, by name."""
    settings = {"density": 0.5, "rounds": 1, "cohort": 2, "accelerator": "cpu", "backend": "dense"} | settings
    trainer = FederatedTrainer(scheduler or PDST(), enable_model_summary=True, **settings)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    out, err = capsys.readouterr()
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("flash-pl: ")]
    assert len({line.index(line.split(maxsplit=1)[1]) for line in lines}) == 1 and len(lines) <= 10  # aligned
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_the_facts_of_a_run(capsys, unaware, tmp_path):
    data = Synthetic(samples=90, test_samples=8, classes=4, shape=(1, 8, 8), clients=3, seed=1)
    facts = printed(capsys, unaware(), data, callbacks=[Checkpoint(tmp_path)], local_epochs=2, rounds=3)
    sizes = sorted(data.client_sizes)
    assert [str(size) in facts["data"] for size in sizes] == [True] * 3 and "3 clients" in facts["data"]
    module = unaware()
    total = sum(parameter.numel() for parameter in module.parameters())
    maskable = sum(module.get_parameter(f"net.{i}.weight").numel() for i in (0, 4, 6))
    assert all(f"{number:,}" in facts["model"] for number in (total, maskable, maskable // 2))
    assert facts["model"].startswith("Unaware") and facts["scheduler"] == "PDST, density 0.5"
    assert all(part in facts["training"] for part in ("3 rounds", "2 clients", "2 local epochs"))
    assert all(part in facts["device"] for part in ("cpu", "1 process", "dense", "32-true"))
    assert facts["directory"] == str(tmp_path)


def test_tiers_and_training_without_a_target(capsys, unaware, tiny_data):
    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.4, 0.5)])
    facts = printed(capsys, unaware(), tiny_data, JMWST(), density=0.4, budget=budget)
    assert "0.1, 0.4" in facts["scheduler"] and "directory" not in facts
    facts = printed(capsys, unaware(), tiny_data, Dense())
    assert "2,404 active" in facts["model"] and "0.5" not in facts["scheduler"]


def test_a_resumed_run_says_how_many_rounds_are_done(capsys, unaware, tiny_data, tmp_path):
    for rounds in (2, 3):
        callbacks = [Checkpoint(tmp_path)]
        facts = printed(capsys, unaware(), tiny_data, rounds=rounds, callbacks=callbacks, ckpt_path="last")
    assert "2 rounds are done" in facts["training"] and "1,202 active" in facts["model"]


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_breaks_lines_between_words(width, unaware, tiny_data, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stderr", file := Terminal())
    loop = FederatedTrainer(PDST(), rounds=1, cohort=1, accelerator="cpu", enable_progress_bar=False).fit(
        unaware(), tiny_data
    )
    file.seek(0)
    file.truncate()
    path = "runs/a-path-without-a-blank-that-is-longer-than-any-line-of-this-terminal"
    RunSummary(path).on_run_start(loop)
    lines = file.getvalue().splitlines()
    assert lines[-1].split()[-1] == path or lines[-1] == path  # whole, to be copied
    assert all(len(line) < width for line in lines if path not in line) and len(lines) > 6
    assert not any(line.split()[0].startswith("%") for line in lines)


class Plain:
    """Nothing but the members that every data object must have."""

    def __init__(self, data):
        self._data = data
        data.setup("fit")
        self.clients, self.client_sizes = data.clients, data.client_sizes

    def prepare_data(self): ...

    def setup(self, stage): ...

    def to_(self, device): ...

    def client_batches(self, client):
        return self._data.client_batches(client)

    def val_dataloader(self):
        return self._data.val_dataloader()


def test_data_of_the_users_own(capsys, unaware, tiny_data):
    assert printed(capsys, unaware(), Plain(tiny_data))["data"].startswith("Plain, 8 clients with 20 samples")


@pytest.mark.slow
def test_the_command_line_prints_it_on_stderr_with_the_run_directory(capsys, tmp_path):
    tiny = ["data=synthetic", "data.samples=60", "data.test_samples=20", "model=digits_cnn", "model.hidden=16"]
    tiny += ["clients=4", "cohort=2", "rounds=1", "density=0.2", "trainer.accelerator=cpu"]
    assert main(["fit", "pdst", *tiny, f"run_dir={tmp_path / 'a'}"]) == 0
    err = capsys.readouterr().err
    assert str(tmp_path / "a") in err and "LeafCNN" in err and "round 1/1" in err
    quiet = ["trainer.progress=false", "trainer.enable_model_summary=false"]
    assert main(["fit", "pdst", *tiny, *quiet, f"run_dir={tmp_path / 'b'}"]) == 0
    assert not capsys.readouterr().err


def test_only_rank_0_prints(monkeypatch, capsys, unaware, tiny_data):
    from lightning.fabric.utilities import rank_zero_only

    loop = FederatedTrainer(PDST(), rounds=1, cohort=1, accelerator="cpu").fit(unaware(), tiny_data)
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    RunSummary().on_run_start(loop)
    assert capsys.readouterr() == ("", "") and torch.is_tensor(loop.server.mask)
