"""From a user's LightningModule to the client that the loops train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric

from flash_pl.client.backends import choose_backend
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import configure
from flash_pl.client.state import ClientState, GradientHook
from flash_pl.errors import ModuleError
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class Binding:
    """How a module becomes a client.

    Args:
        exclude, exclude_first_last: layers that are never masked, see ``Layout``.
        channels_last: store 4-d weights channels-last.
        backend, compile: what computes the layers, see ``choose_backend``.
    """

    exclude: Sequence[str] = ()
    exclude_first_last: bool = False
    channels_last: bool = True
    backend: str = "auto"
    compile: bool = False

    def __call__(self, module: L.LightningModule, fabric: Fabric, scheduler: GradientHook) -> ClientState:
        """Make ``module`` a ``ClientModule`` where it is none, on the device of ``fabric``, its tensors in an arena.

        Raises:
            ConfigError: ``exclude`` or ``backend`` do not fit the module.
            ModuleError: a module that cannot be federated, or optimisers that a client cannot have.
        """
        module.__class__ = federate(type(module))
        assert isinstance(module, ClientModule)
        module.trainer, module.fabric = None, fabric  # a stock Trainer may have had it before
        module.configure_model()
        module.setup("fit")
        module.to(fabric.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        client = module.bind(Layout(module, self.exclude, self.exclude_first_last), scheduler)
        client.backend = choose_backend(module, client.layout, self.backend, self.compile)
        try:
            configure(module)  # complains now, not in the first client
        except AttributeError as error:
            if "self.trainer" not in str(error):
                raise
            what = "configure_optimizers asks for self.trainer, which is not there in a federated run"
            raise ModuleError(f"{type(module).__name__}: {what}") from error
        return client


@contextmanager
def free_afterwards(client: ClientState) -> Iterator[None]:
    """Afterwards a stock Trainer may take the module over: no Fabric is in its way, and no scheduler looks on."""
    try:
        yield
    finally:
        client.module._fabric = None
        client.scheduler = _Nobody()


class _Nobody:
    """Looks at no gradients."""

    def on_dense_gradients(self, client: Any, step: int) -> None:
        pass
