"""Masks, messages and models as bytes: encoded, decoded, and refused if they are damaged."""

from flash_pl.wire.codec import VALUE_TYPES, Codec, Message, Payload, Sizes
from flash_pl.wire.file import FlashFile, SparseTensor, decode_flash, encode_flash, load_flash
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask
from flash_pl.wire.reader import Reader

__all__ = [
    "VALUE_TYPES",
    "Codec",
    "FlashFile",
    "MaskKind",
    "Message",
    "Payload",
    "Reader",
    "Sizes",
    "SparseTensor",
    "decode_flash",
    "decode_mask",
    "encode_flash",
    "encode_mask",
    "load_flash",
]
