"""Windows, owners, splits and vocabularies of text, by brute force; the Bible from a program like its own."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.data import KingJames, TextFiles, Vocabulary
from flash_pl.data.text import cut_windows, split_text
from flash_pl.errors import ConfigError, DataNotFoundError

TEXTS = st.lists(st.text("abcdeé\n😀", max_size=30), min_size=1, max_size=5)


def windows_by_hand(texts: list[str], window: int) -> list[tuple[str, str, int]]:
    """Inputs, labels and owner of each window as plain strings."""
    found = []
    for owner, text in enumerate(texts):
        start = 0
        while start + window < len(text):  # one more character follows the window
            found.append((text[start : start + window], text[start + 1 : start + window + 1], owner))
            start += window
    return found


@given(texts=TEXTS, window=st.integers(1, 9))
def test_windows_are_those_cut_by_hand(texts: list[str], window: int) -> None:
    vocabulary = Vocabulary.of(texts)
    samples = cut_windows(texts, vocabulary, window)
    expected = windows_by_hand(texts, window)
    assert samples.inputs.shape == samples.labels.shape == (len(expected), window)
    assert samples.inputs.dtype == samples.labels.dtype == torch.int64 and samples.owners is not None
    read = [
        (vocabulary.decode(inputs), vocabulary.decode(labels), int(owner))
        for inputs, labels, owner in zip(samples.inputs, samples.labels, samples.owners, strict=True)
    ]
    assert read == expected


@given(known=st.text(max_size=12), text=st.text(max_size=30))
def test_numbers_are_places_in_the_sorted_characters_and_0_for_others(known: str, text: str) -> None:
    characters = sorted(set(known))
    expected = [characters.index(character) + 1 if character in characters else 0 for character in text]
    assert Vocabulary.of([known]).encode(text).tolist() == expected


@given(
    text=st.text("ab", max_size=60), window=st.integers(1, 9), share=st.floats(0, 1, exclude_min=True, exclude_max=True)
)
def test_parts_are_the_whole_text_and_short_texts_train_as_a_whole(text: str, window: int, share: float) -> None:
    train, test = split_text(text, window, share)
    assert train + test == text
    test_characters = int(share * len(text))
    assert len(test) == (test_characters if len(text) - test_characters >= window + 1 else 0)


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def test_files_are_clients_and_only_training_characters_are_known(tmp_path: Path) -> None:
    write(tmp_path, b="abcabcabcaXb", a="ddeedd" * 4)
    data = TextFiles(files=str(tmp_path / "*.txt"), window=2, test_share=0.25, batch_size=100)
    assert [file.name for file in data.files] == ["a.txt", "b.txt"]
    assert data.vocabulary.characters == "abcde" and data.classes == 6 and data.shape == (2,)
    data.setup()
    # a: 18 + 6 characters, b: 9 + 3 characters, of which the test part is "aXb".
    assert sorted(data.client_sizes) == [4, 8]
    for client in range(data.clients):
        ((inputs, labels),) = data.client_batches(client)
        ((test_inputs, test_labels),) = data.client_val_batches(client)
        text = "abcabcabc" if len(inputs) == 4 else "ddeedd" * 3
        assert [data.vocabulary.decode(row) for row in inputs] == [text[i : i + 2] for i in range(0, len(text) - 2, 2)]
        assert torch.equal(inputs[1:, 0], labels[:-1, -1])  # the next window goes on where a window ends
        if len(inputs) == 4:
            assert (test_inputs.tolist(), test_labels.tolist()) == ([[1, 0]], [[0, 2]])


def test_files_that_are_too_short_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, long="abcd" * 10, empty="", exact="abcd", enough="abcde")
    with pytest.warns(UserWarning, match="2 of 4"):
        data = TextFiles(files=[tmp_path / "*.txt"], window=4, test_share=0.2)
    data.setup()
    # long: 32 + 8 characters; enough trains as a whole and has no test part.
    assert sorted(data.client_sizes) == [1, 7]
    assert sorted(data.client_val_batches(client).samples for client in range(2)) == [0, 1]


def test_a_file_is_read_up_to_max_characters(tmp_path: Path) -> None:
    write(tmp_path, a="ab" * 50, b="ab" * 5)
    data = TextFiles(files=tmp_path / "*.txt", window=4, test_share=0.25, max_characters=20)
    data.setup()
    assert len(data.train) == 3 + 1 and len(data.test) == 1  # 15 + 5 of 20 characters, 8 + 2 of 10


def test_files_are_listed_once_by_paths_and_patterns(tmp_path: Path) -> None:
    write(tmp_path / "sub", b="xy" * 20)
    write(tmp_path, **{"[1]": "xy" * 20})
    data = TextFiles(files=[tmp_path / "[1].txt", str(tmp_path / "**" / "*.txt")], window=2)
    assert data.files == [tmp_path / "[1].txt", tmp_path / "sub" / "b.txt"]


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("files", {"files": "missing/*.txt"}),
        ("files", {"files": []}),
        ("files", {"files": "bytes.bin"}),
        ("window", {"window": 0}),
        ("window", {"window": 40}),
        ("test_share", {"test_share": 0.0}),
        ("test_share", {"test_share": 0.01}),
        ("max_characters", {"max_characters": 0}),
        ("clients", {"clients": 3}),
    ],
)
def test_bad_settings_name_their_key(key: str, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a="xy" * 20, b="xyz" * 10)
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError) as refused:
        TextFiles(**({"files": "*.txt", "window": 3} | settings)).setup()
    assert refused.value.key == key


# A program in place of Debian's: it prints two verses of each book.
PROGRAM = """#!/bin/sh
test "$*" = "-f gen1:1-rev22:21" || exit 3
for book in {books}; do
    echo "${{book}}1:1 In the beginning of it, 7:1 things."
    echo "${{book}}1:2 And so it was."
done
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bible"
    path.write_text(PROGRAM.format(books=" ".join(KingJames.books)))
    path.chmod(0o755)
    monkeypatch.setattr(KingJames, "program", str(path))
    monkeypatch.setattr(KingJames, "verses", 132)
    return path


def test_books_come_from_the_program_and_then_from_the_cache(program: Path, cache: Path) -> None:
    data = KingJames(window=10, test_share=0.3, batch_size=50)
    data.prepare_data()
    program.unlink()
    data.setup()
    text = "In the beginning of it, 7:1 things.\nAnd so it was."  # 50 characters, 35 + 15
    assert (cache / "king_james" / "verses.txt").exists()
    assert data.clients == 66 and data.client_sizes == [3] * 66 and len(data.test) == 66
    ((inputs, labels),) = data.client_batches(0)
    expected = text.replace("7", "\ufffd").replace("1", "\ufffd")  # this text has no digits
    assert [KingJames.vocabulary.decode(row) for row in inputs] == [expected[i : i + 10] for i in (0, 10, 20)]
    assert [KingJames.vocabulary.decode(row) for row in labels] == [expected[i : i + 10] for i in (1, 11, 21)]
    owners = data.train.owners
    assert owners is not None and owners.unique().tolist() == list(range(66))


def test_without_the_program_the_message_names_the_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KingJames, "program", "no-such-program")
    with pytest.raises(DataNotFoundError, match="apt install bible-kjv"):
        KingJames().setup()


def test_a_program_that_fails_leaves_nothing_in_the_cache(program: Path, cache: Path) -> None:
    program.write_text("#!/bin/sh\necho 'Ge1:1 In the beginning'\nexit 1\n")
    with pytest.raises(DataNotFoundError, match="exit code 1"):
        KingJames().setup()
    assert not list(cache.rglob("*.txt"))


@pytest.mark.parametrize("line", ["no verse at all", "Tob1:1 An apocryphal book.", "Ge1:3 One verse too many."])
def test_damaged_files_are_refused(line: str, program: Path, cache: Path) -> None:
    data = KingJames(window=10)
    data.prepare_data()
    with open(cache / "king_james" / "verses.txt", "a") as file:
        print(line, file=file)
    with pytest.raises(DataNotFoundError, match="damaged"):
        data.setup()


def test_the_bible_of_the_package() -> None:
    """The real text, if the package is installed."""
    data = KingJames()
    try:
        folder = data.find()
    except DataNotFoundError:
        pytest.skip("the package bible-kjv is not installed")
    texts = data.texts(folder)
    assert texts[0].startswith("In the beginning God created the heaven and the earth.\nAnd the earth was")
    assert texts[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
    parts = [split_text(text, 64, 0.1)[0] for text in texts]
    assert Vocabulary.of(parts) == Vocabulary.of(texts) == KingJames.vocabulary
    assert (min(map(len, texts)), max(map(len, texts)), sum(map(len, texts))) == (1552, 223731, 4137784)


def test_a_byte_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xe9 three")
    with pytest.raises(ConfigError, match=r"a\.txt.* byte 8 .*line 2") as error:
        TextFiles(tmp_path / "a.txt", window=2).setup()
    assert error.value.key == "files"


def test_line_ends_and_a_byte_order_mark_are_no_characters(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb\rc\n".encode() * 1 + b"abcabcabc" * 5)
    data = TextFiles(tmp_path / "a.txt", window=2)
    data.setup()
    assert data.vocabulary.characters == "\nabc"


def test_a_line_that_is_no_verse_is_named(tmp_path):
    (tmp_path / "verses.txt").write_bytes(b"Ge1:1 In the beginning\nGe1:2\n")
    with pytest.raises(DataNotFoundError, match=r"verses\.txt: line 2"):
        KingJames(root=tmp_path).load()
