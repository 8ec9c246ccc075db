"""What a dense model costs to send, against which sparse traffic is held."""

from collections.abc import Iterable
from dataclasses import dataclass

from flash_pl.compare.runs import Run

Key = tuple[str, str]  # data set and model


@dataclass(frozen=True)
class DenseModels:
    """Bytes of a dense model in one direction, by data set and model.

    They are a run's own ``bytes_dense``, else the mean message of a run beside it that keeps every weight.
    """

    bytes: dict[Key, float]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "DenseModels":
        found: dict[Key, float] = {}
        for run in runs:
            sent, count = traffic(run), messages(run, "up") + messages(run, "down")
            if run.density == 1 and sent is not None and count:
                found.setdefault(_key(run), sent / count)
        return cls(found)

    def ratio(self, run: Run) -> float | None:
        """All bytes of a run's ``traffic`` over those of as many dense messages as its rounds had."""
        sent, count = traffic(run), messages(run, "up") + messages(run, "down")
        dense = run.dense_bytes or self.bytes.get(_key(run))
        return None if sent is None or not count or dense is None else sent / (count * dense)


def traffic(run: Run) -> float | None:
    """Bytes up and down, see ``Run.spent``."""
    up, down = run.spent("bytes_up"), run.spent("bytes_down")
    return None if up is None or down is None else up + down


def messages(run: Run, way: str) -> float:
    """How often a client got a model (``down``) or sent one in time (``up``), summed over the rounds."""
    counted = run.total("participants")
    if counted is None:
        return float(run.config["cohort"]) * len(run.metrics["round"])
    return counted + (run.total("late") or 0.0) * (way == "down")


def _key(run: Run) -> Key:
    return run.names["data"], run.names["model"]
