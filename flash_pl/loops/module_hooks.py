"""A module's own steps and transfer hooks, resolved once per client and not once per batch."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.fabric import Fabric
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from flash_pl.errors import ModuleError

Step = Callable[[Any, int], Any]


def step_with_index(step: Callable[..., Any]) -> Step:
    """``training_step`` or ``validation_step``, called with ``batch_idx`` only if its signature has it."""
    return step if is_param_in_hook_signature(step, "batch_idx", min_args=2) else lambda batch, index: step(batch)


def refuse_transfer_hooks(data: object) -> None:
    """Batches go to the device by the module's hooks alone.

    Raises:
        ModuleError: the data module has hooks of its own.
    """
    for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
        if isinstance(data, L.LightningDataModule) and is_overridden(hook, data, parent=L.LightningDataModule):
            name = type(data).__name__
            raise ModuleError(f"{name}.{hook} is not called in a federated run; override that of the LightningModule")


class Transfer:
    """Moves a batch to the device by the module's own transfer hooks.

    Lightning's default walks through the batch to find its tensors; a plain pair of tensors that is there already needs
    no walk.
    """

    def __init__(self, module: L.LightningModule, fabric: Fabric) -> None:
        self.module, self.device = module, fabric.device
        self.overridden = is_overridden("transfer_batch_to_device", module, parent=L.LightningModule)

    def __call__(self, batch: Any) -> Any:
        """The batch on the device."""
        batch = self.module.on_before_batch_transfer(batch, 0)
        if self.overridden or not self._is_there(batch):
            batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        return self.module.on_after_batch_transfer(batch, 0)

    def _is_there(self, batch: Any) -> bool:
        return type(batch) is tuple and all(isinstance(part, Tensor) and part.device == self.device for part in batch)
