"""Many trainings from one command line."""

from collections.abc import Sequence

from flash_pl.errors import ConfigError
from flash_pl.sweep.jobs import Job
from flash_pl.sweep.processes import Processes
from flash_pl.sweep.progress import SweepProgress


def sweep(jobs: Sequence[Job], workers: int) -> tuple[list[Job], list[Job]]:
    """Train the jobs whose runs are not there yet; what was begun goes on.

    Returns:
        The jobs with a whole run, in order, and those that failed or whose place is taken.

    Raises:
        Interrupted: a signal came; the same sweep goes on from there.
    """
    missing, failed = [], []
    with SweepProgress(len(jobs)) as progress:
        for job in jobs:
            try:
                if found := job.finished():
                    progress.on_skip(job, job.otherwise(found))
                else:
                    missing.append(job)
            except ConfigError as error:
                progress.on_refuse(job, error)
                failed.append(job)
        outcomes = Processes(workers, progress.on_start, progress.on_end).run(missing)
    failed += [outcome.job for outcome in outcomes if outcome.result is None]
    return [job for job in jobs if job not in failed], failed
