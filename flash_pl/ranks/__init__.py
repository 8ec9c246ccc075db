"""The processes of a run: how they start, share the work, meet once a round, and stop."""

from flash_pl.ranks.ranks import Ranks
from flash_pl.ranks.share import share
from flash_pl.ranks.signals import StopSignals
from flash_pl.ranks.strategy import Launcher, ProcessStrategy, processes_here, restarts

__all__ = ["Launcher", "ProcessStrategy", "Ranks", "StopSignals", "processes_here", "restarts", "share"]
