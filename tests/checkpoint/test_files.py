"""Checkpoint files are whole or refused; a folder knows its newest whole one."""

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


def test_a_file_comes_back_and_torch_reads_it_too(tmp_path):
    write_checkpoint(tmp_path / "a.ckpt", state(3))
    for found in (read_checkpoint(tmp_path / "a.ckpt"), torch.load(tmp_path / "a.ckpt", weights_only=True)):
        assert found["flash_pl"]["round"] == 3 and torch.equal(found["weights"], state(3)["weights"])
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, state(3))
    whole, draw = path.read_bytes(), random.Random(0)
    damaged = [whole[:cut] for cut in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    for place in [*draw.sample(range(len(whole)), 200), len(whole) - 1, len(whole) - 33, len(whole) - 34]:
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="torn, altered or foreign"):
            read_checkpoint(path)


def test_a_file_that_carries_code_is_refused_though_its_digest_fits(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    write_checkpoint(tmp_path / "a.ckpt", {"hostile": Hostile()})
    with pytest.raises(ConfigError, match="tensors and plain values"):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "owned").exists()


def test_another_schema_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    write_checkpoint(folder.last, {"flash_pl": {"schema": SCHEMA + 1}})
    for read in (lambda: read_checkpoint(folder.last), folder.newest):
        with pytest.raises(ConfigError, match=f"schema {SCHEMA}; this one has {SCHEMA + 1}"):
            read()


def test_a_folder_keeps_the_last_two_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "folder")
    assert folder.newest() is None
    for round, best in ((1, True), (2, False), (3, False)):
        folder.save(state(round), best)
    rounds = {file: read_checkpoint(folder.path / f"{file}.ckpt")["flash_pl"]["round"] for file in ("last", "previous")}
    assert rounds == {"last": 3, "previous": 2}
    assert read_checkpoint(folder.best)["flash_pl"]["round"] == 1
    assert sorted(os.listdir(folder.path)) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_the_newest_whole_checkpoint_is_found_among_torn_ones(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(state(1), best=True)
    folder.save(state(2))
    folder.save(state(3))
    for torn, expected in ((folder.last, 2), (folder.previous, 1)):
        torn.write_bytes(torn.read_bytes()[:-1])
        path, found, complaints = folder.newest()
        assert found["flash_pl"]["round"] == expected and path.exists()
        assert all("torn" in complaint for complaint in complaints)
    assert len(complaints) == 2
    folder.best.write_bytes(b"")
    with pytest.raises(ConfigError, match="a usable checkpoint in .* last.ckpt should be a whole checkpoint"):
        folder.newest()


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


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    draw = random.Random(0)
    for kill in range(2):
        folder = CheckpointFolder(tmp_path / str(kill))
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path)], stdout=subprocess.PIPE, text=True)
        for _ in range(draw.randrange(2, 9)):
            said = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        said = max([said, *map(int, writer.communicate()[0].split())])
        found = folder.newest()[1]
        assert found["flash_pl"]["round"] >= said
        assert torch.equal(found["weights"], torch.full((200_000,), float(found["flash_pl"]["round"])))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, the device that is always full")
def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, state(1))
    os.symlink("/dev/full", f"{path}.tmp")
    with pytest.raises(RunError, match="cannot be written .No space left"):
        write_checkpoint(path, state(2))
    assert read_checkpoint(path)["flash_pl"]["round"] == 1
