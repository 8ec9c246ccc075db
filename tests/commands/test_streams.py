"""Standard output and error that are closed, full or cannot show a character."""

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
import threading

import pytest

from flash_pl.cli import main
from flash_pl.commands.streams import Stream, safe_streams

TINY = ["data=synthetic", "data.samples=40", "data.test_samples=8", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=8", "clients=4", "cohort=1", "density=0.2", "rounds=1", "logger=false"]


class Full(io.StringIO):
    error: type[OSError] | OSError = OSError(28, "No space left on device")

    def write(self, text):
        raise self.error


class Gone(Full):
    error = BrokenPipeError


def test_a_command_whose_output_is_lost_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["configs"]) == 1
    assert capsys.readouterr().err == ("flash-pl: error: standard output cannot be written (No space left on device)\n")


def test_a_reader_that_has_gone_is_no_error_to_write_about(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(["configs"]) == 141
    assert not capsys.readouterr().err


def test_a_run_goes_on_without_its_screen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", Full())
    assert main(["fit", "pdst", *TINY, "run_dir=run", "trainer.accelerator=cpu"]) == 0
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_stream_cannot_show_is_escaped(encoding):
    raw = io.BytesIO()
    stream = Stream(io.TextIOWrapper(raw, encoding=encoding))
    stream.write("caf\u00e9 \u2501 \udcff")
    stream.flush()
    assert stream.error is None and raw.getvalue().decode(encoding).endswith(r"\u2501 \udcff")


def test_a_terminal_shows_a_message_in_whole_words_and_a_file_in_one_line(tmp_path):
    ours, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    message = "flash-pl: error: run_dir: '/a/folder/with/a/path' belongs to another experiment\n"
    other = "what somebody else prints may be broken anywhere, since it is not ours to change\n"
    with os.fdopen(terminal, "w") as file:
        stream = Stream(file)
        stream.write(message)
        stream.write(other)
        stream.flush()
        shown = ""
        while not shown.endswith(other):
            shown += os.read(ours, 4096).decode().replace("\r\n", "\n")
    os.close(ours)
    lines = shown.removesuffix(other).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 40 and " ".join(lines).split() == message.split()
    with open(tmp_path / "log", "w") as file:
        Stream(file).write(message)
    assert (tmp_path / "log").read_text() == message


def test_an_error_in_a_thread_is_one_line(capsys):
    def fail():
        raise OSError(28, "No space left on device")

    with safe_streams():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert capsys.readouterr().err == "flash-pl: warning: Thread: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_real_file_descriptors():
    """Closed, full, or closed by the reader: no traceback, also not at the end of the interpreter."""
    command = f"{sys.executable} -m flash_pl configs"
    script = f"{command} >&-; echo $?; {command} >/dev/full; echo $?; {command} | true; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["1", "1", "141"]
    assert [line.partition("(")[2] for line in done.stderr.splitlines()] == [
        "it is closed)",
        "No space left on device)",
    ]
