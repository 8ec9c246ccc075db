"""From a user's LightningModule to the client that the loops train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.fabric import Fabric

from flash_pl.checks import check_booleans, check_choice
from flash_pl.client.backend import Backend, Compiled
from flash_pl.client.kernel_backend import KernelBackend
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import configure
from flash_pl.client.state import ClientState, GradientHook
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.kernels import available
from flash_pl.sparsity import Layout

MODES = ("auto", "dense", "sparse")


def choose_backend(module: L.LightningModule, layout: Layout, mode: str = "auto", compile: bool = False) -> Backend:
    """What computes a bound module.

    Args:
        module: its tensors lie in an arena of ``layout``.
        mode: "auto" uses the sparse kernels where they are faster at a layer's density, "sparse" wherever they can,
            "dense" never.
        compile: torch compiles the dense layers; there are no others then.

    Raises:
        ConfigError: no such mode, "sparse" without compiled kernels or together with ``compile``.
    """
    if mode not in MODES:
        raise ConfigError("backend", mode, f"one of {', '.join(MODES)}")
    if mode == "sparse" and not available():
        raise ConfigError("backend", mode, "auto or dense; this installation has no compiled kernels")
    if mode == "sparse" and compile:
        raise ConfigError("backend", mode, "auto or dense together with compile; torch compiles dense layers only")
    if compile:
        return Compiled(module)
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    if mode == "dense" or not available() or not on_cpu:
        return Backend()
    return KernelBackend(module, layout, everywhere=mode == "sparse")


@dataclass(frozen=True)
class Binding:
    """How a module becomes a client.

    Args:
        exclude, exclude_first_last: layers that are never masked, see ``Layout``.
        channels_last: store 4-d weights channels-last.
        backend, compile: what computes the layers, see ``choose_backend``.

    Raises:
        ConfigError: a name in place of a list, something else in place of true or false.
    """

    exclude: Sequence[str] = ()
    exclude_first_last: bool = False
    channels_last: bool = True
    backend: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str) or not isinstance(self.exclude, Sequence):
            raise ConfigError("exclude", self.exclude, "a list of layers' names or globs")
        flags = {name: getattr(self, name) for name in ("exclude_first_last", "channels_last", "compile")}
        check_booleans(**flags)
        check_choice(*MODES, backend=self.backend)

    def __call__(self, module: L.LightningModule, fabric: Fabric, scheduler: GradientHook) -> ClientState:
        """Make ``module`` a ``ClientModule`` where it is none, on the device of ``fabric``, its tensors in an arena.

        Raises:
            ConfigError: ``exclude`` or ``backend`` do not fit the module.
            ModuleError: a module that cannot be federated, or optimizers that a client cannot have.
        """
        module.__class__ = federate(type(module))
        assert isinstance(module, ClientModule)
        module.trainer, module.fabric = None, fabric  # a stock Trainer may have had it before
        module.setup("fit")
        module.configure_model()
        module.to(fabric.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        client = module.bind(Layout(module, self.exclude, self.exclude_first_last), scheduler)
        client.backend = choose_backend(module, client.layout, self.backend, self.compile)
        _check_optimizers(client)  # now, not in the first client
        _check_buffers(client)
        return client


def _check_optimizers(client: ClientState) -> None:
    """Each client can get an optimizer of its own, which trains whatever can be masked."""
    module = client.module
    assert isinstance(module, ClientModule)
    name = f"{module._users.__name__}.configure_optimizers"
    try:
        (first, _), (second, _) = configure(module), configure(module)
    except AttributeError as error:
        if "self.trainer" not in str(error):
            raise
        raise ModuleError(f"{name} asks for self.trainer, which is not there in a federated run") from error
    groups = {id(group) for group in first.param_groups}
    if first is second or groups & {id(group) for group in second.param_groups}:
        raise ModuleError(f"{name}: every client needs an optimizer of its own, with parameter groups of its own")
    trained = {id(parameter) for group in first.param_groups for parameter in group["params"]}
    for layer in client.layout.layers:
        if id(module.get_parameter(layer.name)) not in trained:
            remedy = "freeze it with requires_grad_(False), or exclude its layer from the mask"
            raise ModuleError(f"{name}: no optimizer trains {layer.name}; {remedy}")


def _check_buffers(client: ClientState) -> None:
    """What is not finite cannot be averaged."""
    for name, buffer in client.module.named_buffers():
        inside = any(slot.name == name for slot in client.layout.others)
        if inside and not bool(buffer.isfinite().all()):
            raise ModuleError(f"{name} is not finite and cannot be averaged; register it with persistent=False")


@contextmanager
def released_afterwards(client: ClientState) -> Iterator[None]:
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
