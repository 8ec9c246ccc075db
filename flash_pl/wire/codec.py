"""A model under a mask as bytes: the payloads that server and clients send to each other.

A payload has these bytes, in this order. Integers are little-endian; a varint is written by ``encode_varint``.

| bytes               | content                                                                                |
|---------------------|----------------------------------------------------------------------------------------|
| 4                   | ``FLPL``                                                                               |
| 1                   | version of the format, 2                                                               |
| 1                   | type of the active weights: 0 float32, 1 float16, 2 bfloat16                           |
| 1                   | kind of the mask section (``MaskKind``)                                                |
| 1                   | 0                                                                                      |
| 4                   | CRC-32 of all bytes that follow                                                        |
| varint              | number of training samples of the client; 0 from the server                            |
| varint              | length m of the mask section                                                           |
| m                   | mask section (``flash_pl.wire.masks``)                                                 |
| 4 or 2 per weight   | active weights, in the order of the arena                                              |
| 4 per element       | other parameters and floating-point buffers, float32, in the order of the arena;       |
|                     | frozen parameters are not sent                                                         |
| the rest            | extra tensors: those of the scheduler                                                  |

Extra tensors are a varint with their number, then for each tensor:

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

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from flash_pl.checks import check_choice
from flash_pl.errors import PayloadError
from flash_pl.sparsity import Layout, pack_bits
from flash_pl.wire.mask_size import measure_mask
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask, encode_positions, to_cpu
from flash_pl.wire.reader import Reader, encode_varint

MAGIC = b"FLPL"
VERSION = 2
HEADER_SIZE = 12  # bytes up to the checksum
# The types of active weights by their names in a config. The index in this order is the number in a payload.
VALUE_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Message:
    """The content of a payload.

    Attributes:
        weights: an arena ``[layout.size]``; pruned weights are 0. Frozen parameters are not sent; after decoding they
            are 0.
        mask: bool ``[layout.maskable]``.
        samples: number of training samples of the client; 0 from the server.
        extra: the scheduler's own tensors by name; empty from the server.
    """

    weights: Tensor
    mask: Tensor
    samples: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """The bytes of a payload by content.

    Attributes:
        kind: of the mask section.
        header: magic to checksum, the number of samples and the length of the mask section.
        mask: the mask section.
        values: the active weights.
        rest: other parameters, buffers and extra tensors.
    """

    kind: MaskKind
    header: int
    mask: int
    values: int
    rest: int

    @property
    def total(self) -> int:
        """The length of the payload."""
        return self.header + self.mask + self.values + self.rest


@dataclass(frozen=True)
class Payload:
    """An encoded message."""

    data: bytes
    sizes: Sizes


class Codec:
    """Encodes and decodes the messages of models with one layout.

    Args:
        layout: of the model, the same at the sender and the receiver.
        values: type of the active weights in the payload: fp32, fp16 or bf16. All other tensors stay float32.
        compress: also try a compressed bitmap for the mask.

    >>> layout = Layout(torch.nn.Linear(100, 10))  # 1000 maskable weights and 10 biases
    >>> mask = torch.arange(layout.maskable) % 20 == 0
    >>> weights = torch.ones(layout.size)
    >>> weights[: layout.maskable] *= mask
    >>> codec = Codec(layout)
    >>> payload = codec.encode(Message(weights, mask, samples=600))
    >>> payload.sizes
    Sizes(kind=<MaskKind.POSITIONS: 3>, header=15, mask=40, values=200, rest=41)
    >>> message = codec.decode(payload.data)
    >>> message.weights.equal(weights), message.mask.equal(mask), message.samples
    (True, True, 600)

    Raises:
        ConfigError: ``values`` is not such a type.
    """

    def __init__(self, layout: Layout, values: str = "fp32", compress: bool = False) -> None:
        check_choice(*VALUE_TYPES, values=values)
        self.layout, self.sizes = layout, layout.sizes.tolist()
        self.values, self.dtype, self.compress = values, VALUE_TYPES[values], compress

    def encode(self, message: Message, reference: Tensor | None = None, seed: int | None = None) -> Payload:
        """Return the payload of a message; see ``encode_mask`` for ``reference`` and ``seed``.

        Raises:
            ValueError: an extra tensor cannot be encoded.
        """
        weights, mask, maskable = message.weights.detach().cpu().float(), message.mask.cpu(), self.layout.maskable
        kind, section = encode_mask(mask, self.sizes, reference, seed, self.compress)
        values = _to_bytes(weights[:maskable][mask].to(self.dtype))
        rest = _to_bytes(self.layout.read_others(weights)) + encode_extra(message.extra, max_bools=maskable)
        body = b"".join([encode_varint(message.samples), encode_varint(len(section)), section, values, rest])
        head = MAGIC + bytes([VERSION, list(VALUE_TYPES).index(self.values), kind, 0])
        head += zlib.crc32(body).to_bytes(4, "little")
        parts = len(section), len(values), len(rest)
        return Payload(head + body, Sizes(kind, len(head) + len(body) - sum(parts), *parts))

    def measure(self, message: Message, reference: Tensor | None = None, seed: int | None = None) -> Sizes:
        """Return the sizes of the payload that ``encode`` would return.

        Extra tensors are encoded, and so is the mask on a CPU, where that is faster than counting its bytes; the other
        values are only counted.
        """
        if message.mask.device.type == "cpu" or self.compress:
            kind, section = encode_mask(message.mask, self.sizes, reference, seed, self.compress)
            length = len(section)
        else:
            kind, length = measure_mask(message.mask, self.sizes, reference, seed)
        header = HEADER_SIZE + len(encode_varint(message.samples)) + len(encode_varint(length))
        values = int(message.mask.count_nonzero()) * self.dtype.itemsize
        extra = encode_extra(message.extra, max_bools=self.layout.maskable)
        rest = 4 * (self.layout.sent - self.layout.maskable) + len(extra)
        return Sizes(kind, header, length, values, rest)

    def sizes_of(self, data: bytes, message: Message) -> Sizes:
        """Return the sizes of a payload, given the message that ``decode`` returned for it."""
        reader = Reader(data)
        kind = reader.take(HEADER_SIZE)[6]
        reader.varint(2**63 - 1)
        length = reader.varint(len(data))
        values = int(message.mask.count_nonzero()) * VALUE_TYPES[value_type(data)].itemsize
        return Sizes(MaskKind(kind), reader.offset, length, values, reader.left - length - values)

    def decode(self, data: bytes, reference: Tensor | None = None, allow_seed: bool = True) -> Message:
        """Return the message of a payload, on the CPU; see ``decode_mask`` for ``allow_seed``.

        The payload may be of any value type. Its memory is bounded by the sizes of the layout and of ``data``, whatever
        ``data`` contains.

        Raises:
            PayloadError: ``data`` is not a payload of this version and layout, was altered on the way, or refers to
                another ``reference``.
        """
        reader = Reader(data)
        if bytes(reader.take(4)) != MAGIC:
            raise PayloadError("these bytes are not a payload of flash_pl")
        version, type_index, kind, zero = reader.take(4)
        if version != VERSION or type_index >= len(VALUE_TYPES) or zero:
            raise PayloadError(f"a payload of version {version} with value type {type_index} is not supported")
        if reader.integer(4) != zlib.crc32(reader.data[HEADER_SIZE:]):
            raise PayloadError("the checksum does not match: the payload was altered on the way")
        samples, length = reader.varint(2**63 - 1), reader.varint(len(data))
        section = Reader(bytes(reader.take(length)))
        dtype, maskable = VALUE_TYPES[value_type(data)], self.layout.maskable
        mask = decode_mask(kind, section, self.sizes, reference, reader.left // dtype.itemsize, allow_seed)
        section.end()
        active = _read_tensor(reader, int(mask.count_nonzero()), dtype)
        others = _read_tensor(reader, self.layout.sent - maskable, torch.float32)
        weights = torch.zeros(self.layout.size)
        weights[:maskable][mask] = active.float()
        self.layout.write_others_(weights, others)
        extra = decode_extra(reader, max_bools=maskable)
        reader.end()
        return Message(weights, mask, samples, extra)


def value_type(data: bytes) -> str:
    """Return the type of the active weights in a payload that ``Codec.decode`` accepts: fp32, fp16 or bf16."""
    return list(VALUE_TYPES)[data[5]]


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


def encode_extra(extra: Mapping[str, Tensor], max_tensors: int = MAX_TENSORS, max_bools: int = 0) -> bytes:
    """Return the bytes of extra tensors (see the table above).

    Args:
        extra: tensors by name.
        max_tensors: the largest number of tensors allowed.
        max_bools: a bool tensor with at most so many elements is written as POSITIONS if that is shorter than BITMAP.
            The receiver refuses longer ones, because a few bytes of POSITIONS can stand for a huge tensor.

    Raises:
        ValueError: too many tensors, or one with an unsupported dtype, too many dimensions or too long a name.
    """
    if len(extra) > max_tensors:
        raise ValueError(f"{len(extra)} extra tensors are more than {max_tensors}, the most that can be encoded")
    parts = [encode_varint(len(extra))]
    for name, tensor in extra.items():
        text = name.encode()
        if tensor.dtype not in EXTRA_DTYPES or tensor.ndim > MAX_DIMENSIONS or len(text) > MAX_NAME:
            raise ValueError(f"{name}: a tensor {tuple(tensor.shape)} of {tensor.dtype} cannot be encoded")
        parts += [encode_varint(len(text)), text, bytes([EXTRA_DTYPES.index(tensor.dtype)])]
        parts += [encode_varint(size) for size in (tensor.ndim, *tensor.shape)]
        flat = tensor.detach().reshape(-1)
        parts.append(_encode_bools(flat, max_bools) if tensor.dtype == torch.bool else _to_bytes(flat.cpu()))
    return b"".join(parts)


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
        shape = [reader.varint(2**40) for _ in range(reader.varint(MAX_DIMENSIONS))]
        if prod(max(1, size) for size in shape) >= 2**62:  # torch overflows above, even if another size is 0
            raise PayloadError(f"{name!r}: the shape {shape} is too large")
        count = prod(shape)
        values = _decode_bools(reader, count, max_bools) if dtype == torch.bool else _read_tensor(reader, count, dtype)
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


def _to_bytes(tensor: Tensor) -> bytes:
    """The values of a flat tensor on the CPU."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _read_tensor(reader: Reader, count: int, dtype: torch.dtype) -> Tensor:
    """A flat tensor of ``count`` values that shares no memory with the payload."""
    data = bytearray(reader.take(count * dtype.itemsize))
    return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
