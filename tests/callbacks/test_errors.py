"""Callbacks and loggers that raise: one line, exit code 3, and nothing is lost."""

import json

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.summary.writer.record_writer import RecordWriter

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.errors import CallbackError, ModuleError, RunError

SETTINGS = {"density": 0.2, "rounds": 2, "cohort": 1, "accelerator": "cpu", "enable_model_summary": False}
TINY = ["data=synthetic", "data.samples=40", "data.test_samples=8", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=8", "clients=4", "cohort=1", "density=0.2", "rounds=2", "run_dir=run"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.enable_model_summary=false"]


class Silent(Exception):
    def __str__(self):
        raise ValueError


def raising(hook, error):
    def fail(self, loop, **arguments):
        raise error

    return type("Broken", (Callback,), {hook: fail})()


@pytest.mark.parametrize("hook", ["on_run_start", "on_first_mask", "on_client_end", "on_round_end", "on_run_end"])
@pytest.mark.parametrize("error", [ValueError("a\nb"), SystemExit(0), GeneratorExit(), Silent()])
def test_the_line_names_callback_and_hook(hook, error, unaware, tiny_data):
    with pytest.raises(
        CallbackError, match=rf"^Broken\.{hook}: {type(error).__name__}.*test_errors\.py:\d+\)$"
    ) as caught:
        FederatedTrainer(PDST(), callbacks=[raising(hook, error)], **SETTINGS).fit(unaware(), tiny_data)
    assert "\n" not in str(caught.value) and type(error).__name__ in caught.value.trace


def test_the_other_callbacks_get_the_end_of_the_run(unaware, tiny_data, tmp_path):
    checkpoint = Checkpoint(tmp_path, every=0, monitor="none")
    callbacks = [raising("on_run_end", ValueError("first")), raising("on_run_abort", ValueError("second")), checkpoint]
    with pytest.raises(CallbackError, match="first"), pytest.warns(UserWarning, match="second"):
        FederatedTrainer(PDST(), callbacks=callbacks, **SETTINGS).fit(unaware(), tiny_data)
    assert read_checkpoint(tmp_path / "last.ckpt")["flash_pl"]["round"] == 2


def test_a_round_before_the_error_is_saved(unaware, tiny_data, tmp_path):
    callbacks = [raising("on_round_end", ValueError("x")), Checkpoint(tmp_path, every=0, monitor="none")]
    with pytest.raises(CallbackError):
        FederatedTrainer(PDST(), callbacks=callbacks, **SETTINGS).fit(unaware(), tiny_data)
    assert read_checkpoint(tmp_path / "last.ckpt")["flash_pl"]["round"] == 1


def test_an_error_before_the_checkpoint_starts_leaves_an_earlier_one(unaware, tiny_data, tmp_path):
    FederatedTrainer(PDST(), callbacks=[Checkpoint(tmp_path)], **SETTINGS).fit(unaware(), tiny_data)
    before = (tmp_path / "last.ckpt").read_bytes()
    callbacks = [raising("on_run_start", ValueError("x")), Checkpoint(tmp_path)]
    with pytest.raises(CallbackError):
        FederatedTrainer(PDST(), callbacks=callbacks, **SETTINGS).fit(unaware(), tiny_data)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_logger_that_cannot_be_finalized_is_a_warning(unaware, tiny_data):
    class Lost(DummyLogger):
        def finalize(self, status):
            raise SystemExit("no network")

    with pytest.warns(UserWarning, match="Lost could not write its last values: no network"):
        loop = FederatedTrainer(PDST(), logger=Lost(), **SETTINGS).fit(unaware(), tiny_data)
    assert loop.round == 2


def test_code_that_leaves_the_process_ends_the_run_with_a_sentence(unaware, tiny_data):
    class Leaves(unaware):
        def training_step(self, batch, batch_idx):
            raise SystemExit(0)

    with pytest.raises(RunError, match=r"^round 1: SystemExit: 0 \(.*test_errors\.py:\d+\)$"):
        FederatedTrainer(PDST(), **SETTINGS).fit(Leaves(), tiny_data)


def test_a_full_disk_under_tensorboards_thread(monkeypatch, tmp_path, capsys):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    original, written = RecordWriter.write, []

    def write(self, data):
        written.append(len(data))
        return original(self, data) if len(written) < 5 else full(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    with pytest.warns(UserWarning, match="TensorBoardLogger .*No space left on device"):
        assert main(["fit", "pdst", *TINY]) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["rounds"] == 2


def test_a_full_disk_under_the_result(monkeypatch, tmp_path, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flash_pl.commands.result.write_atomically", full)
    assert main(["fit", "pdst", *TINY, "logger=false"]) == 3
    line = capsys.readouterr().err
    assert line.startswith("flash-pl: error: run/result.json: ") and line.count("\n") == 1
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("returned", ["'text'", "{}", "torch.zeros(3)"])
def test_a_training_step_that_returns_something_else(returned, unaware, tiny_data):
    class Strange(unaware):
        def training_step(self, batch, batch_idx):
            return eval(returned, {"torch": torch})

    with pytest.raises(ModuleError, match=r"training_step: its loss is"):
        FederatedTrainer(PDST(), **SETTINGS).fit(Strange(), tiny_data)
