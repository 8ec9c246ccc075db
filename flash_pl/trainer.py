"""FederatedTrainer: the calls of Lightning's Trainer for a federation of sparse clients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from flash_pl.callbacks import in_order
from flash_pl.callbacks.base import finalized, given_loggers
from flash_pl.checkpoint import CheckpointFolder, starting_point
from flash_pl.checks import check_integers, check_types
from flash_pl.client import Binding, GradientClipping, detached_at_end, unsynchronized_metrics
from flash_pl.costs import Clock, CostLedger, Fleet, Link, WireFormat
from flash_pl.data import FederatedData, check_federated
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.launch import Launcher, StopSignals, make_fabric
from flash_pl.loops import (
    CohortLoop,
    EvaluationLoop,
    EvaluationSchedule,
    FaultPolicy,
    FederatedLoop,
    Federation,
    LocalLoop,
    Plan,
    RoundDecay,
    refuse_transfer_hooks,
)
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed, preserve_global_rng
from flash_pl.server import (
    ClientSampler,
    FedAvg,
    Population,
    RoundAverage,
    ServerOptimizer,
    ServerState,
    UniformSampler,
)
from flash_pl.sparsity import Layout, SparsityBudget, total_count


class FederatedTrainer:
    """Trains one server model over the clients of a federated data module.

    Args:
        scheduler: the method of sparse training.
        density: target d over all maskable weights, in (0, 1].
        rounds, cohort, local_epochs: R, clients per round K, local epochs E.
        seed: names every random draw of the run; the module brings its initial weights.
        budget: what each client can afford, the largest tier ``density``; None gives every client ``density``.
        aggregator, sampler: by default the scheduler's average and a uniform cohort.
        server_optimizer: moves the server on from the clients' mean; None takes the mean.
        round_average: deploy an average over rounds; None deploys the last round's model.
        decay: the learning rates' decay over rounds; None keeps the module's own.
        exclude, exclude_first_last: layers that are never masked, see ``Layout``.
        evaluate: after which rounds the server is evaluated.
        gradient_clip_val, gradient_clip_algorithm: as in Lightning's Trainer.
        channels_last: store 4-d weights channels-last, which is faster for most dense convolutions.
        backend, compile: what computes the layers, see ``choose_backend``.
        accelerator, precision, num_nodes: as in Lightning's Trainer; precision is "32-true" or mixed.
        devices: as there; one process each, over which the clients of a round are spread. Results are bitwise the same
            for any number of processes of equal processors and threads. torchrun's number of processes wins.
        deterministic: on CUDA, only kernels that give the same bits in every run, where torch has them.
        timeout: seconds after which a process that does not answer ends the run.
        faults: what happens when a client's training fails.
        wire: how models are sent.
        fleet: what devices the clients are, to simulate the time that rounds take and a deadline.
        callbacks: objects with any of the loop's hooks, see ``FederatedLoop``; none of Lightning's callbacks.
        logger: one or more Lightning loggers. They get every round from ``callbacks.Board``, which is added if missing.
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
        server_optimizer: ServerOptimizer | None = None,
        round_average: RoundAverage | None = None,
        decay: RoundDecay | None = None,
        exclude: Sequence[str] = (),
        exclude_first_last: bool = False,
        evaluate: EvaluationSchedule | None = None,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str = "norm",
        channels_last: bool = True,
        backend: str = "auto",
        compile: bool = False,
        accelerator: str = "auto",
        devices: Any = 1,
        num_nodes: int = 1,
        precision: Any = "32-true",
        deterministic: bool = True,
        timeout: float = 1800.0,
        faults: FaultPolicy | None = None,
        wire: WireFormat | None = None,
        fleet: Fleet | None = None,
        callbacks: Sequence[Any] = (),
        logger: Any = (),
    ) -> None:
        check_integers(rounds=rounds, cohort=cohort, local_epochs=local_epochs)
        check_integers(0, seed=seed)
        check_types(
            scheduler=(scheduler, SparseScheduler),
            budget=(budget, SparsityBudget),
            aggregator=(aggregator, FedAvg),
            sampler=(sampler, ClientSampler),
            server_optimizer=(server_optimizer, ServerOptimizer),
            round_average=(round_average, RoundAverage),
            decay=(decay, RoundDecay),
            evaluate=(evaluate, EvaluationSchedule),
            faults=(faults, FaultPolicy),
            wire=(wire, WireFormat),
            fleet=(fleet, Fleet),
        )
        if compile and type(scheduler).training is not SparseScheduler.training:
            name = type(scheduler).__name__
            raise ConfigError("compile", compile, f"false with {name}: compiled layers do not call its hooks")
        self.scheduler, self.budget = scheduler, SparsityBudget.of(density, budget)
        # A checkpoint holds them, and numpy's own numbers could not be read again.
        self.density, self.rounds, self.cohort = float(density), int(rounds), int(cohort)
        self.local_epochs, self.seed = int(local_epochs), int(seed)
        self.sampler = sampler or UniformSampler()
        self.aggregator = aggregator or scheduler.aggregator(len(self.budget.tiers))
        self.decay, self.evaluate = decay or RoundDecay(ratio=1.0), evaluate or EvaluationSchedule()
        self.binding = Binding(exclude, exclude_first_last, channels_last, backend, compile)
        self.clipping = GradientClipping(gradient_clip_val, gradient_clip_algorithm)
        loggers = given_loggers(logger)
        self.callbacks = in_order(callbacks, loggers)
        self.wire, self.fleet, self.server_optimizer = wire, fleet, server_optimizer
        self.round_average = round_average
        self.timeout, self.faults = timeout, faults or FaultPolicy()
        self.fabric = make_fabric(
            accelerator, devices, num_nodes, precision, deterministic, timeout, self.callbacks, loggers
        )
        self.ranks: Ranks | None = None

    def fit(self, module: L.LightningModule, data: FederatedData, ckpt_path: str | Path | None = None) -> FederatedLoop:
        """Train; returns the finished loop with the server's weights, mask and last metrics.

        A module that is no ``ClientModule`` becomes one. Afterwards its weights are the server's, masked to d.

        Args:
            ckpt_path: a checkpoint from which to go on; "last" is the newest whole one of the trainer's ``Checkpoint``
                callback, and without any file the run starts afresh.

        Raises:
            ConfigError: a cohort larger than the number of clients, a budget or sampler that does not fit the clients,
                a checkpoint that cannot be read.
            ModuleError: a module that cannot be federated.
            RunError: what ended the run before its time: a client's or the method's fault, a signal, another process, a
                full disk.
        """
        loop = self.loop(module, data)
        state = loop.ranks.broadcast(lambda: starting_point(ckpt_path, self.folder))
        if state is not None:
            self.resume(loop, state)
        self.run(loop)
        return loop

    def run(self, loop: FederatedLoop) -> None:
        """The training of ``fit``, for a caller that wants the ``loop`` before it."""
        with (
            loop.ranks.sharing_errors(),
            finalized(self.fabric.loggers),
            loop.parts.cohorts.stop,
            preserve_global_rng(self.fabric.device),
            detached_at_end(loop.client),
            unsynchronized_metrics(loop.client.module),
            loop.client.backend,
        ):
            loop.run()
            loop.client.receive(loop.server.masked(), loop.server.mask)

    def validate(
        self, module: L.LightningModule, data: FederatedData, ckpt_path: str | Path | None = None
    ) -> dict[str, float]:
        """Metrics of the module's weights, or of a checkpoint's server: masked, and ``_union`` where it differs.

        Raises:
            ConfigError: as for ``fit``, and where "last" finds no checkpoint, or one from before the first mask.
        """
        loop = self.loop(module, data)
        with (
            preserve_global_rng(self.fabric.device),
            detached_at_end(loop.client),
            unsynchronized_metrics(module),
            loop.client.backend,
        ):
            if ckpt_path is None:
                evaluation = EvaluationLoop(self.fabric, self.seed)
                return evaluation.run(loop.client, loop.client.arena.clone(), data.val_dataloader())
            state = loop.ranks.broadcast(lambda: starting_point(ckpt_path, self.folder))
            if state is None:
                raise ConfigError("ckpt_path", ckpt_path, "a run that has saved a checkpoint")
            self.resume(loop, state)
            if not loop.has_mask:
                raise ConfigError("ckpt_path", str(ckpt_path), "a checkpoint with a mask; stage 1 was looking for it")
            return loop.evaluation.server(loop.masks, loop.round)

    def loop(self, module: L.LightningModule, data: FederatedData) -> FederatedLoop:
        """The federated loop, ready to run; whatever ``fit`` would refuse is refused here."""
        if not isinstance(module, L.LightningModule):
            what = f"{type(module).__name__} is no LightningModule"
            raise ModuleError(f"{what}; flash_pl.Classifier(network, classes=...) makes one of a network")
        check_federated(data)
        refuse_transfer_hooks(data)
        ranks = self.launch()
        ranks.broadcast(data.prepare_data)
        data.setup("fit")
        try:
            members = self.budget.members(data.clients, self.seed)
        except ConfigError as error:
            raise error.within("budget") from error
        plan = Plan(
            rounds=self.rounds,
            cohort=self.cohort,
            local_epochs=self.local_epochs,
            seed=self.seed,
            budget=self.budget,
            population=Population(tuple(data.client_sizes), None if members is None else tuple(members)),
            sampler=self.sampler,
            decay=self.decay,
        )
        data.to_(self.fabric.device)
        client = self.binding(module, self.fabric, self.scheduler)
        least = min(tier.density for tier in self.budget.tiers)
        if not total_count(client.layout.sizes, least):
            raise ConfigError("density", least, f"at least one of {client.layout.maskable} weights")
        if ranks.size > 1:  # a script may have left its module's first weights to chance
            client.arena.copy_(ranks.broadcast(client.arena.cpu))
            client.local_buffers.set_initial(ranks.broadcast(client.local_buffers.initial))
        federation = Federation(
            fabric=self.fabric,
            ranks=ranks,
            client=client,
            server=ServerState.start(client.layout, client.arena, self.density, self.seed),
            data=data,
            scheduler=self.scheduler,
            plan=plan,
            aggregator=self.aggregator,
            local=LocalLoop(self.fabric, self.clipping),
            cohorts=CohortLoop(ranks, StopSignals(self._forward), self.faults),
            ledger=self._ledger(client.layout, plan.population),
            server_optimizer=self.server_optimizer,
            round_average=self.round_average,
        )
        loop = FederatedLoop(federation, self.evaluate)
        with preserve_global_rng(self.fabric.device), unsynchronized_metrics(client.module), client.backend:
            loop.open()
        return loop

    def launch(self) -> Ranks:
        """Start the other processes, if there are to be any, and wait until all have met. A second call does nothing.

        Every process runs the program from its beginning, as with Lightning's "ddp".
        """
        if self.ranks is None:
            self.fabric.launch()
            self.ranks = Ranks(self.fabric, self.timeout)
        return self.ranks

    def resume(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        """Go on from the content of a checkpoint file.

        Raises:
            ConfigError: it belongs to another experiment.
            ModuleError: a buffer has another shape.
        """
        loop.load_state_dict(state["flash_pl"])
        module, saved = loop.client.module, state["state_dict"]
        loop.client.local_buffers.set_initial(saved)
        module.load_state_dict({name: saved[name] for name in saved if name.endswith("_extra_state")}, strict=False)
        module.on_load_checkpoint(state)
        self.fabric.call("on_load_checkpoint", loop=loop, state=state)

    @property
    def folder(self) -> CheckpointFolder | None:
        """Where the trainer's ``Checkpoint`` callback saves, None without one."""
        folders = (getattr(callback, "folder", None) for callback in self.callbacks)
        return next((folder for folder in folders if isinstance(folder, CheckpointFolder)), None)

    def _ledger(self, layout: Layout, population: Population) -> CostLedger:
        link, clock = Link(layout, self.wire, seed=derive_seed(self.seed, "mask")), None
        if self.fleet is not None:
            clock = Clock(self.fleet.deal(population.clients, population.tiers, self.seed), self.fleet.deadline)
        return CostLedger(link, clock, self.local_epochs)

    def _forward(self, number: int) -> None:
        if isinstance(launcher := self.fabric.strategy.launcher, Launcher):
            launcher.forward(number)
