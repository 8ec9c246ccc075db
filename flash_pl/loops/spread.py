"""How a metric spreads over clients."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Spread(Metric):
    """Mean of the clients' values, mean of the lowest tenth and of the highest tenth (at least one client each).

    >>> import torch
    >>> spread = Spread()
    >>> for accuracy in (0.9, 0.5, 0.7):
    ...     spread.update(torch.tensor(accuracy))
    >>> {name: round(float(value), 2) for name, value in spread.compute().items()}
    {'mean': 0.7, 'lowest': 0.5, 'highest': 0.9}
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.values: list[Tensor]
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, value: Tensor) -> None:
        """Add one client's value."""
        self.values.append(value.double().reshape(1))

    def compute(self) -> dict[str, Tensor]:
        """``mean``, ``lowest`` and ``highest``, all float64 scalars."""
        values = dim_zero_cat(self.values).sort().values
        tenth = max(1, len(values) // 10)
        return {"mean": values.mean(), "lowest": values[:tenth].mean(), "highest": values[-tenth:].mean()}
