"""FederatedTrainer: the calls of Lightning's Trainer, for one server model over many sparse clients."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from flash_pl.callbacks.arguments import as_callbacks, as_loggers, finalizing
from flash_pl.checkpoint import CheckpointFolder, starting_point
from flash_pl.checks import LARGEST_SEED, check_booleans, check_choice, check_integers, check_type, check_types
from flash_pl.client import Binding, GradientClipping, RunFacts, detached_at_end, unsynchronized_metrics
from flash_pl.client.recorder import CudaRecorder
from flash_pl.costs import Clock, CostLedger, Fleet, Link, WireFormat, multiply_adds
from flash_pl.data import FederatedData, as_federated, check_client_batches, check_federated, torn_down
from flash_pl.errors import ConfigError, ModuleError, printable, shortened
from flash_pl.launch import Launcher, check_graphs, check_sharing, make_fabric
from flash_pl.loops import (
    CapturedLoop,
    EvaluationLoop,
    EvaluationSchedule,
    FaultPolicy,
    FederatedLoop,
    LocalLoop,
    Plan,
    RoundDecay,
    RoundEvaluator,
    Workers,
    call_hooks,
    check_transfer_hooks,
    restore_state,
    restoring,
    start_state,
    try_model,
    whole_state,
)
from flash_pl.machine import changes, check_ranks, machine_facts
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
    Vote,
)
from flash_pl.signals import StopSignals
from flash_pl.sparsity import Layout, SparsityBudget

AnyData = FederatedData | L.LightningDataModule | None


class FederatedTrainer:
    """Trains one server model over the clients of a federated data module.

    Args:
        scheduler: the sparse scheduler, the method of federated sparse training.
        density: target d over all maskable weights, in (0, 1].
        density_of: what densities are shares of: weights, the maskable ones; or flops, the forward multiply-adds of the
            maskable layers in the dense model.
        rounds, cohort, local_epochs: R, clients per round K, local epochs E.
        seed: names every random draw of the run; the module brings its initial weights.
        budget: what each client can afford; its largest tier is ``density``. None gives every client ``density``.
        aggregator: None takes the scheduler's own.
        sampler: draws the cohorts; None draws uniformly.
        server_optimizer: moves the server on from the clients' mean; None takes the mean.
        round_average: deploy an average over rounds; None deploys the last round's model.
        decay: of the learning rates over rounds; None keeps the module's own rates.
        include: names or globs of further layers to mask, such as embeddings, or of parameters.
        exclude: names or globs of layers or parameters that are never masked.
        exclude_first_last: never mask the first and the last maskable layer.
        evaluate: after which rounds the server and the clients are evaluated.
        gradient_clip_val: clip gradients at this value, above 0; None never clips.
        gradient_clip_algorithm: what is clipped: norm or value.
        channels_last: store 4-d weights channels-last, which is faster for most dense convolutions.
        backend: kernels of the layers: auto uses sparse kernels where they are faster, sparse uses them wherever they
            can be used, dense never.
        compile: let torch compile the dense layers; not together with the backend sparse.
        accelerator: where to compute: auto, cpu, gpu, cuda or mps.
        devices: processes on this machine, one per device: a number, auto, or a list of GPU numbers. They share the
            clients of a round. Results are bitwise equal for any number of processes on equal processors. Under
            torchrun its number of processes counts.
        processes_per_device: processes that share each GPU; they use it while one of them works on the host.
        num_nodes: number of machines.
        precision: 32-true, 16-mixed or bf16-mixed, as in Lightning's Trainer.
        deterministic: on CUDA, use only kernels that repeat their bits, where torch has them.
        graphs: capture a client's step once as a CUDA graph and replay it, with the same bits: true, false, or auto,
            which is false as long as this has not been measured on a GPU.
        timeout: seconds after which a process that does not answer ends the run.
        strict: refuse a checkpoint of another machine or installation, on which bits differ; False says so and goes on.
        faults: what a failing client does to the run.
        wire: how models are sent.
        fleet: devices of the clients, to simulate the time of rounds and a deadline.
        callbacks: ``flash_pl.callbacks.Callback`` objects.
        logger: a Lightning logger, the name of one (tensorboard, csv, wandb or mlflow), a list of both, True for
            tensorboard, or False. ``callbacks.Loggers``, added if missing, sends every round to them.
        enable_progress_bar: show a bar in a terminal or a notebook, elsewhere a line every ten seconds.
        enable_model_summary: print facts about data, model and training before the first round.

    >>> from flash_pl import PDST, Classifier
    >>> from flash_pl.data import Synthetic
    >>> from flash_pl.models import LeafCNN
    >>> data = Synthetic(samples=200, test_samples=40, classes=4, shape=(1, 8, 8), clients=10)
    >>> module = Classifier(LeafCNN(num_classes=4, image_size=8), classes=4)
    >>> loop = FederatedTrainer(PDST(), density=0.1, rounds=2, cohort=3, accelerator="cpu").fit(module, data)
    >>> loop.round, round(loop.metrics["density"], 3)
    (2, 0.1)
    """

    def __init__(
        self,
        scheduler: SparseScheduler,
        *,
        density: float = 0.05,
        density_of: str = "weights",
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
        include: Sequence[str] = (),
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
        processes_per_device: int = 1,
        num_nodes: int = 1,
        precision: Any = "32-true",
        deterministic: bool = True,
        graphs: Any = "auto",
        timeout: float = 1800.0,
        strict: bool = False,
        faults: FaultPolicy | None = None,
        wire: WireFormat | None = None,
        fleet: Fleet | None = None,
        callbacks: Sequence[Any] = (),
        logger: Any = (),
        enable_progress_bar: bool = True,
        enable_model_summary: bool = True,
    ) -> None:
        check_integers(rounds=rounds, cohort=cohort, local_epochs=local_epochs)
        check_integers(0, most=LARGEST_SEED, seed=seed)
        check_booleans(strict=strict)
        check_choice("weights", "flops", density_of=density_of)
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
            problem = f"{type(scheduler).__name__} adds hooks to layers, which compiled layers do not call"
            raise ConfigError("compile", problem, "set compile=false")
        self.scheduler, self.budget = scheduler, SparsityBudget.of(density, budget)
        # Python's numbers: a checkpoint holds them, and could not be read again with numpy's.
        self.density, self.rounds, self.cohort = float(density), int(rounds), int(cohort)
        self.density_of = str(density_of)
        self.local_epochs, self.seed = int(local_epochs), int(seed)
        self.sampler = sampler or UniformSampler()
        self.aggregator = aggregator or scheduler.aggregator(len(self.budget.tiers))
        check_type(f"{type(scheduler).__name__}.aggregator", self.aggregator, FedAvg)
        check_type(f"{type(scheduler).__name__}.voter", scheduler.voter, Vote)
        self.server_optimizer, self.round_average = server_optimizer, round_average
        self.decay, self.evaluate = decay or RoundDecay(ratio=1.0), evaluate or EvaluationSchedule()
        self.binding = Binding(include, exclude, exclude_first_last, channels_last, backend, compile)
        self.clipping = GradientClipping(gradient_clip_val, gradient_clip_algorithm)
        self.wire, self.fleet, self.timeout, self.faults = wire, fleet, timeout, faults or FaultPolicy()
        loggers = as_loggers(logger)
        self.callbacks = as_callbacks(callbacks, loggers, enable_progress_bar, enable_model_summary)
        machine = (accelerator, devices, processes_per_device, num_nodes, precision, deterministic, timeout)
        self.fabric = make_fabric(*machine, self.callbacks, loggers)
        check_graphs(graphs, self.fabric)
        self.graphs, self.strict = graphs, strict
        check_sharing(self.fabric, processes_per_device, self.cohort)
        self.ranks: Ranks | None = None

    def fit(
        self,
        module: L.LightningModule,
        data: AnyData = None,
        ckpt_path: str | Path | None = None,
        *,
        datamodule: L.LightningDataModule | None = None,
    ) -> FederatedLoop:
        """Train; return the finished loop with the server's weights, mask and last metrics.

        A module that is not a ``ClientModule`` becomes one. Afterward its weights are the server's, masked to d, also
        if the run ended early; its tensors have memory of their own, as before. Its mask stays: a stock Trainer that
        trains it further leaves pruned weights at 0.

        Args:
            module: its ``training_step`` trains every client.
            data: the data of all clients. A LightningDataModule that knows no clients becomes a
                ``PartitionedDataModule`` of 100 clients.
            datamodule: the same, by Lightning's name.
            ckpt_path: a checkpoint from which to go on. "last" is the newest valid one of the trainer's ``Checkpoint``
                callback; without any file the run starts afresh.

        Raises:
            ConfigError: a setting does not fit the clients, or the checkpoint cannot be read.
            ModuleError: the module cannot be federated.
            RunError: the run ended early: a client or the scheduler failed, a signal, another process, a full disk.
        """
        federated = as_federated(data, datamodule)
        with detached_at_end(module), torn_down(federated):
            loop = self.loop(module, federated)
            state = loop.ranks.broadcast(lambda: starting_point(ckpt_path, self.folder))
            if state is not None:
                self.resume(loop, state)
            self.run(loop)
        return loop

    def validate(
        self,
        module: L.LightningModule,
        data: AnyData = None,
        ckpt_path: str | Path | None = None,
        *,
        datamodule: L.LightningDataModule | None = None,
    ) -> dict[str, float]:
        """Metrics of the module's weights, or of a checkpoint's server: masked, and ``_union`` where it differs.

        Raises:
            ConfigError: as in ``fit``, and if "last" finds no checkpoint, or one from before the first mask.
        """
        federated = as_federated(data, datamodule)
        with detached_at_end(module), torn_down(federated):
            return self._validate(self.loop(module, federated), ckpt_path)

    def _validate(self, loop: FederatedLoop, ckpt_path: str | Path | None) -> dict[str, float]:
        module = loop.client.module
        with preserve_global_rng(self.fabric.device), unsynchronized_metrics(module), loop.client.backend:
            if ckpt_path is None:
                weights = loop.client.arena.clone()
                return loop.evaluator.loop.run(loop.client, weights, loop.data.val_dataloader())
            state = loop.ranks.broadcast(lambda: starting_point(ckpt_path, self.folder))
            if state is None:
                raise ConfigError("ckpt_path", f"no checkpoint for '{ckpt_path}'", "give a run that has saved one")
            self._restore(loop, state)
            if not loop.has_mask:
                raise ConfigError("ckpt_path", f"{ckpt_path} was saved before stage 1 made the first mask")
            metrics = loop.evaluator.server_metrics(loop.tier_masks, loop.round)
            loop.client.receive(loop.server.masked(), loop.server.mask)
            return metrics

    def loop(self, module: L.LightningModule, data: FederatedData) -> FederatedLoop:
        """The federated loop, ready to run; every setting that ``fit`` refuses is refused here."""
        if not isinstance(module, L.LightningModule):
            problem = f"{type(module).__name__} is not a LightningModule"
            raise ModuleError(f"{problem}; flash_pl.Classifier(network, classes=...) makes one of a network")
        check_federated(data)
        check_transfer_hooks(data)
        ranks = self.launch()
        check_ranks(ranks.gather(machine_facts(self.fabric.device)))
        ranks.broadcast(data.prepare_data)
        data.setup("fit")
        check_client_batches(data)
        plan = self._plan(data)
        data.to_(self.fabric.device)
        facts = RunFacts(self.fabric, data, lambda: plan.largest_client(data.client_batches))
        client = self.binding(module, self.fabric, self.scheduler, facts)
        self.budget.check_layout(client.layout)
        if ranks.size > 1:  # the processes may have drawn different initial weights
            client.arena.copy_(ranks.broadcast(client.arena.cpu))
            client.local_buffers.set_initial(ranks.broadcast(client.local_buffers.initial))
        server = ServerState.start(client.layout, client.arena, self.density, self.seed)
        workers = Workers(ranks, StopSignals(self._forward_signal), self.faults)
        ledger, local = self._ledger(client.layout, plan.population), self.make_local_loop()
        evaluation = EvaluationLoop(self.fabric, self.seed)
        evaluator = self.make_evaluator(
            loop=evaluation,
            schedule=self.evaluate,
            client=client,
            server=server,
            scheduler=self.scheduler,
            data=data,
            plan=plan,
            local=local,
            workers=workers,
            link=ledger.link,
        )
        loop = self.make_federated_loop(
            fabric=self.fabric,
            ranks=ranks,
            workers=workers,
            client=client,
            server=server,
            data=data,
            scheduler=self.scheduler,
            plan=plan,
            aggregator=self.aggregator,
            local=local,
            evaluator=evaluator,
            ledger=ledger,
            server_optimizer=self.server_optimizer,
            round_average=self.round_average,
            density_of=self.density_of,
        )
        workers.start_state, workers.whole_state = partial(start_state, loop), partial(whole_state, loop)
        with preserve_global_rng(self.fabric.device), unsynchronized_metrics(client.module), client.backend:
            trial = try_model(client, self.fabric, self.seed, data)
        evaluation.names = trial.logged
        ledger.start(trial.flops)
        if self.density_of == "flops":
            client.layout.costs = multiply_adds(trial.flops, client.layout)
            self.budget.check_layout(client.layout)
        return loop

    def run(self, loop: FederatedLoop) -> None:
        """Run a ``loop`` that ``self.loop`` made, as ``fit`` does."""
        with self.running(loop):
            loop.run()
            loop.ranks.gather(None)  # if the last hooks have failed on one rank, no rank ends well

    @contextmanager
    def running(self, loop: FederatedLoop) -> Iterator[None]:
        """The block in which a ``loop`` may train; at its end the module gets the server's masked weights."""
        loop.client.attach_()
        with (
            loop.ranks.sharing_errors(),
            finalizing(self.fabric.loggers),
            loop.workers.stop,
            preserve_global_rng(self.fabric.device),
            detached_at_end(loop.client.module),
            unsynchronized_metrics(loop.client.module),
            loop.client.backend,
        ):
            try:
                yield
            finally:
                if loop.consistent:
                    loop.client.receive(loop.server.masked(), loop.server.mask)

    def launch(self) -> Ranks:
        """Start the other processes, if there are any, and wait until all have met. A second call does nothing.

        Every process runs the program from its beginning, as with Lightning's "ddp".
        """
        if self.ranks is None:
            self.fabric.launch()
            self.ranks = self.make_ranks()
            if isinstance(launcher := self.fabric.strategy.launcher, Launcher):
                launcher.connected.set()
        return self.ranks

    def resume(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        """Make ``loop`` go on from the content of a checkpoint file.

        Raises:
            ConfigError: the checkpoint belongs to another experiment or has another structure, or code of a component
                cannot take its part back, and ``loop`` does not run then; or it is of another machine or installation,
                and the trainer is ``strict``.
            ModuleError: a buffer has another shape.
        """
        if different := changes(state["flash_pl"]["machine"], machine_facts(self.fabric.device)):
            different = printable(shortened(different))  # the texts are the file's
            if self.strict:
                problem = f"true, but the checkpoint is of another machine or installation ({different})"
                raise ConfigError("strict", problem, "go on where bits are the same, or set strict=false")
            if loop.ranks.rank == 0:
                consequence = "later rounds may have other bits than on the machine of the checkpoint"
                print(f"flash-pl: warning: {consequence} ({different})", file=sys.stderr)
        self._restore(loop, state)

    def _restore(self, loop: FederatedLoop, state: dict[str, Any]) -> None:
        restore_state(loop, state["flash_pl"])
        loop.restored_in_part = True
        module, saved = loop.client.module, state["state_dict"]
        loop.client.local_buffers.set_initial(saved)
        extra_state = {name: saved[name] for name in saved if name.endswith("_extra_state")}
        with restoring(f"{loop.client.user_class}.load_state_dict"):
            module.load_state_dict(extra_state, strict=False)
        with restoring(f"{loop.client.user_class}.on_load_checkpoint"):
            module.on_load_checkpoint(state)
        with restoring("on_load_checkpoint"):
            call_hooks(self.fabric, "on_load_checkpoint", loop=loop, state=state)
        loop.restored_in_part = False

    @property
    def folder(self) -> CheckpointFolder | None:
        """The folder of the trainer's ``Checkpoint`` callback, None without one."""
        folders = (getattr(callback, "folder", None) for callback in self.callbacks)
        return next((folder for folder in folders if isinstance(folder, CheckpointFolder)), None)

    # Seams: a subclass may use its own parts, as flash_pl.testing does.

    def make_ranks(self) -> Ranks:
        """The processes of the run."""
        return Ranks(self.fabric, self.timeout)

    def make_local_loop(self) -> LocalLoop:
        """Trains one client."""
        if self.graphs is True:
            return CapturedLoop(self.fabric, self.clipping, CudaRecorder)
        return LocalLoop(self.fabric, self.clipping)

    def make_evaluator(self, **parts: Any) -> RoundEvaluator:
        """Evaluates after a round."""
        return RoundEvaluator(**parts)

    def make_federated_loop(self, **parts: Any) -> FederatedLoop:
        """Trains all rounds."""
        return FederatedLoop(**parts)

    def _plan(self, data: FederatedData) -> Plan:
        try:
            tiers = self.budget.assign_tiers(data.clients, self.seed)
        except ConfigError as error:
            raise error.within("budget") from error
        return Plan(
            rounds=self.rounds,
            cohort=self.cohort,
            local_epochs=self.local_epochs,
            seed=self.seed,
            budget=self.budget,
            population=Population(tuple(data.client_sizes), None if tiers is None else tuple(tiers)),
            sampler=self.sampler,
            decay=self.decay,
        )

    def _ledger(self, layout: Layout, population: Population) -> CostLedger:
        link, clock = Link(layout, self.wire, seed=derive_seed(self.seed, "mask")), None
        if self.fleet is not None:
            clock = Clock(self.fleet.assign(population.clients, population.tiers, self.seed), self.fleet.deadline)
        return CostLedger(link, clock, self.local_epochs)

    def _forward_signal(self, number: int) -> None:
        if isinstance(launcher := self.fabric.strategy.launcher, Launcher):
            launcher.forward(number)
