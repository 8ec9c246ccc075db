"""A device budget from a file."""

import csv
from pathlib import Path

from flash_pl.errors import ConfigError
from flash_pl.sparsity.budget import SparsityBudget, Tier


class FileBudget(SparsityBudget):
    """Every client's density from a CSV file: a header ``client,density``, then a line for each client 0..N-1.

    The densities that occur are the tiers.

    Raises:
        ConfigError: a file that cannot be read, or a line that is no client and density.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.density_of = self._read()
        values = list(self.density_of.values())
        super().__init__([Tier(d, values.count(d) / len(values)) for d in sorted(set(values))])

    def members(self, clients: int, seed: int) -> list[int]:
        """The tier of every client, as the file has it.

        Raises:
            ConfigError: a client that the file lacks, or one more than there are.
        """
        if odd := set(range(clients)) ^ self.density_of.keys():
            raise ConfigError("path", self.path, f"a line for each of the clients 0 to {clients - 1}; see {min(odd)}")
        tier = {tier.density: index for index, tier in enumerate(self.tiers)}
        return [tier[self.density_of[client]] for client in range(clients)]

    def _read(self) -> dict[int, float]:
        found: dict[int, float] = {}
        try:
            with open(Path(self.path).expanduser(), newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                for row in reader:
                    client, density = int(row["client"]), float(row["density"])
                    if client in found or not 0 < density <= 1:
                        raise ValueError
                    found[client] = density
        except OSError as error:
            raise ConfigError("path", self.path, "a CSV file that can be read") from error
        except (ValueError, KeyError, TypeError) as error:
            allowed = (
                f"a new client and a density in (0, 1] under the header client,density; see line {reader.line_num}"
            )
            raise ConfigError("path", self.path, allowed) from error
        if not found:
            raise ConfigError("path", self.path, "a line for each client under the header client,density")
        return found
