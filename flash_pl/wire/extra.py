"""Tensors of any supported dtype and shape as bytes, by name: those of a scheduler, and of a file besides its weights.

They are a varint with their number, then for each tensor:

| bytes               | content                                                                                |
|---------------------|----------------------------------------------------------------------------------------|
| varint              | length of the name in bytes                                                            |
| this length         | name in UTF-8                                                                          |
| 1                   | dtype: its index in ``EXTRA_DTYPES``                                                   |
| varint              | number of dimensions                                                                   |
| varint each         | sizes                                                                                  |
| itemsize per element| values, row-major; not for bool                                                        |
| 1, varint, length   | bool only: kind of a mask section (BITMAP or POSITIONS), its length, the section       |
"""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from flash_pl.errors import MessageError, PayloadError
from flash_pl.sparsity import pack_bits
from flash_pl.wire.masks import MaskKind, decode_mask, encode_positions, to_cpu
from flash_pl.wire.reader import Reader, encode_varint

# The dtypes of extra tensors. The index in this order is the number in a payload.
EXTRA_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
MAX_TENSORS = 64
MAX_NAME = 256  # bytes
MAX_DIMENSIONS = 8
MAX_SIZE = 2**40  # of a dimension


def encode_extra(extra: Mapping[str, Tensor], max_tensors: int = MAX_TENSORS, max_bools: int = 0) -> bytes:
    """Return the bytes of extra tensors (see the table above).

    Args:
        extra: tensors by name.
        max_tensors: the largest number of tensors allowed.
        max_bools: a bool tensor with at most so many elements is written as POSITIONS if that is shorter than BITMAP.
            The receiver refuses longer ones, because a few bytes of POSITIONS can stand for a huge tensor.

    Raises:
        MessageError: too many tensors, or one with an unsupported dtype, too large a shape or an unsuitable name.
    """
    if len(extra) > max_tensors:
        raise MessageError(f"{len(extra)} extra tensors are more than {max_tensors}, the most that can be encoded")
    parts = [encode_varint(len(extra))]
    for name, tensor in extra.items():
        text = check_extra(name, tensor)
        parts += [encode_varint(len(text)), text, bytes([EXTRA_DTYPES.index(tensor.dtype)])]
        parts += [encode_varint(size) for size in (tensor.ndim, *tensor.shape)]
        flat = tensor.detach().reshape(-1)
        parts.append(_encode_bools(flat, max_bools) if tensor.dtype == torch.bool else to_bytes(flat.cpu()))
    return b"".join(parts)


def check_extra(name: str, tensor: Tensor) -> bytes:
    """Return the name of a tensor in UTF-8.

    Raises:
        MessageError: the tensor cannot be encoded.
    """
    try:
        text = name.encode()
    except UnicodeEncodeError:
        text = bytes(MAX_NAME + 1)
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if len(text) > MAX_NAME or tensor.dtype not in EXTRA_DTYPES or not dense or not _has_valid_shape(tensor.shape):
        kind = f"{tensor.dtype}" if tensor.layout == torch.strided else f"{tensor.dtype} and layout {tensor.layout}"
        raise MessageError(f"{name[:MAX_NAME]!a}: a tensor {tuple(tensor.shape)} of {kind} cannot be encoded")
    return text


def _has_valid_shape(shape: torch.Size | list[int]) -> bool:
    """Whether a shape has few and small dimensions; torch overflows above 2^62, even if another size is 0."""
    return (
        len(shape) <= MAX_DIMENSIONS
        and all(size <= MAX_SIZE for size in shape)
        and prod(max(1, size) for size in shape) < 2**62
    )


def decode_extra(reader: Reader, max_tensors: int = MAX_TENSORS, max_bools: int = 0) -> dict[str, Tensor]:
    """Return the tensors that ``encode_extra`` wrote, with the same ``max_tensors`` and ``max_bools``.

    Raises:
        PayloadError: the bytes are not valid extra tensors.
    """
    extra: dict[str, Tensor] = {}
    for _ in range(reader.varint(max_tensors)):
        try:
            name = bytes(reader.take(reader.varint(MAX_NAME))).decode()
        except UnicodeDecodeError as error:
            raise PayloadError("the name of a tensor is not UTF-8") from error
        index = reader.integer(1)
        if index >= len(EXTRA_DTYPES):
            raise PayloadError(f"{name!r}: dtype {index} is not supported")
        if name in extra:
            raise PayloadError(f"{name!r}: two tensors have this name")
        dtype = EXTRA_DTYPES[index]
        shape = [reader.varint(MAX_SIZE) for _ in range(reader.varint(MAX_DIMENSIONS))]
        if not _has_valid_shape(shape):
            raise PayloadError(f"{name!r}: the shape {shape} is too large")
        count = prod(shape)
        values = _decode_bools(reader, count, max_bools) if dtype == torch.bool else read_tensor(reader, count, dtype)
        extra[name] = values.reshape(shape)
    return extra


def _encode_bools(values: Tensor, max_bools: int) -> bytes:
    """The kind of a mask section, its length and the section."""
    bits = pack_bits(values)
    kind, section = MaskKind.BITMAP, bits.numpy().tobytes()
    if len(values) <= max_bools:
        positions = encode_positions(to_cpu(values, bits), [len(values)])
        if len(positions) < len(section):
            kind, section = MaskKind.POSITIONS, positions
    return bytes([kind]) + encode_varint(len(section)) + section


def _decode_bools(reader: Reader, count: int, max_bools: int) -> Tensor:
    """``count`` bools; ``count`` is at most the number of bits in the payload, or ``max_bools`` for POSITIONS."""
    kind = reader.integer(1)
    section = Reader(bytes(reader.take(reader.varint(len(reader.data)))))
    if kind != MaskKind.BITMAP and not (kind == MaskKind.POSITIONS and count <= max_bools):
        raise PayloadError(f"a tensor of {count} bools cannot be a mask section of kind {kind}")
    values = decode_mask(kind, section, [count])
    section.end()
    return values


def to_bytes(tensor: Tensor) -> bytes:
    """The values of a flat tensor on the CPU."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def read_tensor(reader: Reader, count: int, dtype: torch.dtype) -> Tensor:
    """A flat tensor of ``count`` values that shares no memory with the payload."""
    data = bytearray(reader.take(count * dtype.itemsize))
    return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
