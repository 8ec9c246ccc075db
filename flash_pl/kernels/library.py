"""The compiled kernels, if there are any: built with the package, loaded on first use."""

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.errors import ConfigError

ISAS = ("avx512", "avx2", "baseline")  # the widest first
VARIABLE = "FLASH_PL_ISA"
# Of the functions in csrc/native.c: p for a pointer, n for a whole number, f for a float.
ARGUMENTS = {
    "gather": "ppnp",
    "scatter": "ppnp",
    "update": "pppnff",
    "forward": "pppppnnnpp",
    "backward": "ppppppnnnnnpppp",
    "pool_forward": "ppnnppp",
    "pool_backward": "pppnnpp",
}
_TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float}


@cache
def library() -> ctypes.CDLL | None:
    """The library with an instruction set chosen: the one that ``FLASH_PL_ISA`` names, or the widest of this machine.

    None where the package was installed without a compiler.

    Raises:
        ConfigError: the machine lacks what ``FLASH_PL_ISA`` names.
    """
    folder = Path(__file__).parent
    found = [path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_native{suffix}").is_file()]
    if not found:
        return None
    loaded = ctypes.CDLL(str(found[0]))
    loaded.flash_pl_use.argtypes = [ctypes.c_char_p]
    for name, arguments in ARGUMENTS.items():
        function = getattr(loaded, f"flash_pl_{name}")
        function.argtypes, function.restype = [_TYPES[letter] for letter in arguments], None
    wanted = os.environ.get(VARIABLE)
    for name in [wanted] if wanted else ISAS:
        if loaded.flash_pl_use(name.encode()):
            return loaded
    raise ConfigError(VARIABLE, wanted, f"one of {', '.join(ISAS)} that this machine has")


def available() -> bool:
    """Whether there are compiled kernels."""
    return library() is not None


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor begins."""
    return None if tensor is None else tensor.data_ptr()


class Workspace:
    """Scratch memory of a thread; it grows to what was needed most."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def floats(self, count: int) -> int:
        """Where ``count`` floats begin, until the next call."""
        if len(self.memory) < count:
            self.memory = torch.empty(count)
        return self.memory.data_ptr()
