"""Warnings about clients that are left out, and errors.log."""

import pytest

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import ErrorLog
from flash_pl.errors import ClientError
from flash_pl.loops import FaultPolicy


def fit(base, data, folder, **settings):
    class Fragile(base):
        def training_step(self, batch, batch_idx):
            if self._client.context.client == 3:
                raise ValueError("cannot")
            return super().training_step(batch, batch_idx)

    settings = {
        "density": 0.2,
        "rounds": 1,
        "cohort": 8,
        "accelerator": "cpu",
        "callbacks": [ErrorLog(folder)],
    } | settings
    return FederatedTrainer(PDST(), **settings).fit(Fragile(), data)


def test_a_client_that_is_left_out_is_named_and_its_traceback_kept(unaware, tiny_data, tmp_path, capsys):
    fit(unaware, tiny_data, tmp_path, faults=FaultPolicy("skip"))
    assert "flash-pl: warning: left out client 3 in round 1: ValueError: cannot" in capsys.readouterr().err
    text = (tmp_path / "errors.log").read_text()
    assert text.startswith("client 3 in round 1: ValueError: cannot") and "Traceback" in text


def test_the_traceback_of_the_error_that_ends_the_run_is_kept(unaware, tiny_data, tmp_path):
    with pytest.raises(ClientError):
        fit(unaware, tiny_data, tmp_path)
    text = (tmp_path / "errors.log").read_text()
    assert text.startswith("client 3 in round 1: ValueError: cannot") and "Traceback" in text


def test_a_folder_that_cannot_be_written_is_a_warning(unaware, tiny_data, tmp_path, capsys):
    fit(unaware, tiny_data, tmp_path / "missing", faults=FaultPolicy("skip"))
    assert "errors.log: cannot be written" in capsys.readouterr().err
