"""The server's model: weights, mask, and the union of the clients' models."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.errors import ConfigError
from flash_pl.saved_state import SERVER
from flash_pl.seeding import generator
from flash_pl.sparsity import Layout


@dataclass
class ServerState(Stateful):
    """Everything that the server carries from round to round.

    Attributes:
        layout: of the arena.
        weights: the arena ``[layout.size]``, maskable weights first; the next round starts from them.
        mask: bool ``[layout.maskable]``, that of the largest tier. Replace it and never change it in place: clients and
            tiers may hold the same tensor.
        union: the last aggregate before pruning, ``[layout.size]``.
        density: the target d.
        seed: of the run.
        round_average: average over rounds, ``[layout.size]``, deployed in place of ``weights``; None without one.

    >>> network = torch.nn.Linear(4, 1, bias=False)
    >>> server = ServerState.start(Layout(network), torch.tensor([1.0, 2.0, 3.0, 4.0]), density=0.5)
    >>> server.mask = torch.tensor([False, False, True, True])
    >>> server.prune_()
    >>> server.weights
    tensor([0., 0., 3., 4.])
    """

    saved: ClassVar[Any] = SERVER
    layout: Layout
    weights: Tensor
    mask: Tensor
    union: Tensor
    density: float
    seed: int = 0
    round_average: Tensor | None = None

    @classmethod
    def start(cls, layout: Layout, weights: Tensor, density: float, seed: int = 0) -> "ServerState":
        """A server before its first round: a copy of the arena ``weights``, every weight active."""
        mask = torch.ones(layout.maskable, dtype=torch.bool, device=weights.device)
        return cls(layout, weights.clone(), mask, weights.clone(), density, seed)

    def generator(self, purpose: str, round: int) -> torch.Generator:
        """A CPU generator of (seed, purpose, round) for draws of the server: equal in all processes, and without a
        state that a checkpoint would have to hold."""
        return generator(self.seed, f"server/{purpose}", round)

    @property
    def support(self) -> Tensor:
        """The weights that have a value, bool ``[layout.maskable]``: the mask, and what a method whose mask is only for
        evaluation has outside of it."""
        return self.mask | (self.weights[: self.layout.maskable] != 0)

    @property
    def deployed(self) -> Tensor:
        """The average over rounds if there is one, else the weights, ``[layout.size]``."""
        return self.weights if self.round_average is None else self.round_average

    def masked(self, mask: Tensor | None = None) -> Tensor:
        """A copy of the deployed model ``[layout.size]``, 0 outside ``mask`` (by default the server's)."""
        weights = self.deployed.clone()
        weights[: self.layout.maskable].mul_(self.mask if mask is None else mask)
        return weights

    def prune_(self) -> None:
        """Set the weights outside the mask to 0."""
        self.weights[: self.layout.maskable].mul_(self.mask)

    def compared_state(self) -> dict[str, Tensor]:
        """All tensors, without copies."""
        tensors = {"weights": self.weights, "mask": self.mask, "union": self.union}
        return tensors | ({} if self.round_average is None else {"round_average": self.round_average})

    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU, and the layout that gives the numbers their meaning."""
        copies = {name: tensor.cpu().clone() for name, tensor in self.compared_state().items()}
        if self.layout.costs.is_floating_point():
            copies["costs"] = self.layout.costs.clone()
        return {"layout": self.layout.specification} | copies

    def check_layout(self, state: dict[str, Any]) -> None:
        """Check that ``state``, which ``state_dict`` returned, is of the same model.

        Raises:
            ConfigError: it belongs to another model, to other excluded layers or to another memory format.
        """
        if state["layout"] != self.layout.specification:
            tensors = len(self.layout.specification)
            problem = f"its {self.layout.elements} values in {tensors} tensors are not those of the checkpoint"
            raise ConfigError("model", problem, "use the same model, excluded layers and memory format")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, with the costs of the layers: they may be counted otherwise today.

        Raises:
            ConfigError: see ``check_layout``.
        """
        self.check_layout(state)
        self.weights.copy_(state["weights"])
        self.mask = state["mask"].to(self.weights.device)
        self.union.copy_(state["union"])
        self.layout.costs = state.get("costs", self.layout.costs)
        average = state.get("round_average")
        self.round_average = None if average is None else average.to(self.weights, copy=True)
