"""The lock of a directory: one process at a time, released by the system, nothing left behind."""

import os
import subprocess
import sys
import threading

import pytest

from flash_pl.config.lock import NAME, DirectoryLock, _open_files, holder_of

HOLD = """
import sys
from pathlib import Path
from flash_pl.config.lock import DirectoryLock
assert DirectoryLock(Path(sys.argv[1])).acquire() is None
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_a_file_that_means_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    lock = DirectoryLock(tmp_path)
    assert lock.acquire().startswith(f"process {process.pid} on ") and holder_of(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / NAME).exists() and holder_of(tmp_path) is None and lock.acquire() is None
    lock.release(keep=True)
    assert tmp_path.exists() and not (tmp_path / NAME).exists()


def test_only_folders_that_were_made_are_removed(tmp_path):
    (tmp_path / "own").mkdir()
    for keep, path, files in (
        (False, "own/new/run", 0),
        (True, "own/kept/run", 1),
        (False, "own/used", 1),
        (False, "own", 1),
    ):
        lock = DirectoryLock(tmp_path / path)
        assert lock.acquire() is None
        if files:  # perhaps of somebody else, such as another run below this directory
            (tmp_path / path / "database").touch()
        lock.release(keep=keep)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "own",
        "own/database",
        "own/kept",
        "own/kept/run",
        "own/kept/run/database",
        "own/used",
        "own/used/database",
    ]


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """Workers that read data are forked, and may live some seconds longer than a process that was killed."""
    lock = DirectoryLock(tmp_path)
    assert lock.acquire() is None
    ready, end = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        os.write(ready[1], b"x")
        os.read(end[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        os.close(lock._handle)  # as the death of this process closes it
        _open_files.discard(lock._handle)
        assert DirectoryLock(tmp_path).acquire() is None
    finally:
        os.write(end[1], b"x")
        os.waitpid(child, 0)


def test_of_many_that_come_and_go_one_has_the_lock(tmp_path):
    """The file is removed with the lock, which lets no two in. If one comes while another leaves, the folder stays."""
    inside, most, taken = 0, 0, 0

    def work():
        nonlocal inside, most, taken
        for _ in range(60):
            lock = DirectoryLock(tmp_path / "run")
            if lock.acquire() is None:
                inside += 1
                most, taken = max(most, inside), taken + 1
                inside -= 1
                lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and taken > 0 and not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("path", ["file", "file/run", "x" * 300, "/proc/none/run"])
def test_what_cannot_be_a_directory_is_an_error_of_the_system(path, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        DirectoryLock(tmp_path / path).acquire()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and holder_of(tmp_path / path) is None
