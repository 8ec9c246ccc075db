"""What a sweep says of its runs."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from flash_pl.sweep.jobs import Job
from flash_pl.sweep.processes import Outcome, SweepProgress


@pytest.mark.parametrize(
    ("monitor", "result", "said"),
    [
        ("val_acc", {"accuracy": 0.5}, "accuracy 0.5000, 2.5 s"),
        ("val_loss", {"accuracy": 2.25}, "val_loss 2.2500, 2.5 s"),
        ("val_f1", {"accuracy": None}, "val_f1 not logged, 2.5 s"),
        ("val_acc", None, "failed: exit code 3; see out/job.log"),
    ],
)
def test_a_line_for_a_run_that_has_ended(monitor, result, said):
    job = Job("job", Path("out/job"), (), {"trainer": {"monitor": monitor}})
    out = io.StringIO()
    with SweepProgress(4, Console(file=out)) as progress:
        progress.on_start(job)
        progress.on_end(Outcome(job, result, "exit code 3", 2.5))
    assert out.getvalue() == f"1 of 4  job  {said}\n"
