"""A module as it was before a step that is only tried: its structure and its Python attributes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy

from torch import nn

from flash_pl.client.python_state import OURS

STRUCTURE = ("_parameters", "_buffers", "_modules")


@contextmanager
def preserve_module(module: nn.Module) -> Iterator[None]:
    """Let the module work on copies of its Python attributes inside the ``with`` block, and then have its own again.

    Counters, lists, generators and tensors that are neither parameters nor buffers are then as they were, and so are
    submodules and the memory of parameters and buffers; the values in that memory are not restored. An attribute that
    cannot be copied, such as an open file, stays itself; so does what a class or the closure of a function holds.

    >>> layer = nn.Dropout(0.5)
    >>> layer.calls = [1]
    >>> with preserve_module(layer):
    ...     layer.calls.append(2)
    ...     layer.p = 0.1
    >>> layer.calls, layer.p
    ([1], 0.5)
    """
    parts, tensors = list(module.modules()), [*module.parameters(), *module.buffers()]
    memories, copies = [tensor.data for tensor in tensors], {id(own): own for own in (*parts, *tensors)}
    before = [(type(part), [dict(vars(part)[name]) for name in STRUCTURE], _attributes(part)) for part in parts]
    for part, (_, _, attributes) in zip(parts, before, strict=True):
        for key, value in attributes.items():
            with suppress(Exception):
                vars(part)[key] = deepcopy(value, copies)
    try:
        yield
    finally:
        for part, (kind, structure, attributes) in zip(parts, before, strict=True):
            part.__class__ = kind
            for key in _attributes(part):
                del vars(part)[key]
            vars(part).update(attributes)
            for name, own in zip(STRUCTURE, structure, strict=True):
                vars(part)[name].clear()
                vars(part)[name].update(own)
        for tensor, memory in zip(tensors, memories, strict=True):
            tensor.data = memory


def _attributes(part: nn.Module) -> dict[str, object]:
    return {key: value for key, value in vars(part).items() if key not in OURS and key not in STRUCTURE}
