"""Which backend computes a client."""

import lightning as L

from flash_pl.client.backend import Backend
from flash_pl.client.compiled import Compiled
from flash_pl.client.kernel_backend import KernelBackend
from flash_pl.errors import ConfigError
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
