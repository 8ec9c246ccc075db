"""Do the readers of files survive strangers? Each file must be read or refused, in bounded time and memory.

    python benchmarks/robustness/attack_files.py --files 20000

So many checkpoints, .flash and .safetensors files each are changed. Some changes are blind: bytes are changed, cut out,
inserted and spliced. Others know the format: keys are dropped, types exchanged, sizes made huge, tensors expanded,
lists nested, entries compressed. Most files then get a valid checksum or digest, so that the readers read on.
Each file goes through ``read_contents`` and ``contents_table``, which ``flash-pl inspect`` calls, a checkpoint also
through ``read_checkpoint`` and ``SavedRun.model``, and a .flash file through ``load_flash``.

The process may use only 128 MiB of address space more than after a warm-up, and a file 5 seconds. A reader that trusts
a file about its size would exceed these limits at once. Exits with 1 if a file ends in anything but a result or a
refusal.
"""

import argparse
import collections
import copy
import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from fuzz import mutate

from flash_pl.checkpoint import DIGEST, read_checkpoint
from flash_pl.cli import main as flash_pl
from flash_pl.errors import ConfigError, PayloadError
from flash_pl.export import SavedRun, contents_table, read_contents
from flash_pl.wire import load_flash

MIB = 2**20
EXTRA_MEMORY = 128 * MIB
SECONDS = 5  # for one file
RUN = ["hetero_jmwst", "data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4"]
RUN += ["data.shape=[1, 8, 8]", "model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8"]
RUN += ["density=0.2", "rounds=1", "scheduler.sensitivity.epochs=1", "trainer.accelerator=cpu"]
RUN += ["trainer.progress=false", "trainer.threads=1"]


def make_seeds(folder: Path) -> dict[str, list[bytes]]:
    """A checkpoint of a tiny run, and its exports."""
    checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
    exports = [["a.flash"], ["b.flash", "--values", "fp16"], ["c.flash", "--compress"], ["d.safetensors"]]
    exports += [["e.safetensors", "--sparse"]]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert flash_pl(["fit", *RUN, f"run_dir={folder / 'run'}"]) == 0
        for name, *options in exports:
            assert flash_pl(["export", str(checkpoint), "--to", str(folder / name), *options]) == 0
    read = {
        suffix: [path.read_bytes() for path in sorted(folder.glob(f"*{suffix}"))]
        for suffix in (".flash", ".safetensors")
    }
    return read | {".ckpt": [checkpoint.read_bytes()]}


# Changes of a structure


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return value


NUMBERS = [0, -1, 1, 2**31, 2**40, 2**62, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
PLAIN: list[Callable[[], Any]] = [
    *(lambda number=number: number for number in NUMBERS),
    *(lambda value=value: value for value in (None, True, False, "", "x", "x" * 10_000, "\x1b[31m", "\ud800")),
    *(lambda value=value: copy.copy(value) for value in ([], {}, [[]], {"x": 1})),
    lambda: deep(50),
    lambda: deep(5000),
]
TENSORS: list[Callable[[], Any]] = [
    lambda: torch.zeros(0),
    lambda: torch.zeros(()),
    lambda: torch.tensor(float("nan")),
    lambda: torch.zeros(1).expand(10**12),
    lambda: torch.zeros(1).expand(10**4),
    lambda: torch.empty(10**12, device="meta"),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.zeros(3, dtype=torch.complex64),
    lambda: torch.arange(7),
    lambda: torch.nn.Parameter(torch.zeros(3)),
    lambda: torch.Size([2, 3]),
    lambda: collections.OrderedDict(a=1),
    lambda: {1, 2},
    lambda: b"\xff",
    lambda: doubled(40),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """The containers in a structure with each of their keys."""
    found, waiting = [], [value]
    while waiting and len(found) < 10_000:  # some have lists that contain each other
        container = waiting.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def change(root: Any, chance: random.Random, leaves: list[Callable[[], Any]]) -> None:
    """Change a structure of dictionaries and lists at one to three places."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        found = places(root)
        if not found:
            return
        container, key = chance.choice(found)
        kind, value = chance.randrange(7), container[key]
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(value, torch.Tensor):
            container[key] = changed_tensor(value, chance)
        elif kind == 2:
            other, name = chance.choice(found)
            if name in other if isinstance(other, dict) else name < len(other):
                container[key], other[name] = other[name], value
        elif kind == 3 and isinstance(container, dict):
            container[chance.choice(["x", "", "\x1b[31m", "w" * 300])] = value
        elif kind == 4 and isinstance(container, list):
            container.extend([value] * chance.choice([1, 2, 100]))
        else:
            container[key] = chance.choice(leaves)()


def changed_tensor(tensor: torch.Tensor, chance: random.Random) -> torch.Tensor:
    """A tensor of another shape, dtype or content."""
    kind = chance.randrange(6)
    if kind == 0:
        return tensor.double()
    if kind == 1:
        return tensor.reshape(-1)[:-1]
    if kind == 2:
        return torch.cat([tensor.reshape(-1)] * 2)
    if kind == 3:
        return tensor.bool()
    if kind == 4:
        return tensor.unsqueeze(0)
    return torch.full_like(tensor, 1) if tensor.dtype == torch.bool else tensor.float() * float("nan")


# Changes of a file


def changed_checkpoint(good: bytes, chance: random.Random) -> bytes:
    """A changed checkpoint; most have a valid digest."""
    kind = chance.randrange(10)
    if kind == 0:
        return mutate(good, chance)
    if kind == 1:
        return with_digest(mutate(good[:-DIGEST], chance))
    if kind < 5:  # the archive is whole, one of its entries is changed
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        name = "archive/data.pkl" if chance.random() < 0.7 else chance.choice(list(entries))
        action = chance.randrange(6)
        if action == 0:
            entries.pop(name)
        elif action == 1:
            entries[chance.choice(list(entries))] = entries[name]
        else:
            entries[name] = mutate(entries[name], chance)
        method = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return with_digest(buffer.getvalue())
    state = torch.load(io.BytesIO(good), weights_only=True)
    change(state if chance.random() < 0.3 else state["flash_pl"], chance, PLAIN + TENSORS)
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
    except (RecursionError, RuntimeError, UnicodeEncodeError):
        return mutate(good, chance)
    return with_digest(buffer.getvalue())


def with_digest(content: bytes) -> bytes:
    """An archive with the digest of a checkpoint."""
    content = content[:-2]
    return content + struct.pack("<H", DIGEST) + hashlib.blake2b(content, digest_size=DIGEST).digest()


def changed_flash(good: bytes, chance: random.Random) -> bytes:
    """A changed .flash file; most have valid checksums."""
    kind = chance.randrange(5)
    if kind == 0:
        return mutate(good, chance)
    stop = 16 + int.from_bytes(good[8:12], "little")
    header, rest = json.loads(good[16:stop]), good[stop:]
    length = header["payload"]
    payload, others = rest[:length], rest[length:]
    if kind == 1:
        change(header, chance, PLAIN)
    elif kind < 4:
        if kind == 2:
            payload = mutate(payload, chance)
        else:  # some bytes alone, mostly of values
            changed = bytearray(payload)
            for _ in range(chance.choice([1, 2, 8])):
                changed[chance.randrange(12, len(changed))] = chance.choice([0, 1, 127, 128, 255])
            payload = bytes(changed)
        payload = payload[:8] + zlib.crc32(payload[12:]).to_bytes(4, "little") + payload[12:]
        header["payload"] = len(payload)
    else:
        others = mutate(others, chance)
    return flash_file(header, payload + others)


def flash_file(header: Any, rest: bytes) -> bytes:
    """A file with a valid checksum."""
    try:
        text = json.dumps(header).encode()
    except (RecursionError, ValueError):  # a change has put the header into itself
        text = b"[" * 100_000
    body = text + rest
    return b"FLPM\2\0\0\0" + len(text).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def changed_safetensors(good: bytes, chance: random.Random) -> bytes:
    """A changed .safetensors file; its header often fits."""
    kind = chance.randrange(5)
    if kind == 0:
        return mutate(good, chance)
    stop = 8 + int.from_bytes(good[:8], "little")
    header, content = json.loads(good[8:stop]), bytearray(good[stop:])
    if kind == 1:
        change(header, chance, PLAIN)
    elif kind == 2:  # the parts of a sparse tensor, or all values
        for _ in range(chance.choice([1, 2, 8])):
            names = [name for name in header if name.endswith((".shape", ".indices"))] or [*header]
            start, end = header[chance.choice(names)].get("data_offsets", (0, len(content)))
            if end > start:
                place = chance.randrange(start, end)
                content[place : place + 1] = bytes([chance.choice([0, 1, 127, 128, 255])])
    elif kind == 3:
        name = chance.choice(list(header))
        header[name]["dtype"] = chance.choice("BOOL F4 F8_E4M3 F8_E8M0 I8 U64 F16 C64 I32 XX".split())
    else:
        name = chance.choice([name for name in header if name != "__metadata__"])
        shape = header[name]["shape"]
        header[name]["shape"] = chance.choice([[*shape, 1], [1, *shape], shape[::-1], [0], [], [2**40, *shape]])
    try:
        text = json.dumps(header).encode()
    except RecursionError:
        text = b"[" * 100_000
    return len(text).to_bytes(8, "little") + text + bytes(content)


# What happens to a file


def inspect(path: Path) -> None:
    contents_table(read_contents(path), path)


def use_checkpoint(path: Path) -> None:
    read_checkpoint(path)
    inspect(path)
    SavedRun(path).model()


def use_flash(path: Path) -> None:
    try:
        inspect(path)
    finally:
        load_flash(path)


Kind = tuple[Callable[[bytes, random.Random], bytes], Callable[[Path], None]]
KINDS: dict[str, Kind] = {
    ".ckpt": (changed_checkpoint, use_checkpoint),
    ".flash": (changed_flash, use_flash),
    ".safetensors": (changed_safetensors, inspect),
}


def outcome(use: Callable[[Path], None], path: Path) -> tuple[str, str]:
    """How a file ends, and details: the place of an error, or the sentence of a refusal without its values."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        use(path)
    except (ConfigError, PayloadError) as error:
        sentence = str(error)
        if "\n" in sentence or len(sentence) > 2000:
            return "refused, not in one sentence", sentence[:200]
        return "refused", re.sub(r"[\[(].*|\d+", "#", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", sentence))[:90]
    except TimeoutError:
        return "hang", ""
    except Exception as error:
        kind = "memory" if isinstance(error, MemoryError) or "allocate memory" in str(error) else "traceback"
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "flash_pl/" in frame.filename]
        place = f"{frames[-1].filename.rpartition('flash_pl/')[2]}:{frames[-1].lineno}" if frames else "?"
        return kind, f"{place} {type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read", ""


def stop(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="suffixes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, help="folder for files that end in something else than a result or refusal"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    failed = False
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        seeds = make_seeds(folder)
        for suffix, files in seeds.items():
            for data in files:
                (folder / f"x{suffix}").write_bytes(data)
                KINDS[suffix][1](folder / f"x{suffix}")
        chance = random.Random(arguments.seed)
        for suffix, (make, _) in KINDS.items():  # a warm-up for what makes the files
            for _ in range(50):
                make(chance.choice(seeds[suffix]), chance)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, used + EXTRA_MEMORY))
        for suffix in arguments.kinds:
            make, use = KINDS[suffix]
            path = folder / f"x{suffix}"
            ends: collections.Counter[str] = collections.Counter()
            details: collections.Counter[str] = collections.Counter()
            slowest, in_use = 0.0, 0.0
            for _ in range(arguments.files):
                path.write_bytes(make(chance.choice(seeds[suffix]), chance))
                started = time.perf_counter()
                end, detail = outcome(use, path)
                seconds = time.perf_counter() - started
                slowest, in_use = max(slowest, seconds), in_use + seconds
                ends[end] += 1
                details[f"{end}: {detail}"] += 1
                if end not in ("read", "refused"):
                    failed = True
                    if arguments.keep and details[f"{end}: {detail}"] == 1:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        (arguments.keep / f"{sum(ends.values())}{suffix}").write_bytes(path.read_bytes())
            total = ", ".join(f"{count:,} {end}" for end, count in ends.most_common())
            print(f"{suffix}: {total}; {arguments.files / in_use:.0f} files a second, slowest {1e3 * slowest:.0f} ms")
            refusals = [entry for entry in details.most_common() if entry[0].startswith("refused: ")]
            others = [entry for entry in details.most_common() if not entry[0].startswith(("refused: ", "read: "))]
            for detail, count in others + refusals[:20]:
                print(f"{count:>8,}  {detail}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
