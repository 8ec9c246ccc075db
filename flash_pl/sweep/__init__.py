"""Sweeps: a run for each combination of values, each in its own process."""

from flash_pl.sweep.jobs import Choice, Job, check_jobs, make_jobs
from flash_pl.sweep.processes import run_jobs

__all__ = ["Choice", "Job", "check_jobs", "make_jobs", "run_jobs"]
