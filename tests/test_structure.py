"""A reader reaches the code that matters in few steps."""

import sys
from pathlib import Path

import pytest

import flash_pl
from flash_pl.cli import main

PACKAGE = str(Path(flash_pl.__file__).parent)
PROBE = """
import sys
import traceback

import torch

from flash_pl import Classifier, JMWST
from flash_pl.models import LeafCNN
from flash_pl.server import MagnitudeVote

STACKS = {}


def note(name):
    STACKS.setdefault(name, [frame.f_code for frame, _ in traceback.walk_stack(sys._getframe(2))])


class Client(Classifier):
    def __init__(self):
        super().__init__(LeafCNN(num_classes=4, image_size=8, channels=(4, 8), hidden=16), classes=4)

    def training_step(self, batch, batch_idx):
        if self._client.context.purpose == "round":
            note("training_step")
        return super().training_step(batch, batch_idx)


class Vote(MagnitudeVote):
    def __call__(self, server, updates, density):
        note("vote")
        return super().__call__(server, updates, density)
"""


@pytest.mark.parametrize(("code", "frames", "files"), [("training_step", 10, 6), ("vote", 7, 6)])
def test_few_frames_and_files_lie_between_the_command_and_the_code(code, frames, files, tmp_path, monkeypatch):
    """Frames of flash_pl between ``flash-pl fit jmwst`` and a user's ``training_step``, or a vote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "probe", raising=False)
    Path("probe.py").write_text(PROBE)
    run = ["data=synthetic", "data.samples=60", "data.test_samples=20", "data.classes=4", "data.shape=[1, 8, 8]"]
    run += [
        "model=probe.Client",
        "scheduler.voter=probe.Vote",
        "scheduler.sensitivity.epochs=1",
        "clients=4",
        "cohort=2",
    ]
    run += ["rounds=1", "density=0.2", "trainer.accelerator=cpu", "trainer.progress=false", "run_dir=run"]
    assert main(["fit", "jmwst", *run]) == 0
    stack = sys.modules["probe"].STACKS[code]
    ours = [frame for frame in stack if frame.co_filename.startswith(PACKAGE)]
    shown = "\n".join(f"{Path(frame.co_filename).relative_to(PACKAGE)}: {frame.co_name}" for frame in reversed(ours))
    assert len(ours) <= frames and len({frame.co_filename for frame in ours}) <= files, shown
    print(f"{code}: {len(ours)} frames in {len({frame.co_filename for frame in ours})} files\n{shown}")
