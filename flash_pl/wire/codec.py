"""A model under a mask as bytes: what the server sends to a client, and a client to the server."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import Layout, pack_bits
from flash_pl.wire.header import DIMENSIONS, Reader, number
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask, positions

# The numbers on the wire are the places in this list.
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
TENSORS, NAME = 64, 256  # at most so many of them, so many bytes of a name


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


MAGIC = b"FLPL"
VERSION = 2
# Names that a config uses, in the order of the numbers on the wire.
VALUE_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HEADER = 12  # magic, version, value type, mask kind, 0, checksum


@dataclass(frozen=True)
class Message:
    """What a payload says.

    ``weights`` is an arena ``[layout.size]``, 0 where the ``mask``, bool ``[layout.maskable]``, is; ``samples`` and
    ``extra`` come from a client, with 0 and nothing from the server.
    """

    weights: Tensor
    mask: Tensor
    samples: int = 0
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How many bytes of a payload go where."""

    kind: MaskKind
    header: int  # also the length of the mask section and the number of samples
    mask: int
    values: int  # of active maskable weights
    rest: int  # other parameters, buffers and a scheduler's own tensors

    @property
    def total(self) -> int:
        """The length of the payload."""
        return self.header + self.mask + self.values + self.rest


@dataclass(frozen=True)
class Payload:
    """The bytes of a message."""

    data: bytes
    sizes: Sizes


class Codec:
    """Writes and reads the messages of models with one layout.

    A payload is: the magic FLPL, a version, the type of the values, the kind of the mask section, a zero byte and the
    CRC-32 of all that follows: the number of samples, the length of the mask section and that section, the values of
    the active weights in the order of the arena, the other parameters and the buffers in float32, and a scheduler's own
    tensors. Numbers are little-endian.

    Args:
        layout: of sender and receiver.
        values: type of the active weights on the wire, fp32, fp16 or bf16; the rest stays float32.
        compress: also try a compressed bitmap for the mask.

    Raises:
        ConfigError: no such type.
    """

    def __init__(self, layout: Layout, values: str = "fp32", compress: bool = False) -> None:
        if values not in VALUE_TYPES:
            raise ConfigError("values", values, f"one of {', '.join(VALUE_TYPES)}")
        self.layout, self.sizes = layout, layout.sizes.tolist()
        self.type, self.dtype, self.compress = list(VALUE_TYPES).index(values), VALUE_TYPES[values], compress

    def encode(self, message: Message, reference: Tensor | None = None, seed: int | None = None) -> Payload:
        """The payload of a message; ``reference`` and ``seed`` as in ``encode_mask``."""
        weights, mask, maskable = message.weights.detach().cpu().float(), message.mask.cpu(), self.layout.maskable
        kind, section = encode_mask(mask, self.sizes, reference, seed, self.compress)
        values = _bytes(weights[:maskable][mask].to(self.dtype))
        rest = _bytes(self.layout.read_others(weights)) + encode_extra(message.extra, maskable=maskable)
        body = b"".join([number(message.samples), number(len(section)), section, values, rest])
        head = MAGIC + bytes([VERSION, self.type, kind, 0]) + zlib.crc32(body).to_bytes(4, "little")
        parts = len(section), len(values), len(rest)
        return Payload(head + body, Sizes(kind, len(head) + len(body) - sum(parts), *parts))

    def measure(self, message: Message, reference: Tensor | None = None, seed: int | None = None) -> Sizes:
        """The sizes of what ``encode`` would return: the mask is encoded, values only need to be counted."""
        kind, section = encode_mask(message.mask, self.sizes, reference, seed, self.compress)
        header = HEADER + len(number(message.samples)) + len(number(len(section)))
        values = int(message.mask.count_nonzero()) * self.dtype.itemsize
        extra = encode_extra(message.extra, maskable=self.layout.maskable)
        rest = 4 * (self.layout.elements - self.layout.maskable) + len(extra)
        return Sizes(kind, header, len(section), values, rest)

    def sizes_of(self, data: bytes, message: Message) -> Sizes:
        """Where the bytes of a payload go, given the message that ``decode`` found in it."""
        reader = Reader(data)
        _, value_type, kind, _ = reader.take(HEADER)[4:8]
        reader.number(2**63 - 1)
        length = reader.number(len(data))
        values = int(message.mask.count_nonzero()) * list(VALUE_TYPES.values())[value_type].itemsize
        return Sizes(MaskKind(kind), reader.place, length, values, len(data) - reader.place - length - values)

    def decode(self, data: bytes, reference: Tensor | None = None, draws: bool = True) -> Message:
        """The message of a payload, on the CPU; ``draws`` as in ``decode_mask``.

        Raises:
            PayloadError: not a payload of this version and layout, altered on the way, or one against another
                ``reference``. Nothing larger than a model of this layout and ``data`` is ever made of it.
        """
        reader = Reader(data)
        if bytes(reader.take(4)) != MAGIC:
            raise PayloadError("these bytes are no payload of flash_pl")
        version, value_type, kind, zero = reader.take(4)
        if version != VERSION or value_type >= len(VALUE_TYPES) or zero:
            raise PayloadError(f"a payload of version {version} and value type {value_type} is not known")
        if reader.integer(4) != zlib.crc32(reader.data[HEADER:]):
            raise PayloadError("the payload was altered on the way: its checksum does not fit")
        samples, length = reader.number(2**63 - 1), reader.number(len(data))
        section = Reader(bytes(reader.take(length)))
        dtype, maskable = list(VALUE_TYPES.values())[value_type], self.layout.maskable
        left = (len(reader.data) - reader.place) // dtype.itemsize
        mask = decode_mask(kind, section, self.sizes, reference, left, draws)
        section.end()
        active = _tensor(reader, int(mask.count_nonzero()), dtype)
        others = _tensor(reader, self.layout.elements - maskable, torch.float32)
        weights = torch.zeros(self.layout.size)
        weights[:maskable][mask] = active.float()
        self.layout.write_others_(weights, others)
        extra = decode_extra(reader, maskable=maskable)
        reader.end()
        return Message(weights, mask, samples, extra)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _tensor(reader: Reader, count: int, dtype: torch.dtype) -> Tensor:
    taken = bytearray(reader.take(count * dtype.itemsize))
    return torch.frombuffer(taken, dtype=dtype) if count else torch.empty(0, dtype=dtype)
