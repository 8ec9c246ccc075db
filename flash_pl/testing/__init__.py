"""For authors of schedulers: the rules that every method must keep, as one call in a test."""

from flash_pl.testing.scheduler import check_scheduler

__all__ = ["check_scheduler"]
