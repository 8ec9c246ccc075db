"""Turns a user's LightningModule into the client that the loops train, and chooses the backend of its layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import lightning as L
from lightning.fabric import Fabric
from lightning.fabric.utilities import rank_zero_warn

from flash_pl.checks import check_booleans, check_choice
from flash_pl.client.backend import Backend, CompiledBackend
from flash_pl.client.client_trainer import RunFacts
from flash_pl.client.context import GradientHooks
from flash_pl.client.kernel_backend import KernelBackend
from flash_pl.client.module import ClientModule, federate
from flash_pl.client.optimizers import configure_optimizer
from flash_pl.client.ownership import Strides, give_back_, own_strides, to_channels_last_
from flash_pl.client.state import ClientState
from flash_pl.errors import ConfigError, ModuleError, as_yaml
from flash_pl.kernels import available
from flash_pl.sparsity import Layout


@dataclass(frozen=True)
class Binding:
    """Settings by which a LightningModule becomes a client.

    Args:
        include, exclude, exclude_first_last: which weights are masked, see ``maskable_names``.
        channels_last: store 4-d weights channels-last.
        backend, compile: how the layers are computed, see ``choose_backend``.

    Raises:
        ConfigError: ``include`` or ``exclude`` is not a list, or a flag is not true or false.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    exclude_first_last: bool = False
    channels_last: bool = True
    backend: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for key, patterns in {"include": self.include, "exclude": self.exclude}.items():
            if isinstance(patterns, str) or not isinstance(patterns, Sequence):
                raise ConfigError(key, f"{as_yaml(patterns)} is not a list of layer names or globs")
        flags = {name: getattr(self, name) for name in ("exclude_first_last", "channels_last", "compile")}
        check_booleans(**flags)
        check_choice(*BACKENDS, backend=self.backend)

    def __call__(
        self, module: L.LightningModule, fabric: Fabric, scheduler: GradientHooks, facts: RunFacts | None = None
    ) -> ClientState:
        """Make ``module`` a ``ClientModule`` on the device of ``fabric``, its tensors in an arena.

        Args:
            facts: what ``self.trainer`` answers before the first client; None leaves it to Lightning.

        Raises:
            ConfigError: ``include``, ``exclude`` or ``backend`` does not fit the module.
            ModuleError: the module cannot be federated, or a client cannot use its optimizers.
        """
        module.__class__ = federate(type(module))
        assert isinstance(module, ClientModule)
        module.trainer, module.fabric = None, fabric  # a stock Trainer may have had the module before
        module._run_facts = facts
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
            module._fabric = module._run_facts = module._client = None
            raise

    def _bind(self, module: ClientModule, scheduler: GradientHooks, strides: Strides) -> ClientState:
        client = module.bind(Layout(module, self.exclude, self.exclude_first_last, self.include), scheduler)
        client.own_strides = strides
        client.backend = choose_backend(module, client.layout, self.backend, self.compile)
        _check_optimizers(client)  # before the first client trains
        _check_buffers(client)
        if 2 * client.layout.maskable < client.layout.trained:  # the user may not expect it
            text = "The density is that of the maskable ones alone; include= masks more."
            rank_zero_warn(f"{coverage(client)}. {text}")
        return client


def _check_optimizers(client: ClientState) -> None:
    """Check that every client gets its own optimizer, and that it trains all maskable weights."""
    module = client.module
    assert isinstance(module, ClientModule)
    name = f"{module._user_class.__name__}.configure_optimizers"
    (first, _), (second, _) = configure_optimizer(module), configure_optimizer(module)
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


def coverage(client: ClientState) -> str:
    """How many of the trainable weights a mask can prune, and the largest tensors that stay dense.

    >>> from torch import nn
    >>> from flash_pl.client import Classifier
    >>> module = federate(Classifier)(nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 2)), classes=2)
    >>> coverage(module.bind(Layout(module)))
    '8 of 210 trainable weights are maskable (3.8 %); dense are model.0.weight (200), model.1.bias (2)'
    """
    layout, parameters = client.layout, dict(client.module.named_parameters())
    dense = [slot for slot in layout.others if slot.name in parameters and parameters[slot.name].requires_grad]
    dense.sort(key=lambda slot: slot.start - slot.stop)
    names = [f"{slot.name} ({slot.stop - slot.start:,})" for slot in dense[:3]]
    more = [f"{len(dense) - 3} more"] if len(dense) > 3 else []
    share = f"{100 * layout.maskable / layout.trained:.1f} %"
    text = f"{layout.maskable:,} of {layout.trained:,} trainable weights are maskable ({share})"
    return f"{text}; dense are {', '.join([*names, *more])}" if dense else text


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
        if isinstance(module, ClientModule):
            if module._client is not None:
                module._client.detach_()
            module._fabric = module._run_facts = None  # an error may have come before there was a client
