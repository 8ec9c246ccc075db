"""Turns a user's LightningModule into the client that the loops train, and chooses the backend of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import lightning as L
from lightning.fabric import Fabric

from flash_pl.checks import check_booleans, check_choice
from flash_pl.client.backend import Backend, CompiledBackend
from flash_pl.client.kernel_backend import KernelBackend
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import configure_optimizer
from flash_pl.client.ownership import Strides, give_back_, own_strides, to_channels_last_
from flash_pl.client.state import ClientState, GradientHook
from flash_pl.errors import ConfigError, ModuleError, as_yaml
from flash_pl.kernels import available
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class Binding:
    """Settings by which a LightningModule becomes a client.

    Args:
        exclude, exclude_first_last: layers that are never masked, see ``Layout``.
        channels_last: store 4-d weights channels-last.
        backend, compile: how the layers are computed, see ``choose_backend``.

    Raises:
        ConfigError: ``exclude`` is not a list, or a flag is not true or false.
    """

    exclude: Sequence[str] = ()
    exclude_first_last: bool = False
    channels_last: bool = True
    backend: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str) or not isinstance(self.exclude, Sequence):
            raise ConfigError("exclude", f"{as_yaml(self.exclude)} is not a list of layer names or globs")
        flags = {name: getattr(self, name) for name in ("exclude_first_last", "channels_last", "compile")}
        check_booleans(**flags)
        check_choice(*BACKENDS, backend=self.backend)

    def __call__(self, module: L.LightningModule, fabric: Fabric, scheduler: GradientHook) -> ClientState:
        """Make ``module`` a ``ClientModule`` on the device of ``fabric``, its tensors in an arena.

        Raises:
            ConfigError: ``exclude`` or ``backend`` does not fit the module.
            ModuleError: the module cannot be federated, or a client cannot use its optimizers.
        """
        module.__class__ = federate(type(module))
        assert isinstance(module, ClientModule)
        module.trainer, module.fabric = None, fabric  # a stock Trainer may have had the module before
        module.setup("fit")
        module.configure_model()
        module.to(fabric.device)
        strides = own_strides(module)
        try:
            if self.channels_last:
                to_channels_last_(module)
            return self._bind(module, scheduler, strides)
        except BaseException:
            give_back_(module, strides)
            module._fabric = module._client = None
            raise

    def _bind(self, module: ClientModule, scheduler: GradientHook, strides: Strides) -> ClientState:
        client = module.bind(Layout(module, self.exclude, self.exclude_first_last), scheduler)
        client.own_strides = strides
        client.backend = choose_backend(module, client.layout, self.backend, self.compile)
        _check_optimizers(client)  # before the first client trains
        _check_buffers(client)
        return client


def _check_optimizers(client: ClientState) -> None:
    """Check that every client gets its own optimizer, and that it trains all maskable weights."""
    module = client.module
    assert isinstance(module, ClientModule)
    name = f"{module._user_class.__name__}.configure_optimizers"
    try:
        (first, _), (second, _) = configure_optimizer(module), configure_optimizer(module)
    except AttributeError as error:
        if "self.trainer" not in str(error):
            raise
        raise ModuleError(f"{name} reads self.trainer, which does not exist in a federated run") from error
    groups = {id(group) for group in first.param_groups}
    if first is second or groups & {id(group) for group in second.param_groups}:
        raise ModuleError(
            f"{name} must return a new optimizer with new parameter groups at every call, for each client"
        )
    trained = {id(parameter) for group in first.param_groups for parameter in group["params"]}
    for layer in client.layout.layers:
        if id(module.get_parameter(layer.name)) not in trained:
            hint = "freeze it with requires_grad_(False), or exclude its layer from the mask"
            raise ModuleError(f"{name}: no optimizer trains {layer.name}; {hint}")


def _check_buffers(client: ClientState) -> None:
    """Check that the buffers in the arena are finite, since the server averages them."""
    for name, buffer in client.module.named_buffers():
        in_arena = any(slot.name == name for slot in client.layout.others)
        if in_arena and not bool(buffer.isfinite().all()):
            raise ModuleError(f"{name} is not finite and cannot be averaged; register it with persistent=False")


BACKENDS = ("auto", "dense", "sparse")


def choose_backend(module: L.LightningModule, layout: Layout, mode: str = "auto", compile: bool = False) -> Backend:
    """Return the backend that computes the layers of a bound module.

    Args:
        module: its tensors lie in an arena of ``layout``.
        mode: "auto" uses the sparse kernels where they are faster at a layer's density, "sparse" wherever they work,
            "dense" nowhere.
        compile: compile the layers with torch; then none uses the sparse kernels.

    Raises:
        ConfigError: ``mode`` is unknown, or it is "sparse" without compiled kernels or together with ``compile``.
    """
    check_choice(*BACKENDS, backend=mode)
    if mode == "sparse" and not available():
        problem = "'sparse' needs compiled kernels, and this installation has none"
        raise ConfigError("backend", problem, "set backend to auto or dense")
    if mode == "sparse" and compile:
        problem = "'sparse' does not work together with compile=true, which compiles dense layers only"
        raise ConfigError("backend", problem, "set backend to auto or dense")
    if compile:
        return CompiledBackend(module)
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    if mode == "dense" or not available() or not on_cpu:
        return Backend()
    backend = KernelBackend(module, layout, everywhere=mode == "sparse")
    if isinstance(module, ClientModule) and module.gradient_hook is not None:
        backend.say_dense(f"{type(module).__name__}.{module.gradient_hook}")
    return backend


@contextmanager
def detached_at_end(module: L.LightningModule) -> Iterator[None]:
    """At the end of the ``with`` block, also after an error, give the module back to the user.

    A stock Trainer can then train it, under the client's last mask, see ``ClientState.detach_``.
    """
    try:
        yield
    finally:
        if isinstance(module, ClientModule) and module._client is not None:
            module._client.detach_()
