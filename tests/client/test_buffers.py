"""Buffers that no client sends are those of the run, whoever trains and wherever it goes on."""

import pytest
import torch

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.errors import ModuleError
from flash_pl.loops import server_model


@pytest.fixture
def shuffling(unaware):
    """A module that looks at its images through a permutation of its own, with an extra state."""

    class Shuffling(unaware):
        def __init__(self, places=64):
            super().__init__()
            self.register_buffer("places", torch.randperm(places))
            self.note = "new"

        def forward(self, x):
            return super().forward(x.flatten(1)[:, self.places].view_as(x))

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    return Shuffling


def trainer(folder=None, rounds=2):
    callbacks = [Checkpoint(folder)] if folder else []
    return FederatedTrainer(PDST(), density=0.3, rounds=rounds, cohort=2, accelerator="cpu", callbacks=callbacks)


def test_a_run_goes_on_and_is_validated_with_its_own(shuffling, tiny_data, tmp_path):
    first = shuffling()
    first.note = "old"
    trainer(tmp_path).fit(first, tiny_data)
    expected = trainer().validate(first, tiny_data)
    other = shuffling()
    assert not torch.equal(other.places, first.places)
    found = trainer(tmp_path).validate(other, tiny_data, ckpt_path="last")
    assert all(found[name] == expected[name] for name in expected)
    assert torch.equal(other.places, first.places) and other.note == "old"
    further = shuffling()
    loop = trainer(tmp_path, rounds=3).fit(further, tiny_data, ckpt_path="last")
    assert torch.equal(further.places, first.places)
    assert "places" in server_model(loop).tensors and "_extra_state" not in server_model(loop).tensors


def test_those_of_another_shape_are_refused(shuffling, tiny_data, tmp_path):
    trainer(tmp_path).fit(shuffling(), tiny_data)
    with pytest.raises(ModuleError, match=r"places is \[64\] in the run that goes on, here \[65\]"):
        trainer(tmp_path).fit(shuffling(places=65), tiny_data, ckpt_path="last")
