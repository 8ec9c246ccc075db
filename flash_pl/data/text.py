"""Text as federated data: a model predicts the next character at every position, and each text is a natural client."""

import glob
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from lightning.fabric.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import Unpack

from flash_pl.checks import check_integers, check_numbers
from flash_pl.data.files import StoredData
from flash_pl.data.samples import Samples
from flash_pl.data.tensors import FederatedDataModule, FederatedKeywords
from flash_pl.errors import ConfigError, as_yaml


@dataclass(frozen=True)
class Vocabulary:
    """The numbers of characters: 1 to n in the order of ``characters``, and 0 for every other character.

    Args:
        characters: n different characters in the order of their code points, see ``of``.

    >>> vocabulary = Vocabulary.of(["banana"])
    >>> vocabulary.characters, vocabulary.size
    ('abn', 4)
    >>> vocabulary.encode("bx")
    tensor([2, 0])
    >>> vocabulary.decode(torch.tensor([3, 1, 0]))
    'na\ufffd'
    """

    characters: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """The vocabulary of all characters in ``texts``."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def size(self) -> int:
        """n + 1, the number of classes."""
        return len(self.characters) + 1

    def encode(self, text: str) -> Tensor:
        """Return the number of each character, int64 ``[len(text)]``."""
        if not self.characters:
            return torch.zeros(len(text), dtype=torch.int64)
        known, codes = _code_points(self.characters), _code_points(text)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return torch.from_numpy(np.where(known[places] == codes, places + 1, 0))

    def decode(self, numbers: Tensor) -> str:
        """Return the text of ``numbers`` (int64 ``[n]``); 0 becomes U+FFFD, the replacement character."""
        return "".join(("\ufffd" + self.characters)[number] for number in numbers.tolist())


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def split_text(text: str, window: int, test_share: float) -> tuple[str, str]:
    """Return the training and the test part of a text: the last ``test_share`` of its characters are the test part.

    The number of test characters is rounded down. A text whose training part would be shorter than a window and its
    next character is for training as a whole.

    >>> split_text("abcdefghij", window=4, test_share=0.25)
    ('abcdefgh', 'ij')
    >>> split_text("abcdefghij", window=8, test_share=0.25)
    ('abcdefghij', '')
    """
    train = len(text) - int(test_share * len(text))
    return (text[:train], text[train:]) if train > window else (text, "")


def cut_windows(texts: Sequence[str], vocabulary: Vocabulary, window: int) -> Samples:
    """Cut each text into windows of ``window`` characters that follow each other without overlap.

    The label of a position is the next character. A text of n characters has (n - 1) // window windows; the rest of
    its characters is left out.

    Returns:
        Inputs and labels int64 ``[windows, window]``; the owner of a window is the place of its text in ``texts``.

    >>> samples = cut_windows(["abcabcab", "ab"], Vocabulary("abc"), window=3)
    >>> samples.inputs.tolist(), samples.labels.tolist(), samples.owners.tolist()
    ([[1, 2, 3], [1, 2, 3]], [[2, 3, 1], [2, 3, 1]], [0, 0])
    """
    numbers = [vocabulary.encode(text) for text in texts]
    counts = [max(0, len(text) - 1) // window for text in texts]
    parts = list(zip(numbers, counts, strict=True))
    inputs = [text[: count * window].view(count, window) for text, count in parts]
    labels = [text[1 : 1 + count * window].view(count, window) for text, count in parts]
    owners = torch.arange(len(texts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return Samples(torch.cat(inputs), torch.cat(labels), owners)


def _check_windows(window: int, test_share: float, max_characters: int | None) -> None:
    check_integers(window=window)
    check_integers(optional=True, max_characters=max_characters)
    check_numbers("(0, 1)", test_share=test_share)


class TextFiles(FederatedDataModule):
    """Text files in UTF-8; each file is a natural client, and a sample is a window of its characters.

    ``split_text`` cuts off the last share of each file for testing, as LEAF does for Shakespeare's roles (Caldas et
    al., arXiv 1812.01097): the model is tested on what comes after its training text. ``cut_windows`` cuts both parts
    into windows. A file without a whole window is left out, with a warning; a file may have no test windows.

    Args:
        files: path or glob pattern (``**`` for all folders below) of the files, or a list of them. Files are numbered
            in the order of their paths.
        window: characters T of a sample.
        test_share: share of each file's characters for testing, in (0, 1).
        max_characters: a file is read up to this number of characters; None reads all of it.
        clients: number of files, drawn at random; None for all files.
        **keywords: see ``FederatedDataModule``.

    Attributes:
        files: the files, in order; a sample's owner is the place of its file.
        vocabulary: numbers of the characters in the training parts. Others, which only the test parts have, are 0.
        classes: size of the vocabulary.
        shape: (T,).

    Raises:
        ConfigError: no file, a file that cannot be read, no training window or no test window in all files.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("austen", "melville"):
    ...         _ = Path(folder, f"{name}.txt").write_text(f"{name} wrote this. " * 50)
    ...     data = TextFiles(f"{folder}/*.txt", window=32)
    ...     data.setup("fit")
    >>> data.clients, data.shape
    (2, (32,))
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        window: int = 64,
        test_share: float = 0.1,
        max_characters: int | None = None,
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        keywords.setdefault("clients", None)
        super().__init__(**keywords)
        _check_windows(window, test_share, max_characters)
        self.window, self.test_share, self.max_characters, self.shape = window, test_share, max_characters, (window,)
        self.files = _find(files)
        # Read at once: the model needs the size of the vocabulary before the samples are loaded.
        self._parts = [split_text(_read(file)[:max_characters], window, test_share) for file in self.files]
        self.vocabulary = Vocabulary.of(train for train, _ in self._parts)
        self.classes = self.vocabulary.size
        self._check_lengths()

    def _check_lengths(self) -> None:
        train, test = ([len(part) for part in parts] for parts in zip(*self._parts, strict=True))
        hint = "give longer files or a smaller window"
        if max(train) <= self.window:
            raise ConfigError("window", f"{self.window} characters and the next one are more than any file has", hint)
        if max(test) <= self.window:
            problem = f"{self.test_share} leaves no file a test part of {self.window} characters and the next one"
            raise ConfigError("test_share", problem, hint)
        if short := sum(length <= self.window for length in train):
            rank_zero_warn(f"{short} of {len(train)} files have no window of {self.window} characters and are left out")

    def load(self) -> tuple[Samples, Samples]:
        """Cut the windows."""
        train, test = zip(*self._parts, strict=True)
        return cut_windows(train, self.vocabulary, self.window), cut_windows(test, self.vocabulary, self.window)


def _find(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that paths and glob patterns name, each once, in the order of their paths."""
    patterns = [files] if isinstance(files, str | Path) else list(files)
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
        texts = {match for match in matches if match.is_file()}
        if not texts:
            raise ConfigError("files", f"{as_yaml(str(pattern))} matches no file", "give a path or a glob pattern")
        found |= texts
    if not found:
        raise ConfigError("files", "[] names no file", "give a path or a glob pattern")
    return sorted(found)


def _read(path: Path) -> str:
    name = as_yaml(str(path))
    try:
        return read_utf8(path)
    except OSError as error:
        raise ConfigError("files", f"{name} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError("files", f"{name} is not a text in UTF-8: {error}") from error


def read_utf8(path: Path) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not in UTF-8; names the byte.
    """
    data = path.read_bytes()
    try:
        return data.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"byte {error.start} (0x{data[error.start]:02x}, in line {line}) has no meaning there"
        ) from error


class KingJames(StoredData):
    """The King James Bible, 4 million characters; its 66 books are natural clients of 1,552 to 223,731 characters.

    The text of a book is that of its verses, one a line, without their references. It is split and cut as in
    ``TextFiles``.

    Args:
        root: folder with ``verses.txt``, the output of ``bible -f gen1:1-rev22:21``. If it is missing in the root and
            in the cache, the program of the Debian package ``bible-kjv`` writes it into the cache.
        window: characters T of a sample.
        test_share: share of each book's characters for testing, in (0, 1).
        max_characters: a book is read up to this number of characters; None reads all of it.
        clients: number of books, drawn at random; None for all 66.
        **keywords: see ``FederatedDataModule``.

    Attributes:
        vocabulary: numbers of the 63 characters of this text.
        books: the books as the program calls them, from ``"Ge"`` to ``"Rev"``; a sample's owner is its book's place.

    >>> data = KingJames(window=32, max_characters=20_000)
    >>> data.classes, data.books[:3]
    (64, ('Ge', 'Exo', 'Lev'))
    """

    vocabulary: ClassVar[Vocabulary] = Vocabulary.of("\n !'(),-.:;?ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyz")
    classes = vocabulary.size
    books: ClassVar[tuple[str, ...]] = tuple(
        "Ge Exo Lev Num Deu Josh Jdgs Ruth 1Sm 2Sm 1Ki 2Ki 1Chr 2Chr Ezra Neh Est Job Psa Prv Eccl SSol Isa Jer Lam "
        "Eze Dan Hos Joel Amos Obad Jonah Mic Nahum Hab Zep Hag Zec Mal Mat Mark Luke John Acts Rom 1Cor 2Cor Gal Eph "
        "Phi Col 1Th 2Th 1Tim 2Tim Titus Phmn Heb Jas 1Pet 2Pet 1Jn 2Jn 3Jn Jude Rev".split()
    )
    folder = "king_james"
    file: ClassVar[str] = "verses.txt"
    verses: ClassVar[int] = 31102
    program: ClassVar[str] = "bible"
    remedies = ("apt install bible-kjv", "set root to a folder with verses.txt, the output of bible -f gen1:1-rev22:21")

    def __init__(
        self,
        root: str | Path | None = None,
        window: int = 64,
        test_share: float = 0.1,
        max_characters: int | None = None,
        **keywords: Unpack[FederatedKeywords],
    ) -> None:
        keywords.setdefault("clients", None)
        super().__init__(root, **keywords)
        _check_windows(window, test_share, max_characters)
        self.window, self.test_share, self.max_characters, self.shape = window, test_share, max_characters, (window,)

    def has_files(self, folder: Path) -> bool:
        """See ``StoredData``."""
        return (folder / self.file).exists()

    def read(self, folder: Path) -> tuple[Samples, Samples]:
        """See ``StoredData``."""
        texts = [text[: self.max_characters] for text in self.texts(folder)]
        train, test = zip(*(split_text(text, self.window, self.test_share) for text in texts), strict=True)
        return cut_windows(train, self.vocabulary, self.window), cut_windows(test, self.vocabulary, self.window)

    def texts(self, folder: Path) -> list[str]:
        """Return the text of each book.

        Raises:
            ValueError: a line is not a verse, or a verse is missing.
        """
        try:
            verses = list(_verses(read_utf8(folder / self.file)))
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from error
        if len(verses) != self.verses:
            raise ValueError(f"{self.file} has {len(verses)} verses, not {self.verses}")
        texts: dict[str, list[str]] = {book: [] for book in self.books}
        for book, verse in verses:
            if book not in texts:
                raise ValueError(f"{self.file} has a book {book!r}")
            texts[book].append(verse)
        return ["\n".join(lines) for lines in texts.values()]

    def fetch(self, target: Path) -> None:
        """Run the program of the Debian package."""
        command = [self.program, "-f", "gen1:1-rev22:21"]
        output = subprocess.run(command, capture_output=True, check=False)
        if output.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with exit code {output.returncode}")
        (target / self.folder).mkdir(parents=True)
        (target / self.folder / self.file).write_bytes(output.stdout)


def _verses(output: str) -> Iterator[tuple[str, str]]:
    """The book and the text of each line ``"Ge1:1 In the beginning ..."``."""
    for number, line in enumerate(output.splitlines(), start=1):
        verse = re.fullmatch(r"(\d?[A-Za-z]+)\d+:\d+ (.+)", line)
        if verse is None:
            raise ValueError(f"line {number}, {line[:40]!r}, is not a verse")
        yield verse[1], verse[2]
