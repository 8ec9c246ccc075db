"""A model under a mask as one file that explains itself: ``.flash``."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import SparseModel
from flash_pl.wire.codec import VALUE_TYPES, Codec, Message, Sizes, decode_extra, encode_extra
from flash_pl.wire.header import DIMENSIONS, Header, Reader, Shapes
from flash_pl.wire.masks import layer_bytes

MAGIC = b"FLPM"
VERSION = 2
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
    header, ``Header``, a payload of ``Codec``, and the tensors that are neither masked nor float32, as a
    scheduler's are sent. All tensors are row-major, numbers little-endian. The mask is written out, never as the seed
    of a generator: another version of torch may draw other numbers.

    Args:
        values, compress: of the codec.

    Raises:
        ConfigError: a type of values that does not exist, or in which a weight is no number any more.
        ValueError: a tensor of a type or shape, or with a name, that cannot be written.
    """
    floats = [name for name, tensor in model.tensors.items() if tensor.dtype == torch.float32]
    for name in floats:
        if len(shape := model.tensors[name].shape) > DIMENSIONS:
            raise ValueError(f"{name}: a tensor {tuple(shape)} of torch.float32 cannot be sent")
    rest = [name for name in floats if name not in model.masks]
    layers, order = list(model.masks), [*model.masks, *rest]
    mask = torch.cat([model.masks[name].reshape(-1) for name in layers])
    described = Header(_shapes(model, layers), _shapes(model, rest), 0, model.facts)
    layout = described.layout()
    codec, arena = Codec(layout, values, compress), torch.zeros(layout.size)
    for slot in layout.slots:
        slot.view(arena).copy_(model.tensors[slot.name])
    weights = arena[: len(mask)]
    if not weights.to(codec.dtype).isfinite().equal(weights.isfinite()):
        raise ConfigError("values", values, f"a type that holds the largest weight, {float(weights.abs().max()):g}")
    payload = codec.encode(Message(arena, mask)).data
    text = replace(described, payload=len(payload)).encode()
    others = {name: tensor for name, tensor in model.tensors.items() if name not in order}
    body = text + payload + encode_extra(others, OTHERS)
    return MAGIC + bytes([VERSION, 0, 0, 0]) + _word(len(text)) + _word(zlib.crc32(body)) + body


def decode_flash(data: bytes, limit: int = 2**31) -> FlashFile:
    """What ``encode_flash`` wrote.

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
    header = Header.decode(bytes(reader.take(length)), limit)
    layout, payload = header.layout(), bytes(reader.take(header.payload))
    codec = Codec(layout)
    message = codec.decode(payload, draws=False)
    sizes, value_type = codec.sizes_of(payload, message), payload[5]
    others = decode_extra(reader, OTHERS)
    reader.end()
    tensors = {slot.name: slot.view(message.weights).clone() for slot in layout.slots}
    if twice := tensors.keys() & others.keys():
        raise PayloadError(f"{min(twice)!r}: a tensor that comes twice")
    masks = {layer.name: layer.view(message.mask).clone() for layer in layout.layers}
    model = SparseModel(tensors | others, masks, header.facts)
    return FlashFile(model, sizes, list(VALUE_TYPES)[value_type], len(data))


def load_flash(path: str | Path, limit: int = 2**31) -> dict[str, Tensor]:
    """The state dict in a ``.flash`` file, for ``load_state_dict`` of the network; pruned weights are 0.

    Masks and facts: ``decode_flash(Path(path).read_bytes()).model``.

    Raises:
        OSError: it cannot be read.
        PayloadError: a torn or foreign file, or more than ``limit`` elements.
    """
    return decode_flash(Path(path).read_bytes(), limit).model.tensors


def _shapes(model: SparseModel, names: Sequence[str]) -> Shapes:
    return [(name, list(model.tensors[name].shape)) for name in names]


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")
