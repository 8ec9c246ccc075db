"""An average over rounds: what is deployed, while clients go on from the last round's model."""

import torch
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.server.state import ServerState


class RoundAverage:
    """The mean of the server's models w_1, w_2, ... over the rounds, later ones weighing more, about t^power:

        a_t = a_{t-1} + (power + 1) / (power + t) (w_t - a_{t-1}).

    Source: Shamir and Zhang (ICML 2013), polynomial-decay averaging. A mask in consensus is what makes models of
    different rounds averages of each other. A weight that enters the mask counts with the value it had then for all
    rounds before.

    Args:
        power: at least 0; 0 is the plain mean of all rounds, with 8 about the last ninth of them counts.
    """

    def __init__(self, power: float = 8.0) -> None:
        if not power >= 0:
            raise ConfigError("power", power, "a number of at least 0")
        self.power = power

    def update(self, server: ServerState, previous: Tensor, round: int) -> None:
        """Add the model of ``round`` (from 0).

        Args:
            server: its ``average`` becomes the new mean.
            previous: its mask in the round before, bool ``[layout.maskable]``.
        """
        if server.average is None:
            server.average = server.weights.clone()
            return
        server.average.lerp_(server.weights, (self.power + 1) / (self.power + 1 + round))
        head, entered = server.average[: server.layout.maskable], server.mask & ~previous
        torch.where(entered, server.weights[: server.layout.maskable], head, out=head)
