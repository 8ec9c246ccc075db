"""A client: the user's LightningModule plus a mask that its optimizer respects."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from flash_pl.client.state import ClientState, GradientHook
from flash_pl.errors import ModuleError
from flash_pl.sparsity import Layout


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Meanwhile all of the network is in evaluation mode; then every part is in its own again, errors or not."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


WATCHING = (
    "on_before_zero_grad",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "clip_gradients",
    "backward",
    "on_train_batch_end",
    # A gradient stays until the next step.
    "on_train_batch_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)
Module = TypeVar("Module", bound=L.LightningModule)


class FederatedModule(L.LightningModule):
    """What a LightningModule asks of its Trainer, answered in a federated run.

    It stands behind the user's class, whose own ``log``, ``clip_gradients`` and the like are called first.
    """

    _client: ClientState | None = None  # the one attribute added to the user's module

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As the Trainer clips: nothing without a positive value, and a gradient that is not finite is no error."""
        if not self._federated:
            super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip(parameters, gradient_clip_val)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """As in Lightning. In a federated run the value joins the client's meter, weighted by the batch size.

        Raises:
            ModuleError: a reduction other than the mean.
        """
        if not self._federated:
            super().log(name, value, *args, **kwargs)
            return
        if kwargs.get("reduce_fx", "mean") not in ("mean", torch.mean):
            raise ModuleError(
                f"log({name!r}): a federated run reduces by the mean only, not by {kwargs['reduce_fx']!r}"
            )
        client = cast(ClientState, self._client)
        client.meter.update(name, value, kwargs.get("batch_size") or client.batch_samples)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """As in Lightning, by way of ``log``."""
        if not self._federated:
            super().log_dict(dictionary, *args, **kwargs)
            return
        for name, value in dictionary.items():
            self.log(name, value, *args, **kwargs)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """As in Lightning: the optimizer of the client that trains."""
        return cast(ClientState, self._client).optimizer if self._federated else super().optimizers(use_pl_optimizer)

    def lr_schedulers(self) -> Any:
        """As in Lightning: None, the scheduler, or a list of them."""
        if not self._federated:
            return super().lr_schedulers()
        found = [schedule.scheduler for schedule in cast(ClientState, self._client).schedules]
        return found if len(found) > 1 else next(iter(found), None)

    @property
    def logger(self) -> Any:
        """As in Lightning: the first logger, None without one."""
        return next(iter(self.loggers), None) if self._federated else super().logger

    @property
    def current_epoch(self) -> int:
        """The local epoch under way; under a Trainer the Trainer's."""
        return cast(ClientState, self._client).epoch if self._federated else super().current_epoch

    @property
    def global_step(self) -> int:
        """Local steps done; under a Trainer the Trainer's."""
        return cast(ClientState, self._client).step if self._federated else super().global_step

    @property
    def _federated(self) -> bool:
        return self._client is not None and self._trainer is None


class ClientModule(L.LightningModule):
    """Mixin that puts a LightningModule under a mask, in front of the user's class: see ``federate``.

    Unbound it is the user's module, unchanged. Bound, its tensors live in one arena, gradients of pruned weights become
    0 before clipping and the step, and in a federated run ``self.log`` feeds a meter. With pruned weights at 0 and a
    fresh optimizer they stay exactly 0 under SGD (momentum, Nesterov, weight decay), Adam, AdamW and RMSprop.
    """

    _client: ClientState | None = None
    _users: type[L.LightningModule] = L.LightningModule

    def bind(self, layout: Layout, scheduler: GradientHook) -> ClientState:
        """Move the tensors into an arena of ``layout``, under an all-ones mask.

        Raises:
            ModuleError: manual optimization or an overridden ``optimizer_step``, which would step past the mask; no
                ``training_step``.
        """
        name = self._users.__name__
        if not self.automatic_optimization:
            raise ModuleError(f"{name}: manual optimization cannot be federated; the mask acts in the automatic step")
        if is_overridden("optimizer_step", self, parent=L.LightningModule):
            raise ModuleError(f"{name}: an overridden optimizer_step cannot be federated; use on_before_optimizer_step")
        if is_overridden("configure_callbacks", self, parent=L.LightningModule):
            raise ModuleError(f"{name}: configure_callbacks is a Trainer's; a federated run is given its own callbacks")
        if not is_overridden("training_step", self, parent=L.LightningModule):
            raise ModuleError(f"{name}: it has no training_step, so its clients could not train")
        self._client = ClientState(self, layout, scheduler)
        return self._client

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The user's hook first, then the scheduler sees the dense gradients, then they are masked."""
        super().on_before_optimizer_step(optimizer)
        if self._client is not None:
            self._client.mask_gradients_()

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """As in Lightning. A module that clips in its own way may have added noise, to pruned weights too."""
        super().configure_gradient_clipping(optimizer, *args, **kwargs)
        if self._client is not None and self._has_own("configure_gradient_clipping", "clip_gradients"):
            self._client.drop_gradients_()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A pickle names the user's class, which can be imported, and makes this one anew from it."""
        found: Any = super().__reduce_ex__(protocol)
        return _new, (self._users,), *found[2:]

    @property
    def watches_gradients(self) -> bool:
        """Whether the user's module has a hook in which it could look at gradients or change them."""
        return self._has_own(*WATCHING)

    def _has_own(self, *names: str) -> bool:
        """Whether the user's module overrides one of these."""
        order = type(self).__mro__
        users = set(order[: order.index(L.LightningModule)]) - {ClientModule, FederatedModule}
        return any(name in vars(cls) for cls in users for name in names)


def federate(cls: type[Module]) -> type[Module]:
    """The client class of a LightningModule class: ``federate(UsersModule)`` is used like ``UsersModule``.

    >>> Client = federate(L.LightningModule)
    >>> issubclass(Client, ClientModule) and federate(Client) is Client
    True
    """
    return cls if issubclass(cls, FederatedModule) else cast(type[Module], _client_class(cast(Any, cls)))


@cache
def _client_class(cls: Any) -> type[ClientModule]:
    users = () if cls is L.LightningModule else (cls,)
    facts = {"__module__": cls.__module__, "_users": cls}
    return type(f"Client{cls.__name__}", (ClientModule, *users, FederatedModule), facts)


def _new(users: Any) -> ClientModule:
    """An empty module of the client class of ``users``, for a pickle to fill."""
    cls = _client_class(users)
    return cls.__new__(cls)


class Classifier(L.LightningModule):
    """Cross-entropy and top-1 accuracy for ``model``: images ``[B, C, H, W]`` -> logits ``[B, classes]``.

    Args:
        model: the network.
        classes: number of classes.
        lr, momentum, weight_decay: of SGD; the defaults are FLASH's.
    """

    def __init__(
        self, model: nn.Module, classes: int, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.accuracy = MulticlassAccuracy(num_classes=classes, average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs ``val_loss`` and ``val_acc``."""
        images, labels = batch
        logits = self(images)
        self.accuracy.update(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


def layer_labels(layout: Layout) -> list[str]:
    """The maskable layers' names as the user's own network has them, each another."""
    names = [layer.name.removesuffix(".weight") for layer in layout.layers]
    short = {name: name.removeprefix("model.") for name in names}
    return [name if short[name] in names else short[name] for name in names]
