"""Bytes on the wire and in a file: masks, values, whole messages and models, encoded and decoded."""

from flash_pl.wire.codec import VALUE_TYPES, Codec, Message, Payload, Sizes
from flash_pl.wire.file import FlashFile, decode_flash, encode_flash, load_flash
from flash_pl.wire.header import Reader
from flash_pl.wire.masks import MaskKind, decode_mask, encode_mask

__all__ = [
    "VALUE_TYPES",
    "Codec",
    "FlashFile",
    "MaskKind",
    "Message",
    "Payload",
    "Reader",
    "Sizes",
    "decode_flash",
    "decode_mask",
    "encode_flash",
    "encode_mask",
    "load_flash",
]
