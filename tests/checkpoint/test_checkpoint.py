"""Checkpoint files are complete or refused; a folder finds its newest complete file."""

import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from flash_pl.checkpoint import SCHEMA, CheckpointFolder, read_checkpoint, write_checkpoint
from flash_pl.errors import ConfigError, RunError


def state(round):
    return {"flash_pl": {"schema": SCHEMA, "round": round}, "weights": torch.arange(1000.0) + round}


def test_a_file_is_read_back_also_by_torch(tmp_path):
    write_checkpoint(tmp_path / "a.ckpt", state(3))
    for content in (read_checkpoint(tmp_path / "a.ckpt"), torch.load(tmp_path / "a.ckpt", weights_only=True)):
        assert content["flash_pl"]["round"] == 3 and torch.equal(content["weights"], state(3)["weights"])
    assert os.listdir(tmp_path) == ["a.ckpt"]


def refusal(read, *arguments):
    """The one-line error of a file that ``read`` refuses."""
    with pytest.raises(ConfigError) as error:
        read(*arguments)
    assert error.value.key == "ckpt_path" and "\n" not in str(error.value)
    return str(error.value)


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, state(3))
    good, draw = path.read_bytes(), random.Random(0)
    damaged = [good[:cut] for cut in (0, 1, len(good) // 2, len(good) - 1)] + [good + b"x"]
    for place in [*draw.sample(range(len(good)), 200), len(good) - 1, len(good) - 33, len(good) - 34]:
        damaged.append(good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        assert f"'{path}' is not a complete checkpoint" in refusal(read_checkpoint, path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    assert f"'{tmp_path / 'none'}' cannot be read (No such file" in refusal(read_checkpoint, tmp_path / "none")
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    assert f"'{foreign}'" in refusal(read_checkpoint, foreign)
    write_checkpoint(foreign, {"state_dict": {}})  # with a digest that fits
    assert f"'{foreign}' is not a checkpoint of flash_pl" in refusal(read_checkpoint, foreign)


def test_no_code_from_a_file_is_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "hostile.ckpt"
    torch.save(Hostile(), path)
    assert f"'{path}'" in refusal(read_checkpoint, path)
    write_checkpoint(path, {"hostile": Hostile()})  # with a digest that fits
    message = refusal(read_checkpoint, path)
    assert f"'{path}'" in message and "tensors and plain values" in message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(("schema", "age"), [(SCHEMA - 1, "older"), (SCHEMA + 1, "newer")])
def test_a_file_of_another_version_is_refused(schema, age, tmp_path):
    folder = CheckpointFolder(tmp_path)
    write_checkpoint(folder.last, {"flash_pl": {"schema": schema}})
    for message in (refusal(read_checkpoint, folder.last), refusal(folder.newest)):
        assert f"'{folder.last}'" in message and f"{age} version" in message and f"schema {schema}" in message


def test_a_folder_keeps_the_last_two_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "folder")
    assert folder.newest() is None
    for round, best in ((1, True), (2, False), (3, False)):
        folder.save(state(round), best)
    rounds = {file: read_checkpoint(folder.path / f"{file}.ckpt")["flash_pl"]["round"] for file in ("last", "previous")}
    assert rounds == {"last": 3, "previous": 2}
    assert read_checkpoint(folder.best)["flash_pl"]["round"] == 1
    assert sorted(os.listdir(folder.path)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_the_newest_complete_checkpoint_is_found_among_torn_files(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), best=True)
    folder.save(state(2))
    folder.save(state(3))
    for torn, expected in ((folder.last, 2), (folder.previous, 1)):
        torn.write_bytes(torn.read_bytes()[:-1])
        path, content, errors = folder.newest()
        assert content["flash_pl"]["round"] == expected and path.exists()
    assert [str(file) in error for file, error in zip((folder.last, folder.previous), errors, strict=True)] == [
        True
    ] * 2
    folder.best.write_bytes(b"")
    message = refusal(folder.newest)
    assert f"last finds no usable checkpoint in {tmp_path}" in message and f"'{folder.last}'" in message


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1))
    write_checkpoint(folder.path / "new.ckpt", state(2))
    os.replace(folder.last, folder.previous)
    assert folder.newest()[1]["flash_pl"]["round"] == 2


WRITER = """
import sys, torch
from flash_pl.checkpoint import SCHEMA, CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
for round in range(10**9):
    folder.save({"flash_pl": {"schema": SCHEMA, "round": round}, "weights": torch.full((200_000,), float(round))})
    print(round, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    draw = random.Random(0)
    for kill in range(2):
        folder = CheckpointFolder(tmp_path / str(kill))
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)], stdout=subprocess.PIPE, text=True)
        for _ in range(draw.randrange(2, 9)):
            written = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        written = max([written, *map(int, writer.communicate()[0].split())])
        content = folder.newest()[1]
        assert content["flash_pl"]["round"] >= written
        assert torch.equal(content["weights"], torch.full((200_000,), float(content["flash_pl"]["round"])))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, the device that is always full")
def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, state(1))
    os.symlink("/dev/full", f"{path}.tmp")
    with pytest.raises(RunError, match="cannot be written .No space left"):
        write_checkpoint(path, state(2))
    assert read_checkpoint(path)["flash_pl"]["round"] == 1


def test_a_state_that_could_not_be_read_again_replaces_no_checkpoint(tmp_path):
    folder, shared = CheckpointFolder(tmp_path), torch.zeros(100_000)
    folder.save(state(1))
    with pytest.raises(RunError, match="could not be read again"):
        folder.save(state(2) | {"masks": {client: shared for client in range(100)}})
    assert [read_checkpoint(file)["flash_pl"]["round"] for file in folder.files()] == [1]
