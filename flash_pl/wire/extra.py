"""A scheduler's own tensors on the wire."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from flash_pl.errors import PayloadError
from flash_pl.sparsity import pack_bits
from flash_pl.wire.masks import MaskKind, decode_mask, positions
from flash_pl.wire.reader import Reader, number

# The numbers on the wire are the places in this list.
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
TENSORS, DIMENSIONS, NAME = 64, 8, 256  # at most so many of them, so many dimensions, so many bytes of a name


def encode_extra(extra: Mapping[str, Tensor], limit: int = TENSORS, maskable: int = 0) -> bytes:
    """The number of tensors, at most ``limit``; of each its name, type, shape and values.

    Truth values are written like a mask, at most a bit each; fewer where there are at most ``maskable`` of them, most
    of them false.

    Raises:
        ValueError: a type that is not in ``TYPES``, or more than is allowed.
    """
    if len(extra) > limit:
        raise ValueError(f"at most {limit} further tensors can be written, not {len(extra)}")
    parts = [number(len(extra))]
    for name, tensor in extra.items():
        written = name.encode()
        if tensor.dtype not in TYPES or tensor.ndim > DIMENSIONS or len(written) > NAME:
            raise ValueError(f"{name}: a tensor {tuple(tensor.shape)} of {tensor.dtype} cannot be sent")
        parts += [number(len(written)), written, bytes([TYPES.index(tensor.dtype)]), number(tensor.ndim)]
        parts += [number(size) for size in tensor.shape]
        if tensor.dtype == torch.bool:
            parts += _write_truth(tensor.detach().cpu().reshape(-1), maskable)
        elif tensor.numel():
            parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return b"".join(parts)


def decode_extra(reader: Reader, limit: int = TENSORS, maskable: int = 0) -> dict[str, Tensor]:
    """What ``encode_extra`` wrote, with the same ``limit`` and ``maskable``.

    Raises:
        PayloadError: it did not write this.
    """
    found: dict[str, Tensor] = {}
    for _ in range(reader.number(limit)):
        try:
            name = bytes(reader.take(reader.number(NAME))).decode()
        except UnicodeDecodeError as error:
            raise PayloadError("the name of a tensor is no text") from error
        kind = reader.integer(1)
        if kind >= len(TYPES) or name in found:
            raise PayloadError(f"{name!r}: a tensor of type {kind}, or one that comes twice")
        dtype = TYPES[kind]
        shape = [reader.number(2**40) for _ in range(reader.number(DIMENSIONS))]
        if prod(max(1, size) for size in shape) >= 2**62:  # more than torch can count, even where one size is 0
            raise PayloadError(f"{name!r}: a shape {shape}")
        if dtype == torch.bool:
            found[name] = _read_truth(reader, prod(shape), maskable).reshape(shape)
            continue
        taken = bytearray(reader.take(prod(shape) * dtype.itemsize))
        values = torch.frombuffer(taken, dtype=dtype) if taken else torch.empty(0, dtype=dtype)
        found[name] = values.reshape(shape)
    return found


def _write_truth(values: Tensor, maskable: int) -> list[bytes]:
    """The kind of a mask section, its length, the section."""
    kind, section = MaskKind.BITMAP, pack_bits(values).numpy().tobytes()
    if len(values) <= maskable and len(sparse := positions(values, [len(values)])) < len(section):
        kind, section = MaskKind.POSITIONS, sparse
    return [bytes([kind]), number(len(section)), section]


def _read_truth(reader: Reader, count: int, maskable: int) -> Tensor:
    """``count`` of them; never more than the payload has bits, or ``maskable``."""
    kind = reader.integer(1)
    section = Reader(bytes(reader.take(reader.number(len(reader.data)))))
    if kind != MaskKind.BITMAP and not (kind == MaskKind.POSITIONS and count <= maskable):
        raise PayloadError(f"{count} truth values cannot be written as a mask section {kind}")
    found = decode_mask(kind, section, [count])
    section.end()
    return found
