"""Comparison of finished runs: tables, figures and one HTML page. Tables need no matplotlib.

::

    runs, errors = read_runs(["sweeps/jmwst"])
    comparison, warnings = Comparison.of(runs, last=5)
    for table in tables_of(comparison):
        print_table(table, rich.console.Console())
    write_report(comparison, Path("report"), command="my_script.py")
"""

from typing import TYPE_CHECKING

from flash_pl.lazy import names_on_demand

if TYPE_CHECKING:
    from flash_pl.compare.columns import title_of
    from flash_pl.compare.comparison import Comparison
    from flash_pl.compare.frame import to_frame
    from flash_pl.compare.report import write_report
    from flash_pl.compare.runs import Run, read_runs
    from flash_pl.compare.settings import identity
    from flash_pl.compare.table import Table, tables_of
    from flash_pl.compare.terminal import print_table
else:
    __getattr__, __dir__ = names_on_demand(__name__)

__all__ = [
    "Comparison",
    "Run",
    "Table",
    "identity",
    "print_table",
    "read_runs",
    "tables_of",
    "title_of",
    "to_frame",
    "write_report",
]
