"""Means of metrics over clients, weighted by samples."""

from collections.abc import Mapping


class WeightedMeans:
    """Means of what the clients logged, each over the clients that logged it."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, int] = {}

    def update(self, metrics: Mapping[str, float], samples: int) -> None:
        """Add a client of ``samples`` samples."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + samples * value
            self.weights[name] = self.weights.get(name, 0) + samples

    def compute(self) -> dict[str, float]:
        """All means."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}
