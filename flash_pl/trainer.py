"""FederatedTrainer: the calls of Lightning's Trainer for a federation of sparse clients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric

from flash_pl.callbacks.checkpoint import read_checkpoint
from flash_pl.client import configure, federate
from flash_pl.data import ClientTestData, FederatedData
from flash_pl.errors import ConfigError
from flash_pl.loops import EvaluationLoop, EvaluationSchedule, FederatedLoop, LocalLoop, RoundDecay
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import own_global_state
from flash_pl.server import ClientSampler, FedAvg, MaskedAverage, Population, ServerState, UniformSampler
from flash_pl.sparsity import Layout, SparsityBudget, Tier

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


class FederatedTrainer:
    """Trains one server model over the clients of a federated data module.

    Args:
        scheduler: the method of sparse training.
        density: target d over all maskable weights, in (0, 1].
        rounds, cohort, local_epochs: R, clients per round K, local epochs E.
        seed: names every random draw of the run; the module brings its initial weights.
        budget: what each client can afford, the largest tier ``density``; None gives every client ``density``.
        aggregator, sampler: by default sample-weighted FedAvg, with several tiers MaskedAverage, and a uniform cohort.
        decay: the learning rates' decay over rounds; None keeps the module's own.
        exclude, exclude_first_last: layers that are never masked, see :class:`Layout`.
        evaluate: after which rounds the server is evaluated.
        gradient_clip_val, gradient_clip_algorithm: as in Lightning's Trainer.
        channels_last: store 4-d weights channels-last, which is faster for most convolutions.
        accelerator, precision: as in Lightning's Trainer, "32-true" or mixed. One process, one device.
        callbacks: objects with any of the loop's hooks; ``logger`` one or more Lightning loggers.
    """

    def __init__(
        self,
        scheduler: SparseScheduler,
        *,
        density: float = 0.05,
        rounds: int = 100,
        cohort: int = 10,
        local_epochs: int = 1,
        seed: int = 0,
        budget: SparsityBudget | None = None,
        aggregator: FedAvg | None = None,
        sampler: ClientSampler | None = None,
        decay: RoundDecay | None = None,
        exclude: Sequence[str] = (),
        exclude_first_last: bool = False,
        evaluate: EvaluationSchedule | None = None,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str = "norm",
        channels_last: bool = True,
        accelerator: str = "auto",
        precision: Any = "32-true",
        callbacks: Sequence[Any] = (),
        logger: Any = (),
    ) -> None:
        if not 0 < density <= 1:
            raise ConfigError("density", density, "a number in (0, 1]")
        for key, value in {"rounds": rounds, "cohort": cohort, "local_epochs": local_epochs}.items():
            if value < 1:
                raise ConfigError(key, value, "an integer of at least 1")
        if precision not in PRECISIONS:
            raise ConfigError("precision", precision, f"one of {', '.join(PRECISIONS)}")
        if gradient_clip_algorithm not in ("norm", "value"):
            raise ConfigError("gradient_clip_algorithm", gradient_clip_algorithm, "norm or value")
        budget = budget or SparsityBudget([Tier(density, 1.0)])
        if budget.density != density:
            raise ConfigError("budget", budget.density, f"a largest density of {density}, the server's")
        self.scheduler, self.density, self.budget = scheduler, density, budget
        self.rounds, self.cohort, self.local_epochs, self.seed = rounds, cohort, local_epochs, seed
        self.sampler = sampler or UniformSampler()
        # Plain averages would count the weights that small devices do not hold as zeros.
        self.aggregator = aggregator or (MaskedAverage() if len(budget.tiers) > 1 else FedAvg())
        self.decay, self.evaluate = decay or RoundDecay(ratio=1.0), evaluate or EvaluationSchedule()
        self.exclude, self.exclude_first_last = exclude, exclude_first_last
        self.clip_val, self.clip_algorithm = gradient_clip_val, gradient_clip_algorithm
        self.channels_last = channels_last
        loggers = [one for one in (logger if isinstance(logger, Sequence) else [logger]) if one]
        self.fabric = Fabric(
            accelerator=accelerator, devices=1, precision=precision, callbacks=list(callbacks), loggers=loggers
        )

    def fit(self, module: L.LightningModule, data: FederatedData, ckpt_path: str | Path | None = None) -> FederatedLoop:
        """Train; returns the finished loop with the server's weights, mask and last metrics.

        A module that is no :class:`ClientModule` becomes one. Afterwards its weights are the server's, masked to d.

        Raises:
            ConfigError: a cohort larger than the number of clients, a budget or sampler that does not fit the clients,
                a checkpoint that cannot be read.
            ModuleError: a module that cannot be federated.
        """
        loop = self.loop(module, data)
        self.run(loop, ckpt_path)
        return loop

    def run(self, loop: FederatedLoop, ckpt_path: str | Path | None = None) -> None:
        """The training of :meth:`fit`, for a caller that wants the :meth:`loop` before it."""
        if ckpt_path is not None:
            loop.load_state_dict(read_checkpoint(ckpt_path)["flash_pl"])
        with own_global_state(self.fabric.device):
            loop.run()
        loop.client.arena.copy_(loop.server.masked())
        loop.client.module._fabric = None  # a stock Trainer may take over

    def validate(
        self, module: L.LightningModule, data: FederatedData, ckpt_path: str | Path | None = None
    ) -> dict[str, float]:
        """Metrics of the module's weights, or of a checkpoint's server: masked, and ``_union`` where it differs."""
        loop = self.loop(module, data)
        with own_global_state(self.fabric.device):
            if ckpt_path is None:
                return EvaluationLoop(self.fabric).run(loop.client, loop.client.arena.clone(), data.val_dataloader())
            loop.load_state_dict(read_checkpoint(ckpt_path)["flash_pl"])
            return loop.validate()

    def loop(self, module: L.LightningModule, data: FederatedData) -> FederatedLoop:
        """The federated loop, ready to run; whatever :meth:`fit` would refuse is refused here."""
        data.prepare_data()
        data.setup("fit")
        population = self._population(data)
        data.to_(self.fabric.device)
        client = self._bind(module)
        return FederatedLoop(
            self.fabric,
            client,
            ServerState.start(client.layout, client.arena, self.density),
            data,
            self.scheduler,
            rounds=self.rounds,
            cohort=self.cohort,
            local_epochs=self.local_epochs,
            seed=self.seed,
            budget=self.budget,
            population=population,
            aggregator=self.aggregator,
            sampler=self.sampler,
            decay=self.decay,
            evaluate=self.evaluate,
            local=LocalLoop(self.fabric, self.clip_val, self.clip_algorithm),
        )

    def _population(self, data: FederatedData) -> Population:
        """What there is to know of the clients of data that are set up.

        Raises:
            ConfigError: clients, budget, sampler and evaluation do not fit together.
        """
        if self.cohort > data.clients:
            raise ConfigError("cohort", self.cohort, f"at most the number of clients, {data.clients}")
        if self.evaluate.clients_every is not None and not isinstance(data, ClientTestData):
            raise ConfigError("data", type(data).__name__, "data with client_val_batches, to evaluate every client")
        section = "budget"
        try:
            members = self.budget.members(data.clients, self.seed)
            population = Population(tuple(data.client_sizes), None if members is None else tuple(members))
            section = "sampler"
            self.sampler.check(population, self.cohort, self.rounds)
        except ConfigError as error:
            raise error.within(section) from error
        return population

    def _bind(self, module: L.LightningModule) -> Any:
        module.__class__ = federate(type(module))
        module.fabric = self.fabric
        module.configure_model()
        module.setup("fit")
        module.to(self.fabric.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        client = module.bind(Layout(module, self.exclude, self.exclude_first_last), self.scheduler)  # type: ignore[operator]
        configure(module)  # complains now of optimisers that a client cannot have
        return client
