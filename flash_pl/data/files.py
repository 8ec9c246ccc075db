"""Data sets that live in files: where they are looked for and how they get there."""

import gzip
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.data.batches import Samples
from flash_pl.data.federated import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError, DataNotFoundError


def cache_folder() -> Path:
    """Where data sets are kept: the environment variable ``FLASH_PL_DATA``, else ``~/.cache/flash_pl``."""
    return Path(os.environ.get("FLASH_PL_DATA") or "~/.cache/flash_pl").expanduser()


class StoredData(FederatedDataModule):
    """A data set in files: found in the given root, else in the cache, else fetched into the cache.

    Args:
        root: folder that holds the data's own folder, or is it; None to look in the cache only.

    Attributes:
        folder: the data's own folder, relative to the root or the cache.
        remedies: what a user can do when nothing was found; ``{cache}`` stands for the cache's path.
    """

    folder: ClassVar[str]
    remedies: ClassVar[tuple[str, ...]]

    def __init__(self, root: str | Path | None = None, **keywords: Unpack[FederatedKeywords]) -> None:
        super().__init__(**keywords)
        self.root = None if root is None else Path(root).expanduser()

    @abstractmethod
    def holds(self, folder: Path) -> bool:
        """Whether ``folder`` has all files of the data; their contents are not read."""

    @abstractmethod
    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """Read the training and the test samples from a folder that holds them."""

    def fetch(self, stage: Path) -> None:
        """Get the data into the empty folder ``stage``, laid out like the cache.

        Raises:
            OSError: or RuntimeError, when that is impossible.
        """
        raise FileNotFoundError("no download is known")

    def prepare_data(self) -> None:
        """Fetch the data if they are nowhere."""
        self.find()

    def load(self) -> tuple[Samples, Samples]:
        """Find and read.

        Raises:
            DataNotFoundError: see ``find``, or files that cannot be read or hold something else.
        """
        folder = self.find()
        try:
            train, test = self.read(folder)
            for split in (train, test):
                self._check(split)
        except Exception as error:  # a damaged file can break its reader in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataNotFoundError(f"{type(self).__name__}: the files in {folder} are damaged: {reason}") from error
        return train, test

    def _check(self, samples: Samples) -> None:
        """Raise if they are not of this data set's kind."""
        shape, labels = tuple(samples.images.shape[1:]), samples.labels
        if not len(samples):
            raise ValueError("they hold no images")
        if shape != self.shape:
            raise ValueError(f"images are {shape}, not {self.shape}")
        if not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(f"labels go from {labels.min()} to {labels.max()}, not within 0 to {self.classes - 1}")
        if samples.images.is_floating_point() and not samples.images.isfinite().all():
            raise ValueError("a pixel is not finite")

    def find(self) -> Path:
        """The folder that holds the data.

        Raises:
            ConfigError: a root that is no folder.
            DataNotFoundError: the data are nowhere and cannot be fetched; the message names every remedy.
        """
        if self.root is not None and not self.root.is_dir():
            raise ConfigError("root", str(self.root), "an existing folder")
        cache = cache_folder()
        roots = [] if self.root is None else [self.root / self.folder, self.root]
        for folder in [*roots, cache / self.folder]:
            if self.holds(folder):
                return folder
        try:
            with _staged(cache) as stage:
                self.fetch(stage)
        except (OSError, RuntimeError) as error:
            remedies = "; or ".join(self.remedies).format(cache=cache)
            reason = " ".join(str(error).split())
            raise DataNotFoundError(f"{type(self).__name__} was not found ({reason}): {remedies}") from error
        return cache / self.folder


@contextmanager
def _staged(cache: Path) -> Iterator[Path]:
    """A scratch folder; when it is filled, its files move into the cache, where each appears complete or not at all.

    So processes that fetch the same data at the same time never see each other's half-written files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stage-", dir=cache) as name:
        stage = Path(name)
        yield stage
        for file in stage.rglob("*"):
            if file.is_file():
                target = cache / file.relative_to(stage)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)


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
