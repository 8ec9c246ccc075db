"""File formats of image data: idx files of MNIST, batches of CIFAR, and pictures.

Files may be damaged, or a stranger's. Each reader names the file, and the sample if there is one, and takes no more
memory than its file can honestly fill.
"""

import gzip
import hashlib
import re
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flash_pl.errors import in_one_line
from flash_pl.plain_pickle import load_pickle

DEFLATE = 1032  # the largest number of bytes that one byte of a .gz file can stand for


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Return the uint8 tensor in an idx file, read from ``path`` or, if there is no such file, from ``path`` + ``.gz``.

    The format: two zero bytes, a byte for the type (8 is uint8), a byte for the number of dimensions, the sizes as
    big-endian 32-bit integers, then the values.

    Args:
        path: of the file without ``.gz``.
        shape: of a sample; () for labels.

    Returns:
        ``[n, *shape]``.

    Raises:
        ValueError: not an idx file of such samples, or its length does not fit the sizes.
    """
    path = path if path.exists() else gz(path)
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            if file.read(4) != bytes([0, 0, 8, 1 + len(shape)]):
                dimensions = f"{1 + len(shape)} dimension{'s' * bool(shape)}"
                raise ValueError(f"{path.name} is not an idx file of unsigned bytes in {dimensions}")
            count, *sizes = (int.from_bytes(file.read(4), "big") for _ in range(1 + len(shape)))
            if tuple(sizes) != shape:
                raise ValueError(f"{path.name} has samples of shape {tuple(sizes)}, not {shape}")
            length = count * prod(shape)
            # A header of a few bytes may promise 4 GB.
            data = file.read(length + 1) if length <= path.stat().st_size * (DEFLATE if packed else 1) else b""
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} is cut off or damaged ({error}); fetch it again") from error
    if len(data) != length:
        kind = "more" if len(data) > length else "less"
        raise ValueError(f"{path.name} has {kind} bytes than the {length} of its {count} samples; fetch it again")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).view(count, *shape)


def gz(path: Path) -> Path:
    """The path of the compressed file."""
    return path.with_name(path.name + ".gz")


def check_labels(file: str, labels: Tensor, classes: int, samples: int) -> None:
    """Check that there is a label for each sample, and that it is one of the classes.

    Raises:
        ValueError: the number of labels is wrong, or a label is out of range; the message names the first such sample.
    """
    if len(labels) != samples:
        raise ValueError(f"{file} has {len(labels)} labels for {samples} samples")
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(f"label {labels[index]} of sample {index} in {file} is not within 0 to {classes - 1}")


def read_cifar(path: Path, label: str, classes: int, checksum: str | None) -> tuple[Tensor, Tensor]:
    """Return images uint8 ``[n, 3, 32, 32]`` and labels int64 ``[n]`` of a pickled batch of CIFAR.

    The pickle may hold plain values and arrays of numbers; no code from it is run.

    Args:
        path: of the file.
        label: the key of the labels.
        classes: number of classes.
        checksum: MD5 of the published file; None reads any file in this format.

    Raises:
        ValueError: another file, a damaged one, or labels that do not fit.
    """
    name, data = path.name, path.read_bytes()
    if checksum is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() != checksum:
        hint = "fetch it again; data.checksum=false reads images of your own in this format"
        raise ValueError(f"{name} is not the published file, its MD5 checksum differs; {hint}")
    try:
        batch = load_pickle(data, _ARRAYS, build=_build, max_bytes=4 * len(data))
        if not isinstance(batch, dict) or not {"data", label} <= batch.keys():
            raise ValueError(f"it is not a dictionary with the keys data and {label}")
        pixels, labels = batch["data"], batch[label]
        pixels = pixels.numpy() if isinstance(pixels, _Array) else pixels
        labels = labels.numpy() if isinstance(labels, _Array) else labels
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            raise ValueError("its data are not an array of unsigned bytes with 3072 columns")
        if isinstance(labels, list) and not all(type(value) is int and abs(value) < 2**31 for value in labels):
            raise ValueError(f"its {label} are not a list of integers")
        labels = torch.as_tensor(labels)
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(f"its {label} are not a list of integers")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is not a batch of CIFAR: {error}") from error
    check_labels(name, labels, classes, len(pixels))
    return torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), labels.long()


class _Dtype:
    """In the place of ``numpy.dtype`` in a pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch("[iu][1248]", name):
            raise ValueError("it has an array that is not of integers")
        self.dtype = np.dtype(name)


class _Array:
    """In the place of ``numpy.ndarray`` in a pickle."""

    nbytes = 0

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    @classmethod
    def of_buffer(cls, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> "_Array":
        """As ``numpy._core.numeric._frombuffer``."""
        array = cls()
        array.state = 1, shape, dtype, order == "F", buffer
        return array

    def numpy(self) -> np.ndarray:
        """The array, which shares memory with its bytes."""
        _, shape, dtype, fortran, raw = self.state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
            raise ValueError("it has an array that is not of integers")
        return np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _build(value: Any, state: Any) -> None:
    if isinstance(value, _Array):
        value.state = state
    elif isinstance(value, _Dtype):  # a version, the order of bytes, and what only other dtypes have
        value.dtype = value.dtype.newbyteorder(">" if state[1] == ">" else "<")


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError("its bytes are not in Latin-1")
    return text.encode(encoding)


_ARRAYS: dict[str, Any] = {"numpy ndarray": _Array, "numpy dtype": _Dtype, "_codecs encode": _bytes}
_ARRAYS |= {f"numpy.{core}.multiarray _reconstruct": _Array for core in ("core", "_core")}
_ARRAYS |= {f"numpy.{core}.numeric _frombuffer": _Array.of_buffer for core in ("core", "_core")}


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture in RGB.

    Args:
        path: of the file.
        size: the width and height that it must have; None for any up to PIL's limit, ``Image.MAX_IMAGE_PIXELS``.

    Raises:
        ValueError: the file is not a picture, is damaged, or has another size.
    """
    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if size is not None and image.size != size:
                raise ValueError(f"it has {image.width}x{image.height} pixels, not {size[0]}x{size[1]}")
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"it has {image.width}x{image.height} pixels, more than {limit}; make it smaller")
            return image.convert("RGB")
    except Exception as error:  # a damaged file can raise anything in its decoder
        reason = in_one_line(error)
        raise ValueError(f"{path} is not a readable picture: {reason}") from error
