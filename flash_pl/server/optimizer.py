"""The server moves on from the clients' mean: server optimizers, and the average over rounds that is deployed."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from flash_pl.checkpoint import Stateful
from flash_pl.checks import check_numbers
from flash_pl.saved_state import Array, MapOf
from flash_pl.server.state import ServerState


class ServerOptimizer(Stateful, ABC):
    """Moves the server's weights w by lr * direction(mean - w); FedAvg alone would replace w by the clients' mean.

    Source: Reddi et al., Adaptive Federated Optimization (ICLR 2021), algorithm 1 (FedOpt). Only parameters move like
    this; buffers, such as the statistics of batch norms, become the mean. The moments of a weight that was
    pruned become 0.

    Args:
        lr: the server's learning rate, above 0.

    >>> class Sign(ServerOptimizer):
    ...     def direction(self, change):
    ...         return change.sign()
    >>> Sign(lr=0.1).direction(torch.tensor([0.3, -2.0]))
    tensor([ 1., -1.])
    """

    saved = MapOf(str, Array("float", ("trainable",)))

    def __init__(self, lr: float) -> None:
        check_numbers("(0, inf)", lr=lr)
        self.lr = lr
        self.moments: dict[str, Tensor] = {}  # [layout.trainable] each

    @abstractmethod
    def direction(self, change: Tensor) -> Tensor:
        """The direction, given the clients' mean ``change`` of the parameters, ``[layout.trainable]`` both."""

    def start(self) -> None:
        """Forget all moments at the start of a run; a run that goes on from a checkpoint does not call it."""
        self.moments = {}

    def step(self, server: ServerState, mean: Tensor) -> Tensor:
        """The next weights ``[layout.size]`` before any vote, given the clients' ``mean`` of them."""
        self.moments = {name: moment.to(mean.device) for name, moment in self.moments.items()}
        for moment in self.moments.values():
            moment[: server.layout.maskable].mul_(server.support)
        new, trainable = mean.clone(), server.layout.trainable
        current = server.weights[:trainable]
        new[:trainable] = current + self.lr * self.direction(mean[:trainable] - current)
        return new

    def moment(self, name: str, keep: float, change: Tensor, weight: float) -> Tensor:
        """Replace the moment m of a ``name``, at first 0, by ``keep`` m + ``weight`` ``change``; returns it."""
        if name not in self.moments:
            self.moments[name] = torch.zeros_like(change)
        return self.moments[name].mul_(keep).add_(change, alpha=weight)

    def state_dict(self) -> dict[str, Any]:
        return {name: moment.cpu().clone() for name, moment in self.moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments = {name: moment.clone() for name, moment in state.items()}

    def compared_state(self) -> dict[str, Any]:
        return dict(self.moments)


class FedAvgM(ServerOptimizer):
    """v <- beta v + change; w <- w + lr v.

    Source: Hsu et al., Measuring the Effects of Non-Identical Data Distribution (2019, arXiv 1909.06335).

    Args:
        momentum: beta, in [0, 1). With 0.9 a lasting change counts ten times, so clients need a smaller rate.
        lr: as in ``ServerOptimizer``.

    >>> optimizer = FedAvgM()
    >>> [optimizer.direction(torch.ones(1)).item() for _ in range(3)]
    [1.0, 1.5, 1.75]
    """

    def __init__(self, momentum: float = 0.5, lr: float = 1.0) -> None:
        super().__init__(lr)
        check_numbers("[0, 1)", momentum=momentum)
        self.momentum = momentum

    def direction(self, change: Tensor) -> Tensor:
        return self.moment("velocity", self.momentum, change, 1.0)


class FedAdam(ServerOptimizer):
    """m <- beta1 m + (1 - beta1) change; v <- beta2 v + (1 - beta2) change^2; w <- w + lr m / (sqrt(v) + tau).

    Source: Reddi et al. (ICLR 2021), algorithm 2; as there, moments have no bias correction; unlike there, v starts
    at 0 and not at tau^2 or more.

    Args:
        lr: as in ``ServerOptimizer``.
        beta1, beta2: in [0, 1).
        tau: the degree of adaptivity, above 0.

    >>> round(FedAdam().direction(torch.ones(1)).item(), 3)
    0.99
    """

    def __init__(self, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lr)
        check_numbers("[0, 1)", beta1=beta1, beta2=beta2)
        check_numbers("(0, inf)", tau=tau)
        self.beta1, self.beta2, self.tau = beta1, beta2, tau

    def direction(self, change: Tensor) -> Tensor:
        mean = self.moment("mean", self.beta1, change, 1 - self.beta1)
        square = self.moment("square", self.beta2, change.square(), 1 - self.beta2)
        return mean / (square.sqrt() + self.tau)


class RoundAverage:
    """Averages the server's models w_1, w_2, ... over the rounds; round t weighs about t^power.

        a_t = a_{t-1} + (power + 1) / (power + t) (w_t - a_{t-1})

    Source: Shamir and Zhang (ICML 2013), polynomial-decay averaging. Models of different rounds can be averaged because
    their masks are in consensus. A weight that gets a value counts with it in all rounds before.

    Args:
        power: at least 0. 0 is the plain mean of all rounds; with 8 about the last ninth of them counts.

    >>> from flash_pl import PDST, FederatedTrainer
    >>> trainer = FederatedTrainer(PDST(), density=0.05, rounds=20, cohort=10, round_average=RoundAverage(power=8))
    """

    def __init__(self, power: float = 8.0) -> None:
        check_numbers("[0, inf)", power=power)
        self.power = power

    def update(self, server: ServerState, previous: Tensor, round: int) -> None:
        """Add the model of ``round`` (from 0) to ``server.round_average``.

        Args:
            server: after the round.
            previous: its support before the round, bool ``[layout.maskable]``.
        """
        if server.round_average is None:
            server.round_average = server.weights.clone()
            return
        frozen = server.layout.frozen  # they never change
        share = (self.power + 1) / (self.power + 1 + round)
        server.round_average[:frozen].lerp_(server.weights[:frozen], share)
        averages, entered = server.round_average[: server.layout.maskable], server.support & ~previous
        torch.where(entered, server.weights[: server.layout.maskable], averages, out=averages)
