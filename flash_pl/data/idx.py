"""Data sets in MNIST's file format, idx."""

import gzip
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.data.samples import Samples
from flash_pl.data.stored import StoredData

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class IdxData(StoredData):
    """Four idx files of unsigned bytes, plain or as ``.gz``, as MNIST and its successors have them."""

    def holds(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all((folder / name).exists() or _packed(folder / name).exists() for name in FILES)

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; images become ``[n, 1, H, W]``."""
        train_x, train_y, test_x, test_y = (read_idx(folder / name) for name in FILES)
        return Samples(train_x.unsqueeze(1), train_y.long()), Samples(test_x.unsqueeze(1), test_y.long())


def read_idx(path: Path) -> Tensor:
    """The uint8 tensor in an idx file, read from ``path`` or, if only that exists, ``path`` plus ``.gz``.

    The format: two zero bytes, a byte for the type (8 is uint8), a byte for the number of dimensions, their sizes as
    big-endian 32-bit integers, the values.

    Raises:
        ValueError: not an idx file of unsigned bytes, or not of the length that it announces.
    """
    data = path.read_bytes() if path.exists() else gzip.decompress(_packed(path).read_bytes())
    dimensions = data[3] if data[:3] == b"\0\0\x08" else 0
    sizes = [int.from_bytes(data[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions)]
    header = 4 + 4 * dimensions
    if not sizes or len(data) - header != torch.Size(sizes).numel():
        raise ValueError(f"{path.name} is no complete idx file of unsigned bytes")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[header:].view(sizes)


def _packed(path: Path) -> Path:
    return path.with_name(path.name + ".gz")
