"""consensus.csv: what the server's mask looks like and how the clients voted."""

from pathlib import Path

from lightning.fabric.utilities import rank_zero_only

from flash_pl.callbacks.round_table import RoundTable
from flash_pl.client import layer_labels
from flash_pl.loops import FederatedLoop


class ConsensusCSV:
    """Writes ``directory/consensus.csv``, a row a round: the layer densities of the server's mask (``density/LAYER``),
    the mismatches of each layer alone (``mismatch_clients/LAYER``, ...) and how many weights 1, 2, ... of the round's
    clients held (``votes/1``, ...)."""

    def __init__(self, directory: str | Path) -> None:
        self.table = RoundTable(Path(directory) / "consensus.csv")

    def on_run_start(self, loop: FederatedLoop) -> None:
        self.table.begin(loop.round)

    @rank_zero_only
    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        of_layers = {"density": loop.server.layout.densities(loop.server.mask).tolist()} | loop.layer_mismatch
        layers = layer_labels(loop.server.layout)
        named = {f"{name}/{layer}": v for name, of in of_layers.items() for layer, v in zip(layers, of, strict=True)}
        votes = {f"votes/{held}": count for held, count in enumerate(loop.votes) if held}
        self.table.append({"round": loop.round} | named | votes)
