"""LightningModules as clients: ``federate`` for any user's class."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from flash_pl.client.client_trainer import RunFacts, TrainerSubstitute
from flash_pl.client.context import GradientHooks
from flash_pl.client.state import ClientState
from flash_pl.errors import ModuleError
from flash_pl.sparsity import Layout

Module = TypeVar("Module", bound=L.LightningModule)


def federate(cls: type[Module]) -> type[Module]:
    """Return the client class of a LightningModule class; it is used like the class itself.

    ``FederatedTrainer`` calls this for every module, so that most programs need not.

    >>> from flash_pl import Classifier
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

    >>> import torch
    >>> from flash_pl import Classifier
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
