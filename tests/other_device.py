"""A device that is no CPU, for tests without a GPU: torch sees another device, and Python computes on the CPU.

It finds code that forgets a device or that takes a path of CPUs only. It counts operations for which the host of a GPU
would wait, and copies between host and device with their bytes. It has no autograd: a module must have a ``backward``
of its own.
"""

from collections import Counter
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_iter, tree_map

from flash_pl.client.recorder import waits

COPIES = ("_to_copy", "copy_")
counts: Counter[str] = Counter()  # by operation, or "up" and "down" for copies to and from the device
copied: Counter[str] = Counter()  # bytes of copies "up" and "down"


class There(Tensor):
    """A tensor of that device; ``here`` has its values."""

    @staticmethod
    def __new__(cls, here):
        return Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device="privateuseone:0"
        )

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, *args, **(kwargs or {}))

    @property
    def data(self):
        return There(self.here.detach())

    @data.setter
    def data(self, value):
        Tensor.data.__set__(self, value)
        self.here = value.here

    def tolist(self):
        return self.cpu().tolist()

    def data_ptr(self):
        return self.here.data_ptr()

    def untyped_storage(self):
        return self.here.untyped_storage()

    def __repr__(self):
        return f"There({self.here})"


def _run(function, *args, **kwargs):
    """An operation with tensors of the device, or one that makes a tensor there."""
    tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)]
    device = kwargs.get("device")
    there = any(isinstance(tensor, There) for tensor in tensors) if device is None else device.type != "cpu"
    kwargs = kwargs if device is None else kwargs | {"device": torch.device("cpu")}
    here = tree_map(_here, (args, kwargs))
    name = function.overloadpacket.__name__
    if name in COPIES:
        to_there = isinstance(args[0], There) if name == "copy_" else there
        source = args[1] if name == "copy_" else args[0]
        if isinstance(source, There) != to_there:
            way = "up" if to_there else "down"
            counts[way] += 1
            copied[way] += source.numel() * source.element_size()
    elif waits(function, here[0]):
        counts[name] += 1
    result = function(*here[0], **here[1])
    returned = function._schema.returns
    if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
        arguments = [*args, *kwargs.values()]
        return next(part for part in arguments if isinstance(part, Tensor) and _here(part) is result)
    return tree_map(lambda part: There(part) if isinstance(part, Tensor) and there else part, result)


def _here(part):
    return part.here if isinstance(part, There) else part


@cache
def _register():
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        return None
    setup()
    library = torch.library.Library("_", "IMPL")
    library.fallback(_run, "PrivateUse1")
    return library  # its registrations last as long as it does


def _made_here(make, counted):
    """A function that makes tensors on the CPU first, since C++ does more there than a device in Python can follow."""

    def made(*args, device=None, **kwargs):
        tensor = make(*args, **kwargs)
        if device is None or torch.device(device).type == "cpu":
            return tensor
        return tensor.to(device) if counted else There(tensor)

    return made


@pytest.fixture
def other_device():
    """The device; the counts start at 0."""
    if torch.cuda.is_available():
        pytest.skip("torch allows one kind of accelerator in a process, and here it is a GPU")
    if _register() is None:
        pytest.skip("this torch is too old: it cannot define a device in Python")
    counts.clear()
    copied.clear()
    with (
        patch.object(torch, "tensor", _made_here(torch.tensor, counted=True)),
        patch.object(torch, "arange", _made_here(torch.arange, counted=False)),
    ):
        yield torch.device("privateuseone:0")
