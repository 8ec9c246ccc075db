"""Sweeps: a run for each combination of values, each in its own process."""

from typing import TYPE_CHECKING

from flash_pl.lazy import names_on_demand

if TYPE_CHECKING:
    from flash_pl.sweep.jobs import Choice, Job, check_jobs, make_jobs
    from flash_pl.sweep.processes import run_jobs
else:
    __getattr__, __dir__ = names_on_demand(__name__)

__all__ = ["Choice", "Job", "check_jobs", "make_jobs", "run_jobs"]
