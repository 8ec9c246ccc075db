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
| the rest            | extra tensors: those of the scheduler (``flash_pl.wire.extra``)                        |

All weights, parameters and buffers are finite numbers.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor

from flash_pl.checks import check_choice
from flash_pl.errors import MessageError, PayloadError
from flash_pl.sparsity import Layout
from flash_pl.wire.extra import decode_extra, encode_extra, read_tensor, to_bytes
from flash_pl.wire.mask_size import measure_mask
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask
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
            MessageError: a number is not finite or too large for its type, the number of samples is not an integer in
                [0, 2^63), or an extra tensor cannot be encoded.
        """
        self._check(message)
        weights, mask, maskable = message.weights.detach().cpu().float(), message.mask.cpu(), self.layout.maskable
        kind, section = encode_mask(mask, self.sizes, reference, seed, self.compress)
        active, others = weights[:maskable][mask].to(self.dtype), self.layout.read_others(weights)
        if not (active.isfinite().all() and others.isfinite().all()):
            raise MessageError(self._describe_not_finite(message))
        values = to_bytes(active)
        rest = to_bytes(others) + encode_extra(message.extra, max_bools=maskable)
        body = b"".join([encode_varint(int(message.samples)), encode_varint(len(section)), section, values, rest])
        head = MAGIC + bytes([VERSION, list(VALUE_TYPES).index(self.values), kind, 0])
        head += zlib.crc32(body).to_bytes(4, "little")
        parts = len(section), len(values), len(rest)
        return Payload(head + body, Sizes(kind, len(head) + len(body) - sum(parts), *parts))

    def _check(self, message: Message) -> None:
        """Check shapes and dtype, which are the caller's, and the number of samples."""
        shapes = message.weights.shape, message.mask.shape, message.mask.dtype
        if shapes != ((self.layout.size,), (self.layout.maskable,), torch.bool):
            raise MessageError(f"weights and mask have {shapes}, not {self.layout.size} weights under a mask")
        if not isinstance(message.samples, Integral) or isinstance(message.samples, bool):
            raise MessageError(f"{message.samples!r} is not a number of samples")

    def _describe_not_finite(self, message: Message) -> str:
        """Names the first number that cannot be carried."""
        given, maskable = message.weights.detach().cpu(), self.layout.maskable
        active = torch.where(message.mask.cpu(), given[:maskable].float(), 0.0).to(self.dtype).float()
        carried = torch.cat([active, given[maskable:].float()])
        bad = ~carried[: self.layout.frozen].isfinite()
        index = int(bad.nonzero()[0])
        name, value = next(slot.name for slot in self.layout.slots if index < slot.stop), float(given[index])
        if not math.isfinite(value):
            return f"{name} has the value {value:g}, which is not finite"
        return f"{name} has the value {value:g}, which {self.values if index < maskable else 'fp32'} cannot hold"

    def measure(self, message: Message, reference: Tensor | None = None, seed: int | None = None) -> Sizes:
        """Return the sizes of the payload that ``encode`` would return.

        Extra tensors are encoded, and so is the mask on a CPU, where that is faster than counting its bytes; the other
        values are only counted.
        """
        self._check(message)
        if message.mask.device.type == "cpu" or self.compress:
            kind, section = encode_mask(message.mask, self.sizes, reference, seed, self.compress)
            length = len(section)
        else:
            kind, length = measure_mask(message.mask, self.sizes, reference, seed)
        header = HEADER_SIZE + len(encode_varint(int(message.samples))) + len(encode_varint(length))
        values = int(message.mask.count_nonzero()) * self.dtype.itemsize
        extra = encode_extra(message.extra, max_bools=self.layout.maskable)
        rest = 4 * (self.layout.sent - self.layout.maskable) + len(extra)
        return Sizes(kind, header, length, values, rest)

    def decode(self, data: bytes, reference: Tensor | None = None) -> Message:
        """Return the message of a payload, on the CPU.

        The payload may be of any value type. Its memory is bounded by the sizes of the layout and of ``data``, whatever
        ``data`` contains.

        Raises:
            PayloadError: ``data`` is not a payload of this version and layout, was altered on the way, holds a weight
                that is not finite, or refers to another ``reference``.
        """
        payload, maskable = open_payload(data), self.layout.maskable
        reader, dtype = payload.rest, VALUE_TYPES[payload.values]
        mask = decode_mask(payload.kind, payload.section, self.sizes, reference, reader.left // dtype.itemsize)
        payload.section.end()
        active = read_tensor(reader, int(mask.count_nonzero()), dtype)
        others = read_tensor(reader, self.layout.sent - maskable, torch.float32)
        weights = torch.zeros(self.layout.size)
        weights[:maskable][mask] = active.float()
        self.layout.write_others_(weights, others)
        if not (active.isfinite().all() and others.isfinite().all()):
            raise PayloadError(f"a weight of {self.layout.slot_of_largest(weights)} is not finite")
        extra = decode_extra(reader, max_bools=maskable)
        reader.end()
        return Message(weights, mask, payload.samples, extra)


@dataclass(frozen=True)
class OpenPayload:
    """A payload whose header is read and whose mask is not decoded yet.

    Attributes:
        values: type of the active weights: fp32, fp16 or bf16.
        kind: of the mask section; it may be no ``MaskKind``.
        samples: number of training samples of the client.
        header: bytes up to the mask section.
        section: reads the mask section.
        rest: reads what follows.
    """

    values: str
    kind: int
    samples: int
    header: int
    section: Reader
    rest: Reader


def open_payload(data: bytes) -> OpenPayload:
    """Read the header of a payload.

    Raises:
        PayloadError: ``data`` is not a payload of this version, or was altered on the way.
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
    header = reader.offset
    section = Reader(bytes(reader.take(length)))
    return OpenPayload(list(VALUE_TYPES)[type_index], kind, samples, header, section, reader)
