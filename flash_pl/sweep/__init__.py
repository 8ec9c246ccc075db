"""A training for each combination of values, in processes of their own."""

from flash_pl.sweep.jobs import Job, check, jobs
from flash_pl.sweep.sweep import sweep
from flash_pl.sweep.values import Choice

__all__ = ["Choice", "Job", "check", "jobs", "sweep"]
