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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.sparsity import Layout, SparseModel
from flash_pl.wire.codec import VALUE_TYPES, Codec, Message, Sizes, open_payload
from flash_pl.wire.extra import MAX_DIMENSIONS, MAX_NAME, check_extra, decode_extra, encode_extra, read_tensor
from flash_pl.wire.layer_masks import decode_layers
from flash_pl.wire.masks import MaskKind
from flash_pl.wire.reader import Reader

MAGIC = b"FLPM"
VERSION = 2
START_SIZE = 16  # bytes up to the checksum
MAX_OTHERS = 1 << 16  # the largest number of tensors that are neither masked nor float32
MAX_ELEMENTS = 1 << 48  # positions of all weights fit into 64 bits
# The default limit of a model's elements. A model of density 0.0001 with values of two bytes has about 2600 elements
# for each byte of its file, a dense one a quarter.
MIN_LIMIT, ELEMENTS_PER_BYTE = 1 << 22, 1 << 12


@dataclass(frozen=True)
class SparseTensor:
    """A masked tensor by its active weights.

    Attributes:
        shape: of the tensor.
        positions: of the active weights in the flat tensor, row-major and increasing, int64 ``[active]``.
        values: of the active weights, float32 ``[active]``.
        mask_bytes: bytes of its mask in the file; None if the encoding does not separate layers.
    """

    shape: tuple[int, ...]
    positions: Tensor
    values: Tensor
    mask_bytes: int | None

    @property
    def elements(self) -> int:
        """Number of weights, active or not."""
        return prod(self.shape)


@dataclass(frozen=True)
class FlashFile:
    """The content of a ``.flash`` file and its sizes. The memory is that of the file until ``model`` is used.

    Attributes:
        masked: the masked tensors by their active weights.
        tensors: all other tensors.
        facts: about the model.
        sizes: bytes of the payload by content.
        values: type of the active weights: fp32, fp16 or bf16.
        size: length of the file in bytes.
    """

    masked: Mapping[str, SparseTensor]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str]
    sizes: Sizes
    values: str
    size: int

    @cached_property
    def model(self) -> SparseModel:
        """The dense tensors, their masks, and the facts."""
        tensors, masks = {}, {}
        for name, sparse in self.masked.items():
            tensors[name], masks[name] = torch.zeros(sparse.shape), torch.zeros(sparse.shape, dtype=torch.bool)
            tensors[name].view(-1)[sparse.positions] = sparse.values
            masks[name].view(-1)[sparse.positions] = True
        return SparseModel(tensors | dict(self.tensors), masks, dict(self.facts))

    @property
    def elements(self) -> int:
        """Number of elements of all dense tensors together."""
        masked = sum(sparse.elements for sparse in self.masked.values())
        return masked + sum(tensor.numel() for tensor in self.tensors.values())


def encode_flash(model: SparseModel, values: str = "fp32", compress: bool = False) -> bytes:
    """Return the bytes of a ``.flash`` file.

    Args:
        model: to write.
        values: type of the active weights: fp32, fp16 or bf16. Masked weights are read back as float32; all other
            tensors keep their type.
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
        ConfigError: ``values`` is not such a type, or a weight is too large for it, or masked weights are of float64.
        MessageError: a tensor has an unsupported dtype, too many dimensions or too long a name, or a masked tensor or
            another one of float32 has a number that is not finite.
    """
    if wide := next((name for name in model.masks if model.tensors[name].dtype == torch.float64), None):
        problem = f"'{values}' would round {wide}, which is of float64"
        raise ConfigError("values", problem, "export to .safetensors, which keeps every type")
    floats = [name for name, tensor in model.tensors.items() if tensor.dtype == torch.float32]
    for name in [*floats, *model.masks]:
        check_extra(name, model.tensors[name])
    layers, rest = list(model.masks), [name for name in floats if name not in model.masks]
    mask = torch.cat([model.masks[name].reshape(-1) for name in layers])
    header = _Header(_shapes(model, layers), _shapes(model, rest), 0, model.facts)
    layout = header.layout()
    codec, arena = Codec(layout, values, compress), torch.zeros(layout.size)
    for slot in layout.slots:
        slot.view(arena).copy_(model.tensors[slot.name])
    if arena.isfinite().all() and not arena[: len(mask)].to(codec.dtype).isfinite().all():
        problem = f"'{values}' cannot represent the largest weight, {float(arena[: len(mask)].abs().max()):g}"
        raise ConfigError("values", problem, "use a type with a larger range")
    payload = codec.encode(Message(arena, mask)).data
    text = replace(header, payload=len(payload)).encode()
    others = {name: tensor for name, tensor in model.tensors.items() if name not in (*layers, *rest)}
    body = text + payload + encode_extra(others, MAX_OTHERS)
    start = MAGIC + bytes([VERSION, 0, 0, 0]) + len(text).to_bytes(4, "little")
    return start + zlib.crc32(body).to_bytes(4, "little") + body


def decode_flash(data: bytes, limit: float | None = None) -> FlashFile:
    """Return the content of a ``.flash`` file; see ``encode_flash`` for an example.

    Args:
        data: bytes of the file.
        limit: the largest number of elements of all dense tensors together. A short file can describe a huge sparse
            model, and ``FlashFile.model`` takes 5 bytes for each masked element. By default 4096 for each byte of the
            file and 2^22 more, which is enough for a density of 0.0001. For a file that somebody else has sent, the
            number of elements of your network is a better limit; ``math.inf`` is for readers that do not use ``model``.

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
    header = _Header.decode(bytes(reader.take(length)))
    masked, tensors, sizes, values = _decode_payload(bytes(reader.take(header.payload)), header)
    others = decode_extra(reader, MAX_OTHERS)
    reader.end()
    if twice := (masked.keys() | tensors.keys()) & others.keys():
        raise PayloadError(f"{min(twice)[:MAX_NAME]!r}: two tensors have this name")
    file = FlashFile(masked, tensors | others, header.facts, sizes, values, len(data))
    limit = MIN_LIMIT + ELEMENTS_PER_BYTE * len(data) if limit is None else limit
    if file.elements > limit:
        advice = f"if you trust the file, load it with limit={file.elements}"
        raise PayloadError(f"the model has {file.elements} elements; at most {limit} are allowed; {advice}")
    return file


def _decode_payload(data: bytes, header: "_Header") -> tuple[dict[str, SparseTensor], dict[str, Tensor], Sizes, str]:
    """The masked tensors, the other float32 tensors, the sizes and the type of the values."""
    payload = open_payload(data)
    reader, dtype = payload.rest, VALUE_TYPES[payload.values]
    elements = [prod(shape) for _, shape in header.layers]
    layers = decode_layers(payload.kind, payload.section, elements, reader.left // dtype.itemsize)
    payload.section.end()
    start, masked, tensors = reader.offset, {}, {}
    for (name, shape), layer in zip(header.layers, layers, strict=True):
        values = read_tensor(reader, len(layer.positions), dtype).float()
        positions = torch.from_numpy(layer.positions.astype(np.int64, copy=False))
        masked[name] = SparseTensor(tuple(shape), positions, values, layer.nbytes)
    stop = reader.offset
    for name, shape in header.rest:
        tensors[name] = read_tensor(reader, prod(shape), torch.float32).reshape(tuple(shape))
    rest = reader.left + reader.offset - stop
    decode_extra(reader, max_tensors=0)
    reader.end()
    numbers = {name: sparse.values for name, sparse in masked.items()} | tensors
    if bad := next((name for name, tensor in numbers.items() if not tensor.isfinite().all()), None):
        raise PayloadError(f"a weight of {bad[:MAX_NAME]!r} is not finite")
    sizes = Sizes(MaskKind(payload.kind), payload.header, len(payload.section.data), stop - start, rest)
    return masked, tensors, sizes, payload.values


def load_flash(path: str | Path, limit: float | None = None) -> dict[str, Tensor]:
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
    def decode(cls, text: bytes) -> "_Header":
        """Return the header in a file.

        Raises:
            PayloadError: the header is invalid.
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
        if elements > MAX_ELEMENTS:
            raise PayloadError(f"the model has {elements} elements; at most {MAX_ELEMENTS} are allowed")
        if not layers:
            raise PayloadError("there are no masked tensors")
        if len({name for name, _ in [*layers, *rest]}) < len(layers) + len(rest):
            raise PayloadError("two tensors have the same name")
        if type(header["payload"]) is not int:
            raise PayloadError("the length of the payload is not an integer")
        facts = header["facts"]
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise PayloadError("the facts are not names and texts")
        return cls(layers, rest, header["payload"], facts)

    def layout(self) -> Layout:
        """The layout of the payload."""
        plan = [[name, "maskable", shape, _row_major(shape)] for name, shape in self.layers]
        plan += [[name, "parameter", shape, _row_major(shape)] for name, shape in self.rest]
        return Layout.from_specification(plan)


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
