"""A model under a mask as one file that explains itself: ``.flash``."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import Layout, SparseModel
from flash_pl.wire.codec import VALUE_TYPES, Codec, Message, Sizes
from flash_pl.wire.extra import DIMENSIONS, decode_extra, encode_extra
from flash_pl.wire.masks import MaskKind, layer_bytes
from flash_pl.wire.reader import Reader

MAGIC = b"FLPM"
VERSION = 1
HEAD = 16  # magic, version, three zero bytes, length of the header, checksum
OTHERS = 1 << 16  # at most so many tensors that are not float32


@dataclass(frozen=True)
class FlashFile:
    """What a ``.flash`` file says, and where its bytes go.

    ``sizes`` are those of the payload, whose values are of the type ``values``; ``size`` is the length of the file.
    """

    model: SparseModel
    sizes: Sizes
    values: str
    size: int

    def layer_bytes(self) -> dict[str, int]:
        """The bytes of the mask section that speak of each layer; empty where they cannot be told apart."""
        masks = self.model.masks
        flat = torch.cat([mask.reshape(-1) for mask in masks.values()])
        found = layer_bytes(self.sizes.kind, flat, [mask.numel() for mask in masks.values()])
        return dict(zip(masks, found, strict=True)) if found else {}


def encode_flash(model: SparseModel, values: str = "fp32", compress: bool = False) -> bytes:
    """The file of a model.

    It is: the magic FLPM, a version, three zero bytes, the length of the header and the CRC-32 of all that follows: the
    header, a payload of :class:`Codec`, and the tensors of other types than float32. The header is JSON: ``layers``,
    name and shape of each tensor that can be masked; ``rest``, those of the other float32 tensors; ``payload``, its
    length; ``facts``. All tensors are row-major. Numbers are little-endian. The mask is written out, never as the
    generator's seed: another version of torch may draw other numbers.

    Args:
        values, compress: of the codec.

    Raises:
        ConfigError: a type of values that does not exist, or in which a weight is no number any more.
        ValueError: a tensor of a type, or with a name, that cannot be written.
    """
    floats = [name for name, tensor in model.tensors.items() if tensor.dtype == torch.float32]
    rest = [name for name in floats if name not in model.masks]
    layers, order = list(model.masks), [*model.masks, *rest]
    layout = _layout([(name, model.tensors[name].shape) for name in order], len(layers))
    arena = torch.cat([model.tensors[name].float().reshape(-1) for name in order])
    mask = torch.cat([model.masks[name].reshape(-1) for name in layers])
    codec = Codec(layout, values, compress)
    if not (short := arena[: layout.maskable].to(codec.dtype)).isfinite().equal(arena[: layout.maskable].isfinite()):
        largest = float(arena[: layout.maskable].abs().max())
        raise ConfigError("values", values, f"a type that holds the largest weight, {largest:g}; not {short.dtype}")
    payload = codec.encode(Message(arena, mask)).data
    header = {
        "facts": model.facts,
        "layers": [[name, list(model.tensors[name].shape)] for name in layers],
        "rest": [[name, list(model.tensors[name].shape)] for name in rest],
        "payload": len(payload),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    others = {name: tensor for name, tensor in model.tensors.items() if name not in order}
    body = text + payload + encode_extra(others, OTHERS)
    return MAGIC + bytes([VERSION, 0, 0, 0]) + _word(len(text)) + _word(zlib.crc32(body)) + body


def decode_flash(data: bytes, limit: int = 2**31) -> FlashFile:
    """What :func:`encode_flash` wrote.

    Args:
        limit: elements of all tensors together. A short file can describe a huge sparse model; with more elements than
            that it is refused before any memory is taken for them.

    Raises:
        PayloadError: it did not write this.
    """
    reader = Reader(data)
    if bytes(reader.take(4)) != MAGIC:
        raise PayloadError("this is no .flash file")
    version, *zeros = reader.take(4)
    if version != VERSION or any(zeros):
        raise PayloadError(f"a .flash file of version {version} is not known")
    length, checksum = reader.integer(4), reader.integer(4)
    if checksum != zlib.crc32(reader.data[HEAD:]):
        raise PayloadError("the file is torn or altered: its checksum does not fit")
    layers, rest, size, facts = _header(bytes(reader.take(length)), limit)
    try:
        layout = _layout(layers + rest, len(layers))
    except ValueError as error:
        raise PayloadError(str(error)) from error
    codec, payload = Codec(layout), bytes(reader.take(size))
    message = codec.decode(payload)
    sizes, value_type = codec.sizes_of(payload, message), payload[5]
    if sizes.kind is MaskKind.SEED and not message.mask.all():
        raise PayloadError("the mask is written as a seed, which is for messages only")
    others = decode_extra(reader, OTHERS)
    reader.end()
    tensors = {slot.name: slot.view(message.weights).clone() for slot in layout.slots}
    if twice := tensors.keys() & others.keys():
        raise PayloadError(f"{min(twice)!r}: a tensor that comes twice")
    masks = {layer.name: layer.view(message.mask).clone() for layer in layout.layers}
    return FlashFile(SparseModel(tensors | others, masks, facts), sizes, list(VALUE_TYPES)[value_type], len(data))


def load_flash(path: str | Path, limit: int = 2**31) -> dict[str, Tensor]:
    """The state dict in a ``.flash`` file, for ``load_state_dict`` of the network; pruned weights are 0.

    Masks and facts: ``decode_flash(Path(path).read_bytes()).model``.

    Raises:
        OSError: it cannot be read.
        PayloadError: a torn or foreign file, or more than ``limit`` elements.
    """
    return decode_flash(Path(path).read_bytes(), limit).model.tensors


Shapes = list[tuple[str, Sequence[int]]]


def _header(text: bytes, limit: int) -> tuple[Shapes, Shapes, int, dict[str, str]]:
    """Layers, other tensors, length of the payload and facts, each checked."""
    try:
        header = json.loads(text)
        json.dumps(header, ensure_ascii=False).encode()  # JSON can hold half characters, which nobody can print
    except (ValueError, RecursionError) as error:
        raise PayloadError("the header is no JSON") from error
    if not isinstance(header, dict) or header.keys() != {"facts", "layers", "rest", "payload"}:
        raise PayloadError("the header has other keys than facts, layers, rest and payload")
    layers, rest = _shapes(header["layers"]), _shapes(header["rest"])
    elements = sum(prod(max(1, size) for size in shape) for _, shape in layers + rest)
    if elements > limit:
        raise PayloadError(f"a model of {elements} elements; at most {limit} are allowed")
    size, facts = header["payload"], header["facts"]
    if type(size) is not int:
        raise PayloadError("the length of the payload is no integer")
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise PayloadError("the facts are not names and texts")
    return layers, rest, size, facts


def _shapes(entries: Any) -> Shapes:
    if not isinstance(entries, list):
        raise PayloadError("the tensors are no list")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or not _is_shape(entry[1]):
            raise PayloadError(f"a tensor is described by a name and a shape, not by {str(entry)[:80]}")
    return [(name, shape) for name, shape in entries]


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    )


def _layout(shapes: Shapes, layers: int) -> Layout:
    """Row-major tensors one behind the other, the first ``layers`` maskable."""
    return Layout.from_plan([[name, place < layers, *_row_major(shape)] for place, (name, shape) in enumerate(shapes)])


def _row_major(shape: Sequence[int]) -> tuple[Sequence[int], list[int]]:
    """A shape and its strides."""
    return shape, [prod(max(1, size) for size in shape[place + 1 :]) for place in range(len(shape))]


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")
