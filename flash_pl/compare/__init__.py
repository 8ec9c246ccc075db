"""Finished runs against each other: a table, figures and a page."""

from flash_pl.compare.columns import title_of
from flash_pl.compare.comparison import Comparison
from flash_pl.compare.find import read_runs
from flash_pl.compare.report import write_report
from flash_pl.compare.runs import Run
from flash_pl.compare.settings import identity
from flash_pl.compare.table import Table
from flash_pl.compare.terminal import show

__all__ = ["Comparison", "Run", "Table", "identity", "read_runs", "show", "title_of", "write_report"]
