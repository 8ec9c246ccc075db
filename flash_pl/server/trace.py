"""Cohorts from a file."""

from pathlib import Path

from flash_pl.errors import ConfigError
from flash_pl.server.sampler import ClientSampler, Population


class TraceSampler(ClientSampler):
    """The cohorts of a recorded trace, whatever their size.

    Args:
        path: a text file with one line a round: client ids, separated by blanks or commas; an empty line is a round in
            which nobody takes part.

    Raises:
        ConfigError: a file that cannot be read, or a line that holds anything but distinct client ids.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("path", self.path, "a text file that can be read") from error
        self.cohorts = [self._cohort(number, line) for number, line in enumerate(lines, start=1)]

    def _cohort(self, number: int, line: str) -> list[int]:
        fields = line.replace(",", " ").split()
        clients = [int(field) for field in fields if field.isascii() and field.isdigit()]
        if len(set(clients)) < len(fields):
            raise ConfigError("path", self.path, f"distinct client ids in every line; see line {number}")
        return clients

    def check(self, population: Population, cohort: int, rounds: int) -> None:
        """See ``ClientSampler``: a line for every round, and no client that does not exist."""
        if rounds > len(self.cohorts):
            raise ConfigError("path", self.path, f"a line for each of the {rounds} rounds; it has {len(self.cohorts)}")
        for number, clients in enumerate(self.cohorts, start=1):
            if clients and max(clients) >= population.clients:
                allowed = f"clients 0 to {population.clients - 1}; see line {number}"
                raise ConfigError("path", self.path, allowed)

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return self.cohorts[round]
