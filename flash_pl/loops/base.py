"""The contract of a loop, Lightning's: reset, then advance until done."""

from abc import ABC, abstractmethod
from typing import Any

from flash_pl.state import Stateful


class Loop(Stateful, ABC):
    """``run`` calls ``advance`` between its hooks until ``done``."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether to stop before the next advance."""

    @abstractmethod
    def advance(self) -> None:
        """One step of the loop."""

    def run(self) -> Any:
        """Run to the end and return what ``on_run_end`` returns."""
        self.reset()
        self.on_run_start()
        while not self.done:
            self.on_advance_start()
            self.advance()
            self.on_advance_end()
        return self.on_run_end()

    def reset(self) -> None:
        """Before a run, also a resumed one."""

    def on_run_start(self) -> None:
        """Before the first advance."""

    def on_advance_start(self) -> None:
        """Before every advance."""

    def on_advance_end(self) -> None:
        """After every advance."""

    def on_run_end(self) -> Any:
        """After the last advance."""
