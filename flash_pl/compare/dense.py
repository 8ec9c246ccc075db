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
            sent, messages = traffic(run), exchanges(run)
            if run.density == 1 and sent is not None and messages:
                found.setdefault(_key(run), sent / (2 * messages))
        return cls(found)

    def ratio(self, run: Run) -> float | None:
        """All bytes of a run, stage 1 included, over those of as many dense messages as its rounds had."""
        sent, messages = traffic(run), exchanges(run)
        dense = run.dense_bytes or self.bytes.get(_key(run))
        return None if sent is None or not messages or dense is None else sent / (2 * messages * dense)


def traffic(run: Run) -> float | None:
    """Bytes up and down over the whole run."""
    up, down = run.last("bytes_up_total"), run.last("bytes_down_total")
    return None if up is None or down is None else up + down


def exchanges(run: Run) -> float:
    """How often a client got a model and sent one back, summed over the rounds."""
    counted = run.total("participants")
    return counted if counted is not None else float(run.config["cohort"]) * len(run.metrics["round"])


def _key(run: Run) -> Key:
    return run.names["data"], run.names["model"]
