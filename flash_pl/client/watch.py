"""Looks at whether a step of a module does the same every time: its Python state, its draws, its index."""

import dis
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from flash_pl.client.python_state import python_state

READS_VARIABLES = {"locals", "vars", "dir", "eval", "exec"}  # functions that see the variables of their caller


class StepWatch:
    """Sees whether what ran between its making and ``change`` has left traces on the host.

    A step that counts in an attribute, for example, may compute something else next time. Variables outside of the
    module and its classes are not seen.

    Args:
        module: whose step runs.
        device: where it runs; the generator of a CPU may be drawn from on a GPU only.

    >>> class Counting(L.LightningModule):
    ...     steps = 0
    >>> module = Counting()
    >>> watch = StepWatch(module, torch.device("cpu"))
    >>> watch.change() is None
    True
    >>> module.steps += 1
    >>> watch.change()
    'training_step changes self.steps'
    """

    def __init__(self, module: L.LightningModule, device: torch.device) -> None:
        self.module, self.on_cpu = module, device.type == "cpu"
        self._before, self._draws = python_state(module), self._generators()
        # Not every change of a tensor is noted in its version.
        self._copies = [(path, tensor, tensor.detach().clone()) for path, tensor in self._before.tensors]

    def change(self) -> str | None:
        """What has changed, in words; None if nothing has."""
        before, now = self._before, python_state(self.module)
        if problem := before.problem or now.problem:
            return problem
        names = {*now.values, *before.values}
        changed = [name for name in names if now.values.get(name, ()) != before.values.get(name, ())]
        changed += [path for path, tensor, copy in self._copies if not same_values(tensor, copy)]
        if changed:
            return f"training_step changes {min(changed)}"
        return "training_step draws random numbers on the host" if self._generators() != self._draws else None

    def _generators(self) -> list[Any]:
        kind, numbers, place, *_ = np.random.get_state()
        states = [random.getstate(), kind, np.asarray(numbers).tobytes(), place]
        return states if self.on_cpu else [*states, torch.default_generator.get_state().numpy().tobytes()]


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal; NaN is equal to NaN.

    >>> same_values(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    True
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if torch.equal(first, second):
        return True
    is_number = first.is_floating_point() or first.is_complex()
    return is_number and bool(torch.isclose(first, second, rtol=0, atol=0, equal_nan=True).all())


def uses_index(training_step: Any) -> bool:
    """Whether ``training_step`` could use the index of the batch, as far as its code tells.

    >>> uses_index(lambda batch, batch_idx: batch)
    False
    >>> uses_index(lambda batch, batch_idx: batch[:batch_idx])
    True
    >>> uses_index(lambda *arguments: arguments[0])
    True
    """
    if not is_param_in_hook_signature(training_step, "batch_idx", min_args=2):
        return False  # it does not get the index
    function = getattr(training_step, "__func__", training_step)
    position = 1 + (function is not training_step)
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount <= position or READS_VARIABLES & set(code.co_names):
        return True
    name = code.co_varnames[position]
    local = {*dis.haslocal, *dis.hasfree}
    loaded = (step.argval for step in dis.get_instructions(code) if step.opcode in local)
    return any(name in (value if isinstance(value, tuple) else (value,)) for value in loaded)


def metric_memory(module: nn.Module) -> set[int]:
    """The places of the states of the module's torchmetrics, which are other ones after an evaluation."""
    states = (getattr(part, name) for part in module.modules() if isinstance(part, Metric) for name in part._defaults)
    tensors = (t for state in states for t in (state if isinstance(state, list) else [state]))
    return {tensor.data_ptr() for tensor in tensors if isinstance(tensor, Tensor) and tensor.numel()}
