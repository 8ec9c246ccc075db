"""A model under a mask as bytes: what the server sends to a client, and a client to the server."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import Layout
from flash_pl.wire.extra import decode_extra, encode_extra
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask
from flash_pl.wire.reader import Reader, number

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
