"""LightningModules as clients: ``federate`` for any user's class, and ``Classifier`` for a plain network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from flash_pl.checks import check_choice
from flash_pl.client.client_trainer import ClientTrainer, RunFacts
from flash_pl.client.context import GradientHooks
from flash_pl.client.state import ClientState
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.sparsity import Layout

Module = TypeVar("Module", bound=L.LightningModule)


def federate(cls: type[Module]) -> type[Module]:
    """Return the client class of a LightningModule class; it is used like the class itself.

    ``FederatedTrainer`` calls this for every module, so that most programs need not.

    >>> Client = federate(Classifier)
    >>> issubclass(Client, ClientModule) and issubclass(Client, Classifier)
    True
    >>> Client(nn.Linear(4, 2), classes=2).lr
    0.1
    """
    return cls if issubclass(cls, TrainerSubstitute) else cast(type[Module], _client_class(cast(Any, cls)))


@cache
def _client_class(cls: Any) -> type["ClientModule"]:
    bases = () if cls is L.LightningModule else (cls,)
    # It has the name of the user's class, which messages and ``print`` show.
    attributes = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    attributes |= {"_user_class": cls}
    return type(cls.__name__, (ClientModule, *bases, TrainerSubstitute), attributes)


class ClientModule(L.LightningModule):
    """Mixin in front of the user's class that puts the module under a mask; ``federate`` adds it.

    Before ``bind`` the module works as the user wrote it. Afterward its tensors are views into one vector, the arena,
    and gradients of pruned weights become 0 before gradient clipping and the optimizer's step. Weights that start at 0
    with a fresh optimizer then stay exactly 0 under the optimizers in ``KEEP_ZEROS`` (``client/optimizers.py``).

    >>> module = federate(Classifier)(nn.Linear(2, 2, bias=False), classes=2)
    >>> client = module.bind(Layout(module))
    >>> client.receive(torch.ones(4), mask=torch.tensor([True, False, True, True]))
    >>> module(torch.ones(1, 2)).sum().backward()
    >>> module.on_before_optimizer_step(module.configure_optimizers())  # Lightning's Trainer calls it as well
    >>> module.model.weight.grad
    tensor([[1., 0.],
            [1., 1.]])
    """

    # The only attributes that are added to the user's module.
    _client: ClientState | None = None  # during a run
    _run_facts: RunFacts | None = None  # during a run
    _kept: Mapping[str, Tensor] = MappingProxyType({})  # after a run: the mask of each pruned weight, by name
    _user_class: type[L.LightningModule] = L.LightningModule

    def bind(self, layout: Layout, scheduler: GradientHooks | None = None) -> ClientState:
        """Move the module's tensors into an arena of ``layout`` under a mask of ones; return the client's state.

        Args:
            scheduler: sees the gradients before they are masked; None for no scheduler.

        Raises:
            ModuleError: the module has manual optimization or its own ``optimizer_step``, which could change pruned
                weights; it has its own ``configure_callbacks``, or no ``training_step``.
        """
        name = self._user_class.__name__
        if not self.automatic_optimization:
            raise ModuleError(f"{name}: manual optimization cannot be federated; the mask acts in the automatic step")
        if is_overridden("optimizer_step", self, parent=L.LightningModule):
            raise ModuleError(f"{name}: an overridden optimizer_step cannot be federated; use on_before_optimizer_step")
        if is_overridden("configure_callbacks", self, parent=L.LightningModule):
            raise ModuleError(f"{name}: configure_callbacks cannot be federated; give FederatedTrainer the callbacks")
        if not is_overridden("training_step", self, parent=L.LightningModule):
            raise ModuleError(f"{name} has no training_step; a client cannot train without it")
        self._client = ClientState(self, layout, scheduler)
        return self._client

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Call the user's hook, show the gradients to the sparse scheduler, then mask them."""
        super().on_before_optimizer_step(optimizer)
        if self._client is not None:
            self._client.mask_gradients_()
        else:
            self._mask_gradients_after_run_()

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip as in Lightning. The user's own clipping may add noise to pruned weights: mask the gradients again."""
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        if not self._user_overrides("configure_gradient_clipping", "clip_gradients"):
            return
        if self._client is not None:
            self._client.zero_pruned_gradients_()
        else:
            self._mask_gradients_after_run_()

    def _mask_gradients_after_run_(self) -> None:
        """Set gradients outside of the last run's mask to 0; weights that the user has replaced have no mask."""
        parameters = dict(self.named_parameters()) if self._kept else {}
        for name, keep in self._kept.items():
            gradient = parameters[name].grad if name in parameters else None
            if gradient is not None and gradient.shape == keep.shape:
                gradient.mul_(keep.to(gradient.device))

    @property
    def watches_gradients(self) -> bool:
        """Whether the user's module overrides a hook in which it could read or change gradients."""
        return self._user_overrides(*HOOKS_WITH_GRADIENTS)

    @property
    def acts_between_steps(self) -> bool:
        """Whether the user's module overrides a hook that runs between the steps of an epoch."""
        return self._user_overrides(*HOOKS_BETWEEN_STEPS)

    @property
    def gradient_hook(self) -> str | None:
        """The user's hook that sees the gradients of pruned weights before they become 0; None without one."""
        return next((name for name in HOOKS_WITH_ALL_GRADIENTS if self._user_overrides(name)), None)

    def _user_overrides(self, *names: str) -> bool:
        """Whether the user's class, or one of its bases before LightningModule, defines one of these methods.

        A function that is an attribute of the module itself counts as well.
        """
        order = type(self).__mro__
        user_classes = set(order[: order.index(L.LightningModule)]) - {ClientModule, TrainerSubstitute}
        return any(name in vars(owner) for owner in (self, *user_classes) for name in names)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the user's class, which can be imported; loading makes the client class from it again."""
        reduced: Any = super().__reduce_ex__(protocol)
        return _empty_client, (self._user_class,), *reduced[2:]


HOOKS_BETWEEN_STEPS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_train_batch_start",
    "on_train_batch_end",
    "lr_scheduler_step",
)
HOOKS_WITH_ALL_GRADIENTS = ("backward", "on_after_backward", "on_before_optimizer_step")
HOOKS_WITH_GRADIENTS = (
    "on_before_zero_grad",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "clip_gradients",
    "backward",
    "on_train_batch_end",
    # Gradients stay until the next step, so these hooks see them too:
    "on_train_batch_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)


def _empty_client(cls: Any) -> ClientModule:
    """Return an empty module of the client class of ``cls``, for unpickling."""
    client_class = _client_class(cls)
    return client_class.__new__(client_class)


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


class Classifier(L.LightningModule):
    """Classification with the cross-entropy; logs loss and top-1 accuracy.

    An input has one label, such as the class of an image, or one label for each of its positions, such as the next
    character of a text. Loss and accuracy are means over all labels of a batch.

    Args:
        model: the network, inputs ``[B, ...]``, such as images ``[B, C, H, W]`` -> logits ``[B, classes]``, or
            ``[B, ..., classes]`` for labels ``[B, ...]``.
        classes: number of classes.
        lr, momentum, weight_decay: of SGD; the defaults are FLASH's. Adam has no ``momentum``.
        optimizer: sgd or adam, which begins afresh in every client and every round.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> module = Classifier(network, classes=10, lr=0.05)
    >>> module(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        optimizer: str = "sgd",
    ) -> None:
        super().__init__()
        check_choice("sgd", "adam", optimizer=optimizer)
        if optimizer == "adam" and momentum:
            raise ConfigError("momentum", f"{momentum} would have no effect: adam has its own moments", "leave it out")
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.lr, self.momentum, self.weight_decay, self.optimizer = lr, momentum, weight_decay, optimizer
        self.accuracy = MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``[B, ..., classes]``."""
        return self.model(inputs)

    def logits_and_labels(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits ``[n, classes]`` and the labels ``[n]`` of all n positions of a batch."""
        inputs, labels = batch
        logits = self(inputs)
        return (logits.flatten(0, -2), labels.flatten()) if logits.ndim > 2 else (logits, labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch and log it as ``train_loss``."""
        loss = F.cross_entropy(*self.logits_and_labels(batch))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        logits, labels = self.logits_and_labels(batch)
        self.accuracy.update(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return torch's SGD or Adam."""
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put all parts of the network in evaluation mode inside the ``with`` block; then restore each part's mode.

    >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4).eval())
    >>> with evaluating(network):
    ...     [part.training for part in network]
    [False, False]
    >>> [part.training for part in network]
    [True, False]
    """
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def layer_labels(layout: Layout) -> list[str]:
    """Return a distinct, short name of every maskable layer: without a leading ``model.`` where possible.

    >>> layer_labels(Layout(Classifier(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), classes=2)))
    ['0', '1']
    """
    names = [layer.name.removesuffix(".weight") for layer in layout.layers]
    short = {name: name.removeprefix("model.") for name in names}
    return [name if short[name] in names else short[name] for name in names]
