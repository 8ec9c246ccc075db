"""Processes that would compute other bits are refused at the start; a resume on another machine says so."""

import pytest
import torch

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.machine import changes, check_ranks, machine_facts

FACTS = machine_facts(torch.device("cpu"))
OTHERS = {
    "flash_pl": "0.0",
    "torch": "2.11.0",
    "numpy": "1.26.4",
    "processor": "AuthenticAMD AVX2",
    "kernels": "another",
    "threads": 99,
    "device": "NVIDIA H200",
    "deterministic": "another",
    "precision of float32 products": "medium",
}


def test_the_facts_are_plain_and_every_one_is_compared():
    assert {type(value) for value in FACTS.values()} <= {str, int, bool} and FACTS.keys() == OTHERS.keys()
    check_ranks([FACTS] * 3)
    assert changes(FACTS, dict(FACTS)) == ""
    for name, value in OTHERS.items():
        with pytest.raises(ConfigError) as error:
            check_ranks([FACTS, FACTS, FACTS | {name: value}])
        assert error.value.key == "devices" and error.value.hint
        assert "rank 2" in error.value.problem and f"{name} {value}, not {FACTS[name]}" in error.value.problem
        assert changes(FACTS, FACTS | {name: value}) == f"{name} {FACTS[name]} -> {value}"


def test_products_of_another_precision_are_another_fact():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert changes(FACTS, machine_facts(torch.device("cpu")))
    finally:
        torch.set_float32_matmul_precision(before)


def on_rank_1(monkeypatch, rank, capability):
    if rank == 1:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def test_ranks_on_other_processors_are_refused_before_a_file_is_written(run_ranks, tmp_path, monkeypatch, capfd):
    arguments = ["fit", "pdst", "data=synthetic", "data.samples=60", "clients=4", "cohort=2", "rounds=1"]
    arguments += ["trainer.accelerator=cpu", "trainer.progress=false", f"run_dir={tmp_path / 'run'}"]

    def run(rank):
        on_rank_1(monkeypatch, rank, "a wider one")
        return main(arguments)

    assert run_ranks(2, run) == [2, 2]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("flash-pl: error: trainer.devices: rank 1 ") and "a wider one" in line
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_threads_are_refused(unaware, tiny_data, run_ranks):
    def run(rank):
        torch.set_num_threads(1 + rank)
        with pytest.raises(ConfigError) as error:
            FederatedTrainer(PDST(), density=0.3, rounds=1, cohort=2, accelerator="cpu").fit(unaware(), tiny_data)
        return error.value.key, error.value.problem, "trainer.threads" in error.value.hint

    first, second = run_ranks(2, run)
    assert first == second and first[0] == "devices" and "threads 2, not 1" in first[1] and first[2]


SETTINGS = {"density": 0.3, "cohort": 2, "accelerator": "cpu"}


def test_a_resume_on_another_machine_says_what_differs(unaware, tiny_data, tmp_path, monkeypatch, capsys):
    FederatedTrainer(PDST(), rounds=1, callbacks=[Checkpoint(tmp_path)], **SETTINGS).fit(unaware(), tiny_data)
    saved = tmp_path / "last.ckpt"
    assert read_checkpoint(saved)["flash_pl"]["machine"] == machine_facts(torch.device("cpu"))

    def resume(strict):
        trainer = FederatedTrainer(PDST(), rounds=2, strict=strict, **SETTINGS)
        return trainer, trainer.fit(unaware(), tiny_data, ckpt_path=saved).round

    assert resume(strict=True)[1] == 2 and "warning" not in capsys.readouterr().err
    on_rank_1(monkeypatch, 1, "a wider one")
    assert resume(strict=False)[1] == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "processor" in line and f"{FACTS['processor']} -> " in line and "a wider one" in line
    with pytest.raises(ConfigError) as error:
        resume(strict=True)
    assert error.value.key == "strict" and "a wider one" in error.value.problem
    trainer = FederatedTrainer(PDST(), rounds=2, strict=True, **SETTINGS)
    assert "val_acc" in trainer.validate(unaware(), tiny_data, ckpt_path=saved)  # nothing is trained
    assert not capsys.readouterr().err


def test_the_number_of_processes_is_no_fact(unaware, tiny_data, run_ranks, tmp_path):
    FederatedTrainer(PDST(), rounds=1, callbacks=[Checkpoint(tmp_path)], **SETTINGS).fit(unaware(), tiny_data)

    def run(rank):
        trainer = FederatedTrainer(PDST(), rounds=2, strict=True, **SETTINGS)
        return trainer.fit(unaware(), tiny_data, ckpt_path=tmp_path / "last.ckpt").round

    assert run_ranks(2, run) == [2, 2]


def test_strict_is_a_key_of_the_config_and_a_resume_may_change_it(tmp_path, monkeypatch, capsys):
    arguments = ["fit", "pdst", "data=synthetic", "data.samples=60", "clients=4", "cohort=2", "logger=false"]
    arguments += ["trainer.accelerator=cpu", "trainer.progress=false", f"run_dir={tmp_path / 'run'}"]
    assert main([*arguments, "rounds=1"]) == 0
    on_rank_1(monkeypatch, 1, "a wider one")
    capsys.readouterr()
    resumed = [*arguments, "rounds=2", "ckpt_path=last"]
    assert main([*resumed, "trainer.strict=true"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("flash-pl: error: trainer.strict: true, ")
    assert main(resumed) == 0
    with pytest.raises(ConfigError, match="strict: 'yes'"):
        FederatedTrainer(PDST(), strict="yes")
