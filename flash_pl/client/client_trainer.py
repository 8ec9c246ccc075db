"""What a module finds in place of Lightning's Trainer: ``self.trainer``, and methods such as ``self.log``."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import lightning as L
from lightning.fabric import Fabric
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from flash_pl.client.context import TRIAL, ClientContext
from flash_pl.client.state import ClientState
from flash_pl.errors import TrainerQuestionError


class RunFacts:
    """What a run knows before its first client trains, for modules that ask in ``setup`` or when they are bound.

    Args:
        fabric: devices, precision and loggers.
        data: the data of all clients.
        any_client: returns the context of some client of the first round.
    """

    def __init__(self, fabric: Fabric, data: Any, any_client: Callable[[], ClientContext]) -> None:
        self.fabric, self.data, self._any_client = fabric, data, any_client

    @cached_property
    def context(self) -> ClientContext:
        """Stands for the context of the first client."""
        return self._any_client()

    def __deepcopy__(self, memo: object) -> "RunFacts":
        return self  # a module may be copied in a run, for an average of its weights; the data are not copied with it

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a pickled module belongs to no run


class ClientTrainer:
    """Answers for the client that trains now, whose training is a whole ``Trainer.fit`` for the module.

    So ``max_epochs`` is the number of local epochs, and ``estimated_stepping_batches`` the number of batches that the
    client trains in this round. ``world_size`` is 1, since a client trains in one process: results must not depend on
    the number of processes. ``global_rank``, ``local_rank`` and ``is_global_zero`` are those of the process. Before the
    first client, as in ``setup``, the client with the most samples stands for it.

    Args:
        run: facts that are the same for all clients.
        client: the state of the current client; None before there is any.

    >>> context = ClientContext(client=0, round=0, epochs=2, batches=5, seed=1)
    >>> run = RunFacts(Fabric(accelerator="cpu", devices=1), None, lambda: context)
    >>> trainer = ClientTrainer(run, client=None)
    >>> trainer.max_epochs, trainer.estimated_stepping_batches, trainer.is_global_zero, trainer.precision
    (2, 10, True, '32-true')
    >>> hasattr(trainer, "fit_loop")
    False
    """

    accumulate_grad_batches = world_size = 1
    testing = predicting = False
    progress_bar_callback = None

    def __init__(self, run: RunFacts, client: ClientState | None) -> None:
        self._run, self._client = run, client

    def __getattr__(self, name: str) -> Any:
        """Refuse every other question.

        Raises:
            TrainerQuestionError: always; it is an ``AttributeError``, so that ``hasattr`` and ``getattr`` work.
        """
        if name in OF_TRAINING:
            raise TrainerQuestionError(f"self.trainer.{name} is known only while a client trains, not in an evaluation")
        known = ", ".join(key for key in dir(self) if not key.startswith("_") and key not in OF_LIGHTNING)
        raise TrainerQuestionError(f"self.trainer.{name} is not known in a federated run; known are {known}")

    @property
    def max_epochs(self) -> int:
        """Local epochs of a client."""
        return self._run.context.epochs if self.validating else self._context.epochs

    @property
    def max_steps(self) -> int:
        """Steps of the client in this round, local epochs times batches."""
        return self._context.steps

    @property
    def estimated_stepping_batches(self) -> int:
        """The same: every batch is a step."""
        return self._context.steps

    @property
    def num_training_batches(self) -> int:
        """Batches of a local epoch."""
        return self._context.batches

    @property
    def current_epoch(self) -> int:
        """Index of the local epoch."""
        return 0 if self._client is None else self._client.epoch

    @property
    def global_step(self) -> int:
        """Steps that the client has done in this round."""
        return 0 if self._client is None else self._client.step

    @property
    def training(self) -> bool:
        """Whether a client trains, or is prepared for it."""
        return not self.validating

    @property
    def validating(self) -> bool:
        """Whether a model is evaluated."""
        return self._client is not None and self._client.validating

    @property
    def sanity_checking(self) -> bool:
        """Whether a client's first step is only tried, before the run; the model stays as it is."""
        return not self.validating and self._context.purpose == TRIAL

    @property
    def optimizers(self) -> list[Optimizer]:
        """The client's optimizer, in a list as in Lightning."""
        optimizer = None if self._client is None else self._client.optimizer
        return [] if optimizer is None else [optimizer]

    @property
    def datamodule(self) -> Any:
        """The data that the trainer was given: the user's own LightningDataModule where it was divided over clients."""
        return getattr(self._run.data, "datamodule", self._run.data)

    @property
    def loggers(self) -> list[Any]:
        """All loggers of the run."""
        return self._run.fabric.loggers

    @property
    def logger(self) -> Any:
        """The first logger; None without any."""
        return next(iter(self.loggers), None)

    @property
    def global_rank(self) -> int:
        """Index of the process."""
        return self._run.fabric.global_rank

    @property
    def local_rank(self) -> int:
        """Index of the process on its machine."""
        return self._run.fabric.local_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the first process."""
        return self._run.fabric.is_global_zero

    @property
    def precision(self) -> str:
        """32-true, 16-mixed or bf16-mixed."""
        return str(self._run.fabric.strategy.precision.precision)

    @property
    def strategy(self) -> Any:
        """Fabric's strategy."""
        return self._run.fabric.strategy

    @property
    def _context(self) -> ClientContext:
        """Of the client that trains. In an evaluation it would be that of the last client of this process."""
        if self.validating:
            raise AttributeError  # __getattr__ says which question cannot be answered
        return getattr(self._client, "context", None) or self._run.context


OF_LIGHTNING = ("progress_bar_callback", "strategy")  # asked by LightningModule's own print and all_gather
OF_TRAINING = ("max_steps", "estimated_stepping_batches", "num_training_batches")


class TrainerSubstitute(L.LightningModule):
    """Mixin behind the user's class that answers in a federated run as Lightning's Trainer would.

    The user's own ``log``, ``clip_gradients`` and so on are called first and reach these by ``super()``.
    """

    _client: ClientState | None = None
    _run_facts: RunFacts | None = None

    @property
    def _federated_client(self) -> ClientState | None:
        """The client's state in a federated run; None under a Trainer or without any."""
        return self._client if self._trainer is None else None

    def _asked(self, question: str) -> ClientState | None:
        """The client's state, which remembers for what the module has asked."""
        client = self._federated_client
        if client is not None:
            client.questions.add(question)
        return client

    @property
    def trainer(self) -> Any:
        """The stock Trainer; in a federated run a ``ClientTrainer``."""
        if self._trainer is not None or self._run_facts is None:
            return super().trainer
        return ClientTrainer(self._run_facts, self._asked("trainer"))

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        L.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer does: only for a positive value, and gradients that are not finite raise no error."""
        if self._federated_client is None:
            super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip(parameters, gradient_clip_val)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as in Lightning; in a federated run the client's meter reduces the values.

        Raises:
            ModuleError: see ``Meter.log``.
        """
        client = self._federated_client
        if client is None:
            super().log(name, value, *args, **kwargs)
        else:
            client.meter.log(client.batch, name, value, *args, **kwargs)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Log every entry by ``log``."""
        client = self._federated_client
        if client is None:
            super().log_dict(dictionary, *args, **kwargs)
        else:
            client.meter.log_dict(self.log, dictionary, *args, **kwargs)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return the optimizer; in a federated run that of the current client."""
        client = self._asked("optimizers")
        return super().optimizers(use_pl_optimizer) if client is None else client.optimizer

    def lr_schedulers(self) -> Any:
        """Return None, the learning-rate scheduler, or a list of several, as in Lightning."""
        client = self._asked("lr_schedulers")
        if client is None:
            return super().lr_schedulers()
        lr_schedulers = [schedule.lr_scheduler for schedule in client.lr_schedulers]
        return lr_schedulers if len(lr_schedulers) > 1 else next(iter(lr_schedulers), None)

    @property
    def logger(self) -> Any:
        """The first logger; None without any."""
        return super().logger if self._asked("logger") is None else next(iter(self.loggers), None)

    @property
    def global_rank(self) -> int:
        """Index of the process."""
        return super().global_rank if self._run_facts is None else self._run_facts.fabric.global_rank

    @property
    def local_rank(self) -> int:
        """Index of the process on its machine."""
        return super().local_rank if self._run_facts is None else self._run_facts.fabric.local_rank

    @property
    def current_epoch(self) -> int:
        """Index of the epoch; in a federated run of the local epoch."""
        client = self._asked("current_epoch")
        return super().current_epoch if client is None else client.epoch

    @property
    def global_step(self) -> int:
        """Number of optimizer steps done; in a federated run of the current client's steps."""
        client = self._asked("global_step")
        return super().global_step if client is None else client.step
