"""Which curves TensorBoard's tab "Custom Scalars" lays over each other."""

import re
from collections.abc import Iterable, Sequence

from flash_pl.callbacks.board.groups import group

Charts = dict[str, dict[str, list[object]]]


def charts(monitor: str, tiers: Sequence[float], layers: Sequence[str]) -> Charts:
    """The layout that ``SummaryWriter.add_custom_scalars`` takes.

    Args:
        monitor: the metric that stands for accuracy.
        tiers: densities of the budget.
        layers: names of the maskable layers.
    """
    models = [monitor, f"{monitor}_union"]
    models += [f"{monitor}_d{density:g}" for density in tiers] if len(tiers) > 1 else []
    conventions = ["", "_entropy", "_bitmap", "_values"]
    return {
        "accuracy": {"server, union and tiers": _lines(f"{group(name, models)}/{name}" for name in models)},
        "bytes of a round": {
            way: _lines(f"cost/bytes_{way}{convention}" for convention in conventions) for way in ("up", "down")
        },
        "mask": {
            "mismatch": _lines(f"mask/mismatch_{kind}" for kind in ("clients", "server", "temporal")),
            "agreement": _lines(["mask/held_by_all", "mask/held_by_one"]),
            "layer densities": _lines(f"layer_density/{name}" for name in layers),
        },
    }


def _lines(tags: Iterable[str]) -> list[object]:
    # TensorBoard reads the tags as regular expressions.
    return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
