"""Models as safetensors, whole or as indices and values."""

import json

import torch
from safetensors.torch import save
from torch import Tensor

from flash_pl.errors import ConfigError
from flash_pl.sparsity import SparseModel

VERSION = "1"
PARTS = ("indices", "values", "shape")


def to_safetensors(model: SparseModel, sparse: bool = False) -> bytes:
    """A safetensors file with the model's state dict, row-major; its metadata are the facts as text.

    Args:
        sparse: instead of each tensor NAME that can be masked, write ``NAME.indices``, the flat row-major positions of
            its active weights (int32 ``[nnz]``), ``NAME.values`` (``[nnz]``) and ``NAME.shape`` (int64).

    Raises:
        ConfigError: a sparse tensor of 2^31 elements or more.
        ValueError: a tensor of a type that safetensors does not have.
    """
    tensors = dict(model.tensors)
    for name, mask in model.masks.items() if sparse else ():
        tensors |= _parts(name, tensors.pop(name), mask)
    layers = {name: round(density, 6) for name, density in model.densities.items()}
    layout = {"format_version": VERSION, "layout": "sparse" if sparse else "dense"}
    metadata = layout | model.facts | {"layer_density": json.dumps(layers)}
    try:
        return _repeatable(save(tensors, metadata))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"safetensors cannot hold this model ({error})") from error


def _parts(name: str, tensor: Tensor, mask: Tensor) -> dict[str, Tensor]:
    if tensor.numel() >= 2**31:
        raise ConfigError("sparse", name, "tensors below 2^31 elements; export this model dense")
    places = mask.reshape(-1).nonzero().squeeze(1)
    parts = places.int(), tensor.reshape(-1)[places], torch.tensor(tensor.shape, dtype=torch.int64)
    return {f"{name}.{part}": value for part, value in zip(PARTS, parts, strict=True)}


def _repeatable(content: bytes) -> bytes:
    """The same file with its metadata in alphabetical order; the library's own order is another one in every run."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]
