"""A model under a mask as one file: the ``.flash`` format.

A ``.flash`` file contains a payload (``flash_pl.wire.codec``) and a header with the names and shapes that are needed to
read it. It has these bytes, in this order; integers are little-endian:

| bytes    | content                                                                                           |
|----------|---------------------------------------------------------------------------------------------------|
| 4        | ``FLPM``                                                                                          |
| 1        | version of the format, 2                                                                          |
| 3        | 0                                                                                                 |
| 4        | length h of the header                                                                            |
| 4        | CRC-32 of all bytes that follow                                                                   |
| h        | header: a JSON object with the keys below                                                         |
| p        | payload: mask, active weights and all other float32 tensors                                       |
| the rest | all tensors that are neither masked nor float32, encoded as the extra tensors of a payload        |

| key of the header | value                                                                                    |
|-------------------|------------------------------------------------------------------------------------------|
| ``layers``        | ``[name, shape]`` of each masked tensor, in the order of the payload                     |
| ``rest``          | ``[name, shape]`` of each other float32 tensor, in the order of the payload              |
| ``payload``       | length p of the payload                                                                  |
| ``facts``         | facts about the model, names and texts                                                   |

All tensors are row-major. The mask is never written as a seed, since another version of torch may draw another mask
from the same seed.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import Layout, SparseModel
from flash_pl.wire.codec import MAX_DIMENSIONS, Codec, Message, Sizes, decode_extra, encode_extra, value_type
from flash_pl.wire.masks import layer_bytes
from flash_pl.wire.reader import Reader

MAGIC = b"FLPM"
VERSION = 2
START_SIZE = 16  # bytes up to the checksum
MAX_OTHERS = 1 << 16  # the largest number of tensors that are neither masked nor float32


@dataclass(frozen=True)
class FlashFile:
    """The content of a ``.flash`` file and its sizes.

    Attributes:
        model: tensors, masks and facts.
        sizes: bytes of the payload by content.
        values: type of the active weights: fp32, fp16 or bf16.
        size: length of the file in bytes.
    """

    model: SparseModel
    sizes: Sizes
    values: str
    size: int

    def layer_bytes(self) -> dict[str, int]:
        """The bytes of each layer in the mask section; empty if the encoding does not separate layers."""
        masks = self.model.masks
        flat = torch.cat([mask.reshape(-1) for mask in masks.values()])
        counts = layer_bytes(self.sizes.kind, flat, [mask.numel() for mask in masks.values()])
        return dict(zip(masks, counts, strict=True)) if counts else {}


def encode_flash(model: SparseModel, values: str = "fp32", compress: bool = False) -> bytes:
    """Return the bytes of a ``.flash`` file.

    Args:
        model: to write.
        values: type of the active weights: fp32, fp16 or bf16. All other tensors keep their type.
        compress: also try a compressed bitmap for the mask.

    >>> mask = torch.arange(1000).view(10, 100) % 20 == 0
    >>> tensors = {"fc.weight": mask.float(), "fc.bias": torch.zeros(10)}
    >>> model = SparseModel(tensors, {"fc.weight": mask}, {"round": "3"})
    >>> data = encode_flash(model, values="fp16")
    >>> len(data)  # the dense tensors have 4040 bytes
    309
    >>> file = decode_flash(data)
    >>> file.model.facts, file.sizes.values, file.model.tensors["fc.weight"].equal(mask.float())
    ({'round': '3'}, 100, True)

    Raises:
        ConfigError: ``values`` is not such a type, or a weight is too large for it.
        ValueError: a tensor has an unsupported dtype, too many dimensions or too long a name.
    """
    floats = [name for name, tensor in model.tensors.items() if tensor.dtype == torch.float32]
    for name in floats:
        if len(shape := model.tensors[name].shape) > MAX_DIMENSIONS:
            raise ValueError(f"{name}: a tensor {tuple(shape)} of torch.float32 cannot be encoded")
    layers, rest = list(model.masks), [name for name in floats if name not in model.masks]
    mask = torch.cat([model.masks[name].reshape(-1) for name in layers])
    header = _Header(_shapes(model, layers), _shapes(model, rest), 0, model.facts)
    layout = header.layout()
    codec, arena = Codec(layout, values, compress), torch.zeros(layout.size)
    for slot in layout.slots:
        slot.view(arena).copy_(model.tensors[slot.name])
    weights = arena[: len(mask)]
    if not weights.to(codec.dtype).isfinite().equal(weights.isfinite()):
        problem = f"'{values}' cannot represent the largest weight, {float(weights.abs().max()):g}"
        raise ConfigError("values", problem, "use a type with a larger range")
    payload = codec.encode(Message(arena, mask)).data
    text = replace(header, payload=len(payload)).encode()
    others = {name: tensor for name, tensor in model.tensors.items() if name not in (*layers, *rest)}
    body = text + payload + encode_extra(others, MAX_OTHERS)
    start = MAGIC + bytes([VERSION, 0, 0, 0]) + len(text).to_bytes(4, "little")
    return start + zlib.crc32(body).to_bytes(4, "little") + body


def decode_flash(data: bytes, limit: int = 2**31) -> FlashFile:
    """Return the content of a ``.flash`` file; see ``encode_flash`` for an example.

    Args:
        data: bytes of the file.
        limit: the largest number of elements of all tensors together. A short file can describe a huge sparse model; it
            is refused before memory is allocated.

    Raises:
        PayloadError: ``data`` is not a complete, unaltered ``.flash`` file of this version, or has too many elements.
    """
    reader = Reader(data)
    if bytes(reader.take(4)) != MAGIC:
        raise PayloadError("this is not a .flash file")
    version, *zeros = reader.take(4)
    if version != VERSION or any(zeros):
        raise PayloadError(f"a .flash file of version {version} is not supported")
    length, checksum = reader.integer(4), reader.integer(4)
    if checksum != zlib.crc32(reader.data[START_SIZE:]):
        raise PayloadError("the checksum does not match: the file is incomplete or altered")
    header = _Header.decode(bytes(reader.take(length)), limit)
    layout, payload = header.layout(), bytes(reader.take(header.payload))
    codec = Codec(layout)
    message = codec.decode(payload, allow_seed=False)
    others = decode_extra(reader, MAX_OTHERS)
    reader.end()
    tensors = {slot.name: slot.view(message.weights).clone() for slot in layout.slots}
    if twice := tensors.keys() & others.keys():
        raise PayloadError(f"{min(twice)!r}: two tensors have this name")
    masks = {layer.name: layer.view(message.mask).clone() for layer in layout.layers}
    model = SparseModel(tensors | others, masks, header.facts)
    return FlashFile(model, codec.sizes_of(payload, message), value_type(payload), len(data))


def load_flash(path: str | Path, limit: int = 2**31) -> dict[str, Tensor]:
    """Return the state dict in a ``.flash`` file, for ``load_state_dict`` of the network; pruned weights are 0.

    ``decode_flash(Path(path).read_bytes()).model`` has the masks and facts too.

    Raises:
        OSError: the file cannot be read.
        PayloadError: see ``decode_flash``.
    """
    return decode_flash(Path(path).read_bytes(), limit).model.tensors


Shapes = Sequence[tuple[str, Sequence[int]]]  # names and shapes of row-major tensors


def _shapes(model: SparseModel, names: Sequence[str]) -> Shapes:
    return [(name, list(model.tensors[name].shape)) for name in names]


@dataclass(frozen=True)
class _Header:
    """The header of a ``.flash`` file; the attributes are the keys of the JSON object."""

    layers: Shapes
    rest: Shapes
    payload: int
    facts: dict[str, str]

    def encode(self) -> bytes:
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, text: bytes, limit: int) -> "_Header":
        """Return the header in a file, of a model with at most ``limit`` elements.

        Raises:
            PayloadError: the header is invalid or the model is larger.
        """
        try:
            header = json.loads(text)
            json.dumps(header, ensure_ascii=False).encode()  # fails for lone surrogates, which nobody can print
        except (ValueError, RecursionError) as error:
            raise PayloadError("the header is not JSON") from error
        if not isinstance(header, dict) or header.keys() != cls.__dataclass_fields__.keys():
            raise PayloadError(f"the keys of the header are not {', '.join(cls.__dataclass_fields__)}")
        layers, rest = _check_shapes(header["layers"]), _check_shapes(header["rest"])
        elements = sum(prod(max(1, size) for size in shape) for _, shape in [*layers, *rest])
        if elements > limit:
            raise PayloadError(f"the model has {elements} elements; at most {limit} are allowed")
        if type(header["payload"]) is not int:
            raise PayloadError("the length of the payload is not an integer")
        facts = header["facts"]
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise PayloadError("the facts are not names and texts")
        return cls(layers, rest, header["payload"], facts)

    def layout(self) -> Layout:
        """The layout of the payload.

        Raises:
            PayloadError: there are no masked tensors, or two tensors have the same name.
        """
        plan = [[name, "maskable", shape, _row_major(shape)] for name, shape in self.layers]
        plan += [[name, "parameter", shape, _row_major(shape)] for name, shape in self.rest]
        try:
            return Layout.from_specification(plan)
        except ValueError as error:
            raise PayloadError(str(error)) from error


def _check_shapes(entries: Any) -> Shapes:
    if not isinstance(entries, list):
        raise PayloadError("the tensors are not a list")
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or not _is_shape(entry[1]):
            raise PayloadError(f"a tensor is described by a name and a shape, not by {str(entry)[:80]}")
    return [(name, shape) for name, shape in entries]


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return False
    return all(type(size) is int and 0 <= size < 2**63 for size in value)


def _row_major(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor."""
    return [prod(max(1, size) for size in shape[place + 1 :]) for place in range(len(shape))]
