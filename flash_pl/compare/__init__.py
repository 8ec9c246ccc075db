"""Finished runs against each other: a table, figures and a page."""

from flash_pl.compare.columns import title_of
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.page import write_report
from flash_pl.compare.runs import Run, read_runs
from flash_pl.compare.settings import identity
from flash_pl.compare.table import Table, show

__all__ = ["Comparison", "Run", "Table", "identity", "read_runs", "show", "title_of", "write_report"]
