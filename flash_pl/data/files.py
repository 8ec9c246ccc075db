"""Data sets in files: where the files are searched, how they are fetched and checked; the four files of MNIST."""

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from typing_extensions import Unpack

from flash_pl.data.formats import check_labels, gz, read_idx
from flash_pl.data.samples import Samples
from flash_pl.data.tensors import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError, DataNotFoundError, as_yaml, in_one_line


class StoredData(FederatedDataModule):
    """A data set in files, which are searched in ``root``, then in the cache. Missing files are fetched into the cache.

    The cache is the folder in the environment variable ``FLASH_PL_DATA``, by default ``~/.cache/flash_pl``. A subclass
    defines ``has_files`` and ``read``, and ``fetch`` if there is a download.

    Args:
        root: the data set's own folder or the folder around it; None to search the cache only.
        **keywords: see ``FederatedDataModule``.

    Attributes:
        folder: the data set's own folder, relative to the root or to the cache.
        remedies: what users can do if the files are missing; ``{cache}`` stands for the path of the cache.
    """

    folder: ClassVar[str]
    remedies: ClassVar[tuple[str, ...]]

    def __init__(self, root: str | Path | None = None, **keywords: Unpack[FederatedKeywords]) -> None:
        super().__init__(**keywords)
        self.root = None if root is None else Path(root).expanduser()

    @abstractmethod
    def has_files(self, folder: Path) -> bool:
        """Whether ``folder`` has all files of the data set; their contents are not read."""

    @abstractmethod
    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """Read the training and the test samples from a folder that has all files."""

    def fetch(self, target: Path) -> None:
        """Download or unpack the files into the empty folder ``target``, with the folder structure of the cache.

        Raises:
            OSError: or RuntimeError, if this is not possible.
        """
        raise FileNotFoundError("no download is known")

    def prepare_data(self) -> None:
        """Fetch the files if they are missing."""
        self.find()

    def load(self) -> tuple[Samples, Samples]:
        """Find the files, read and check them.

        Raises:
            DataNotFoundError: the files are missing (see ``find``), cannot be read, or have wrong contents.
        """
        folder = self.find()
        try:
            train, test = self.read(folder)
            for name, split in {"training": train, "test": test}.items():
                self._check(name, split)
        except Exception as error:  # a damaged file can raise anything in its reader
            reason = in_one_line(error)
            raise DataNotFoundError(f"{type(self).__name__}: the files in {folder} are damaged: {reason}") from error
        return train, test

    def _check(self, split: str, samples: Samples) -> None:
        """Check that the samples of a split are not empty and have this data set's shape and classes."""
        shape = tuple(samples.inputs.shape[1:])
        if not len(samples):
            raise ValueError(f"they contain no {split} samples")
        if shape != self.shape:
            raise ValueError(f"inputs have shape {shape}, not {self.shape}")
        check_labels(f"the {split} set", samples.labels.flatten(), self.classes, samples.labels.numel())
        if samples.inputs.is_floating_point() and not samples.inputs.isfinite().all():
            index = int((~samples.inputs.flatten(1).isfinite().all(1)).nonzero()[0])
            raise ValueError(f"a pixel of {split} sample {index} is not finite")

    def find(self) -> Path:
        """Return the folder with all files; fetch them if they are missing.

        Raises:
            ConfigError: the root is not a folder.
            DataNotFoundError: the files are missing and cannot be fetched; the message lists the remedies.
        """
        if self.root is not None and not self.root.is_dir():
            raise ConfigError("root", f"{as_yaml(str(self.root))} is not an existing folder")
        cache = cache_folder()
        roots = [] if self.root is None else [self.root / self.folder, self.root]
        for folder in [*roots, cache / self.folder]:
            if self.has_files(folder):
                return folder
        try:
            with _staging_folder(cache) as target:
                self.fetch(target)
        except (OSError, RuntimeError) as error:
            remedies = "; or ".join(self.remedies).format(cache=cache)
            reason = in_one_line(error)
            raise DataNotFoundError(f"{type(self).__name__} was not found ({reason}): {remedies}") from error
        return cache / self.folder


def cache_folder() -> Path:
    """The folder where data sets are kept: the environment variable ``FLASH_PL_DATA``, or ``~/.cache/flash_pl``."""
    return Path(os.environ.get("FLASH_PL_DATA") or "~/.cache/flash_pl").expanduser()


@contextmanager
def _staging_folder(cache: Path) -> Iterator[Path]:
    """A temporary folder whose files move into ``cache`` at the end of the ``with`` block, unless an error leaves it.

    A file appears in the cache only when it is complete, so processes that fetch the same data at the same time never
    read partial files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".stage-", dir=cache) as name:
        temporary = Path(name)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                destination = cache / file.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                file.replace(destination)


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class IdxData(StoredData):
    """A data set in four idx files of unsigned bytes, plain or as ``.gz``: the format of MNIST and its successors."""

    def has_files(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return all((folder / name).exists() or gz(folder / name).exists() for name in IDX_FILES)

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``; images get shape ``[n, 1, H, W]``."""
        train_images, train_labels, test_images, test_labels = IDX_FILES
        train = self._read_split(folder, train_images, train_labels)
        return train, self._read_split(folder, test_images, test_labels)

    def _read_split(self, folder: Path, images_name: str, labels_name: str) -> Samples:
        labels = read_idx(folder / labels_name, ()).long()
        images = read_idx(folder / images_name, self.shape[1:])
        check_labels(labels_name, labels, self.classes, len(images))
        return Samples(images.unsqueeze(1), labels)
