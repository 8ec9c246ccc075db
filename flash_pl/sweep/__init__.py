"""A training for each combination of values, in processes of their own."""

from flash_pl.sweep.jobs import Choice, Job, check, jobs
from flash_pl.sweep.processes import sweep

__all__ = ["Choice", "Job", "check", "jobs", "sweep"]
