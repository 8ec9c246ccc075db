"""A table of rounds after a kill at any byte, on a full disk, after an edit; rows are appended."""

import csv
import os
import resource
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_pl import PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Checkpoint, ConsensusCSV, MetricsCSV, round_table
from flash_pl.callbacks.round_table import RoundTable
from flash_pl.checkpoint import CheckpointFolder
from flash_pl.errors import RunError

ROWS = [{"round": round, "a": 1 / round, "b": round**9} for round in range(1, 13)]
for later in (4, 8, 12):  # as metrics of rounds with an evaluation
    ROWS[later - 1] |= {"val_acc": later / 7}
ROWS[10] |= {"c,d": -1e-300, "e": float("nan")}  # the last but one has new columns


def write(path: Path, rows, begin=0) -> bytes:
    table = RoundTable(path)
    table.begin(begin)
    for row in rows:
        table.append(row)
    return path.read_bytes() if path.exists() else b""


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[bytes]:
    """The file after 0, 1, ... rounds of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    return [write(folder / f"{rounds}.csv", ROWS[:rounds]) for rounds in range(len(ROWS) + 1)]


def test_a_run_that_is_killed_at_any_byte_ends_with_the_same_file(contents, tmp_path):
    """Kills in the last two lines after every round; the checkpoint has the rounds before."""
    table, kills = tmp_path / "metrics.csv", 0
    for rounds in range(3, len(ROWS) + 1):
        content, resumed = contents[rounds], rounds - 2
        start = content.rindex(b"\r\n", 0, content.rindex(b"\r\n", 0, -2)) + 2
        for end in range(start, len(content) + 1):
            table.write_bytes(content[:end])
            assert write(table, ROWS[resumed:], begin=resumed) == contents[-1]
            kills += 1
        table.write_bytes(content)  # the row of the checkpoint's round is on the disk before the checkpoint
        assert write(table, ROWS[rounds:], begin=rounds) in (contents[-1], content)
    assert kills > 300


def test_a_kill_while_the_file_is_written_anew_changes_nothing(contents, tmp_path):
    """A round with new columns: the file is the old one until it is the new one. A resume does so, too."""
    table, temporary = tmp_path / "metrics.csv", tmp_path / "metrics.csv.tmp"
    for end in range(0, len(contents[11]), 7):
        for content, resumed in ((contents[10], 10), (contents[11], 10)):
            table.write_bytes(content)
            temporary.write_bytes(contents[11][:end])
            assert write(table, ROWS[resumed:], begin=resumed) == contents[-1]
            assert os.listdir(tmp_path) == ["metrics.csv"]


@given(st.lists(st.integers(0, 12), max_size=5), st.data())
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_file(stops, data):
    with patch("os.fsync"):  # waits for the disk
        with tempfile.TemporaryDirectory() as folder:
            table, saved = Path(folder) / "metrics.csv", 0
            for stop in stops:
                write(table, ROWS[saved:stop], begin=saved)
                checkpoint = data.draw(st.integers(saved, max(saved, stop)))
                if table.exists():
                    content = table.read_bytes()
                    rows = content.split(b"\r\n")[: checkpoint + 1]
                    whole = sum(len(row) + 2 for row in rows)  # is on the disk
                    table.write_bytes(content[: data.draw(st.integers(min(whole, len(content)), len(content)))])
                saved = checkpoint
            whole_run = write(Path(folder) / "whole.csv", ROWS)
            assert write(table, ROWS[saved:], begin=saved) == whole_run or saved == len(ROWS)


def test_after_every_round_a_reader_sees_whole_lines(contents):
    for rounds, content in enumerate(contents[1:], start=1):
        assert content.endswith(b"\r\n")
        rows = list(csv.DictReader(content.decode().splitlines()))
        assert [int(row["round"]) for row in rows] == list(range(1, rounds + 1))
        for row, expected in zip(rows, ROWS, strict=False):
            assert {name: repr(float(cell)) for name, cell in row.items() if cell} == {
                name: repr(float(value)) for name, value in expected.items()
            }


def test_a_round_writes_its_own_line_only(tmp_path):
    """The file is written anew for the first row and for a new column, and not for the 997 other rows."""
    table = RoundTable(tmp_path / "metrics.csv")
    table.begin(0)
    with patch.object(round_table, "write_atomically", wraps=round_table.write_atomically) as whole:
        with patch.object(RoundTable, "_read", wraps=table._read) as read:
            for round in range(1, 1001):
                table.append({"round": round, "a": 1.5} | ({"val_acc": 0.5} if round % 100 == 0 else {}))
    assert whole.call_count == read.call_count == 2
    assert len(table.rows()) == 1000 and table.rows()[99] == {"round": "100", "a": "1.5", "val_acc": "0.5"}
    assert not any(isinstance(value, list) and len(value) > 9 for value in vars(table).values())  # keeps no rows


def test_rows_after_the_checkpoint_are_cut_by_the_next_row(contents, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(contents[7])
    table = RoundTable(path)
    table.begin(3)
    assert path.read_bytes() == contents[7] and [row["round"] for row in table.rows()] == ["1", "2", "3"]
    table.append(ROWS[3])
    assert path.read_bytes() == contents[4]
    table.begin(0)  # a run that starts anew
    table.append(ROWS[0])
    assert path.read_bytes() == contents[1]


def test_a_file_that_somebody_changes_during_a_run_stays_a_table(contents, tmp_path):
    path = tmp_path / "metrics.csv"
    table = RoundTable(path)
    edits = {2: lambda: path.unlink(), 4: lambda: path.write_bytes(path.read_bytes()[:-2]), 6: path.touch}
    for row in ROWS[:7]:
        table.append(row)
        edits.get(row["round"], lambda: None)()
    assert [row["round"] for row in table.rows()] == ["3", "4", "5", "6", "7"]  # those before were removed
    path.write_text("mine")
    with pytest.raises(RunError) as error:
        table.append(ROWS[7])
    assert str(path) in str(error.value) and path.read_text() == "mine"


def test_zeros_that_a_failed_machine_left_are_no_rows(contents, tmp_path):
    path = tmp_path / "metrics.csv"
    for rest in (b"\0" * 50, b"\0" * 30 + b"9\r\n", b"8,0.1\0\0\r\n"):
        path.write_bytes(contents[7] + rest)
        assert write(path, ROWS[7:], begin=7) == contents[-1]


def test_rows_are_on_the_disk_before_a_checkpoint(unaware, tiny_data, tmp_path):
    """And at the end of a run. Otherwise a round does not wait for the disk."""
    order, save, sync = [], CheckpointFolder.save, os.fsync

    def note_save(self, *arguments):
        order.append("checkpoint")
        with patch("os.fsync"):
            save(self, *arguments)

    def note_sync(handle):
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    callbacks = [MetricsCSV(tmp_path), ConsensusCSV(tmp_path), Checkpoint(tmp_path, every=3, monitor="none")]
    settings = {"density": 0.2, "rounds": 8, "cohort": 2, "accelerator": "cpu", "callbacks": callbacks}
    with patch.object(CheckpointFolder, "save", note_save), patch("os.fsync", note_sync):
        with pytest.warns(UserWarning, match="no best.ckpt"):
            FederatedTrainer(PDST(), **settings).fit(unaware(), tiny_data)
    tables = ["metrics.csv", "consensus.csv"]
    first_row = [name for table in tables for name in (f"{table}.tmp", tmp_path.name)]
    assert order == ["checkpoint", *first_row, *(2 * [*tables, "checkpoint"]), *tables, *tables, "checkpoint"]


@pytest.mark.parametrize("part", [0, 1, 9])
def test_a_full_disk_is_one_sentence_and_keeps_the_rows_before(part, contents, tmp_path):
    """Of the next line only a ``part`` fits."""
    path = tmp_path / "metrics.csv"
    table = RoundTable(path)
    for row in ROWS[:5]:
        table.append(row)
    for row in (ROWS[5], ROWS[10]):  # a line, and a whole file with new columns
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(contents[5]) + part, limits[1]))
        try:
            with pytest.raises(RunError) as error:
                table.append(row)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(error.value).startswith(f"{path}: cannot be written (") and "\n" not in str(error.value)
        assert path.read_bytes() == contents[5] and os.listdir(tmp_path) == ["metrics.csv"]
    for row in ROWS[5:]:  # there is space again
        table.append(row)
    assert path.read_bytes() == contents[-1]


# Files of others


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path):
    table = RoundTable(tmp_path / "metrics.csv")
    table.path.write_bytes("\ufeffround,val_acc\r\n1.0,0.5\r\n2,\r\n3".encode())
    table.begin(2)
    assert table.rows() == [{"round": "1", "val_acc": "0.5"}, {"round": "2", "val_acc": ""}]
    table.append({"round": 3, "val_acc": 0.25})
    assert table.path.read_bytes() == b"round,val_acc\r\n1,0.5\r\n2,\r\n3,0.25\r\n"


def test_the_last_line_of_an_editor_has_no_line_break(tmp_path):
    table = RoundTable(tmp_path / "metrics.csv")
    table.path.write_bytes(b"round,val_acc\n1,0.5\n2,0.75")
    table.begin(2)
    assert [row["val_acc"] for row in table.rows()] == ["0.5", "0.75"]


NO_TABLES = [
    b"round;val_acc\n1;0,5\n",
    "round,val_acc,größe\n1,0.5,1\n".encode("latin-1"),
    b"round,val_acc\n1,0.5\n2\n",
    b"round,a\n1,x\n",
    b"\n",
    b"round\nx",
]


@pytest.mark.parametrize("content", NO_TABLES)
def test_other_tables_are_refused_in_one_line(content, tmp_path):
    table = RoundTable(tmp_path / "metrics.csv")
    table.path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        table.begin(2)
    assert error.value.key == "run_dir"
    message = str(error.value)
    assert str(table.path) in message and "commas" in message and "\n" not in message
