"""Does ``flash-pl compare`` survive run folders of somebody else? Each must be compared, or refused in one line.

    python benchmarks/robustness/attack_runs.py --folders 200

Three small runs are trained once. Every hostile folder is a copy of one of them in which something is changed: bytes of
a file, values, types and nesting in JSON and YAML, columns and rounds of tables, references and class paths in the
config, names that a spreadsheet, a browser, a terminal or LaTeX would execute, links and pipes in place of files. Then
the command compares the folder with an intact run, every fourth time with a report. The process may use only 768 MiB
of address space more than after a warm-up, and a comparison 60 seconds. A class path that is imported leaves a file
behind. The script exits with 1 if anything but "compared" and "refused" happens.
"""

import argparse
import collections
import contextlib
import csv
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from flash_pl.cli import main as flash_pl

MIB = 2**20
EXTRA_MEMORY = 768 * MIB
SECONDS = 60
REPORT_EVERY = 4  # folders; drawing takes most of the time
FILES = ["config.yaml", "result.json", "metrics.csv", "consensus.csv"]
TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=3"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.enable_model_summary=false", "logger=false"]
RUNS = [
    ["jmwst", "seed=1"],
    ["jmwst", "seed=2", "fleet=mixed", "fleet.deadline=1.0", "trainer.eval_every=2", "trainer.eval_clients_every=1"],
    ["hetero_nst", "seed=1", "trainer.on_client_error=skip"],
]
EVIL = "evil_module"  # a module in the working directory that leaves a file if it is imported
MARKER = Path("imported")
SECRET = "secret-of-this-machine"

NAMES = [
    "=HYPERLINK(\"http://evil\")", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=1\n=2", "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>", "{{ 7*7 }}", "{% raw %}", "\x1b[2J\x1b[31m", "\x9b31m", "[bold red]x[/]", "[/]",
    "$\\frac{1}{$", "$x_{$", "$\\unknown$", "_hidden", "\\input{/etc/passwd}", "%", "../../outside", "/etc/passwd",
    "a/b", "\u202egnp", "\u0000", "\ufeff", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "", " ",
    "x" * 5000, "名" * 90, "a|b`c`", "'", "''", "\\", "\n", "#1", "nan", "true", "~", "1",
]  # fmt: skip
REFERENCES = [
    "${oc.env:ATTACK_SECRET}", "${oc.env:HOME}", "${oc.env:NONE,default}", "${oc.decode:${oc.env:ATTACK_SECRET}}",
    "${oc.select:seed}", "${oc.create:{a: 1}}", "${oc.dict.keys:data}", "${times:2,${density}}", "${times:1e308,1e308}",
    "${times:x}", "${seed}", "${missing}", "${data}", "${.name}", "${..seed}", "${", "}", "${}", "${${seed}}",
    "\\${seed}", "${scheduler.init_args.move}", "${attack}", "${oc.env:${oc.env:ATTACK_SECRET}}", "???",
    "${" * 200 + "}" * 200,
]  # fmt: skip
CLASSES = [f"{EVIL}.Net", f"{EVIL}", "os.system", "flash_pl.__main__.main", f"{EVIL}.Net.", ".", "flash_pl.nothing.X"]
NUMBERS = [
    0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e-12, 1e12, 1e30, 1e99, 1e101, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, 2**64,
    10**299, 10**4000, float("inf"), float("-inf"), float("nan"), True, False,
]  # fmt: skip
CELLS = ["", "nan", "inf", "-inf", "1e999", "1e308", "-1", "-0.0", "1e-320", "0x10", "1_0", "٣", "9" * 5000, " 1", "1 ",
         "=1+1", "true", "1,5", '"1', "\x00", "1.5", "1000000000000", "x" * 200_000]  # fmt: skip


def value(chance: random.Random) -> Any:
    """A value of any type."""
    return chance.choice(
        [
            lambda: chance.choice(NUMBERS),
            lambda: chance.choice(NAMES),
            lambda: chance.choice(REFERENCES),
            lambda: chance.choice(CLASSES),
            lambda: None,
            lambda: [value(chance) for _ in range(chance.randrange(4))],
            lambda: {chance.choice(NAMES): value(chance) for _ in range(chance.randrange(4))},
            lambda: {"class_path": chance.choice(CLASSES), "init_args": {"x": value(chance)}},
            lambda: list(range(chance.choice([10, 5000]))),
        ]
    )()


def change_bytes(folder: Path, chance: random.Random) -> None:
    path = folder / chance.choice(FILES)
    out = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 8])):
        place, kind = chance.randrange(len(out) + 1), chance.randrange(6)
        if kind == 0:
            out[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            del out[place : place + chance.randrange(1, 60)]
        elif kind == 3:
            out[place:place] = chance.randbytes(chance.randrange(1, 40))
        elif kind == 4:
            source = chance.randrange(len(out) + 1)
            out[place:place] = out[source : source + chance.randrange(200)]
        else:
            out[place : place + 3] = chance.choice(
                [b"\x00", b"\xff\xfe", b"9" * 5000, b"[" * 300, b"\x1b[2J", b"\r\n", b"${"]
            )
    path.write_bytes(bytes(out))


def replace_file(folder: Path, chance: random.Random) -> None:
    """Something else in place of a file."""
    path = folder / chance.choice(FILES)
    original = path.read_bytes()
    path.unlink()

    def sparse(size: int) -> Callable[[], Any]:
        def write() -> None:
            with open(path, "wb") as file:
                file.write(original)
                file.truncate(size)

        return write

    chance.choice(
        [
            lambda: None,
            path.mkdir,
            lambda: os.mkfifo(path),
            lambda: path.symlink_to(path.name),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.symlink_to("/proc/self/pagemap"),
            lambda: path.symlink_to("/proc/self/environ"),
            lambda: path.symlink_to("nowhere"),
            lambda: path.symlink_to(".."),
            path.touch,
            sparse(8 * 2**30),
            sparse(3 * MIB),
            lambda: path.write_bytes(b"[" * 100_000),
            lambda: path.write_bytes(b'{"a":' * 100_000),
            lambda: path.write_bytes(b"- " * 100_000),
            lambda: path.write_bytes(b"round" + b",x" * 2_000_000 + b"\n1" + b"," * 2_000_000 + b"\n"),
            lambda: path.write_bytes(b"round\n" + b"1" * 3_000_000),
            lambda: path.write_bytes(b"round,a\n" + b"".join(b"%d,1\n" % n for n in range(1, 300_000))),
            lambda: path.write_bytes(b"\xff\xfe" + original.decode().encode("utf-16-le")),
            lambda: path.write_bytes(b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
                b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 8)) for n in range(97, 110))),
        ]
    )()  # fmt: skip


def places(node: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a nested value."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in [(node, key), *places(node[key])]]


def deep(chance: random.Random) -> Any:
    node: Any = 1
    for _ in range(chance.choice([30, 60, 400])):
        node = {"a": node} if chance.random() < 0.5 else [node]
    return node


def change_tree(tree: dict[str, Any], chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        top = [(tree, key) for key in tree]
        container, key = chance.choice(top if chance.random() < 0.4 else places(tree))
        kind = chance.randrange(8)
        if kind < 3:
            container[key] = value(chance)
        elif kind == 3:
            container[key] = chance.choice(NUMBERS)
        elif kind == 4 and isinstance(container, dict):
            container.pop(key, None)
        elif kind == 5 and isinstance(container, dict):
            container[chance.choice(NAMES)] = container.pop(key)
        elif kind == 6:
            container[key] = deep(chance)
        elif isinstance(container, dict):
            container |= {f"x{n}": n for n in range(chance.choice([50, 3000]))}
        if not tree:
            return


def change_result(folder: Path, chance: random.Random) -> None:
    path = folder / "result.json"
    tree = json.loads(path.read_text())
    change_tree(tree, chance)
    path.write_text(json.dumps(tree, ensure_ascii=chance.random() < 0.5), errors="surrogatepass")


def change_config(folder: Path, chance: random.Random) -> None:
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    kind = chance.randrange(5)
    if kind == 0:  # a component of the attacker
        section = chance.choice(
            ["data", "model", "scheduler", "budget", "sampler", "aggregator", "fleet", "callbacks", "logger"]
        )
        path_of_class = chance.choice([CLASSES[0], chance.choice(CLASSES)])
        component = {"class_path": path_of_class, "init_args": {"x": chance.choice([1, value(chance)])}}
        tree[section] = chance.choice([component, component, path_of_class, [component], {"name": path_of_class}])
        if section in ("data", "model", "scheduler"):
            agree(folder / "result.json", section, path_of_class.rpartition(".")[2])
    elif kind == 1:  # references that make more references
        tree |= {f"a{n}": f"${{a{n + 1}}}" * chance.choice([1, 2, 3]) for n in range(30)} | {"a30": "x" * 50}
        tree["lr"] = chance.choice(["${a0}", "${a20}", "${a30}", "${lr}"])
    elif kind == 2:  # names
        section = chance.choice(["data", "model", "scheduler", "trainer"])
        name = chance.choice(NAMES)
        if section == "trainer":
            tree["trainer"]["monitor"] = name
            swap(folder / "metrics.csv", "val_acc", name)
        else:
            tree[section]["name"] = name
            agree(folder / "result.json", section, name)
    else:
        change_tree(tree, chance)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=chance.random() < 0.5)
    path.write_text(text, errors="surrogatepass")


def agree(path: Path, key: str, name: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: name}))


def swap(path: Path, old: str, new: str) -> None:
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    rows[0] = [new + cell.removeprefix(old) if cell.startswith(old) else cell for cell in rows[0]]
    write_rows(path, rows)


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator=chr(10)).writerows(rows)


def change_table(folder: Path, chance: random.Random) -> None:
    path = folder / chance.choice(["metrics.csv", "metrics.csv", "consensus.csv"])
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    for _ in range(chance.choice([1, 1, 2, 4])):
        column, row, kind = chance.randrange(len(rows[0])), chance.randrange(1, len(rows)), chance.randrange(9)
        if kind == 0:
            rows = [cells[:column] + cells[column + 1 :] for cells in rows]
        elif kind == 1:
            rows = [[*cells, cells[column]] for cells in rows]
        elif kind == 2:
            rows[0][column] = chance.choice(
                [*NAMES, "val_acc_d0.1", "val_acc_d0." + "1" * 50, "density/" + chance.choice(NAMES)]
            )
        elif kind == 3:
            rows[row][column] = chance.choice(CELLS)
        elif kind == 4:
            other = chance.randrange(1, len(rows))
            rows[row], rows[other] = rows[other], rows[row]
        elif kind == 5:
            rows.append(list(rows[row]))
        elif kind == 6:
            for cells in rows[1:]:
                cells[0] = chance.choice([cells[0], "1", "2.5", "-1", "0", "1e300", "", str(chance.randrange(10))])
        elif kind == 7:
            prefix = chance.choice(["val_acc_d0.", "density/layer", "votes/", "x"])
            extra = range(chance.choice([30, 300, 2000]))
            rows = [rows[0] + [f"{prefix}{n}" for n in extra], *(cells + ["0.5"] * len(extra) for cells in rows[1:])]
        else:
            for cells in rows[1:]:
                cells[column] = chance.choice(CELLS[:12])
        if not rows[0]:
            break
    write_rows(path, rows)


def rename(folder: Path, chance: random.Random) -> None:
    """A folder with another name, and runs behind links that lead in circles."""
    name = chance.choice(["=x", "\x1b[2J", "<b>", "a\nb", "$x_{$", "[red]", "\u202e"])
    shutil.copytree(folder, folder / "runs" / name, ignore=shutil.ignore_patterns("runs"))
    (folder / "runs" / "loop").symlink_to("..")
    (folder / "runs" / "self").symlink_to("self")
    if chance.random() < 0.2:
        (folder / "runs" / "z").symlink_to("/")
    for file in FILES:
        (folder / file).unlink()
    if chance.random() < 0.5:
        (folder / "runs" / name / "result.json").write_text("{")


MUTATIONS: list[Callable[[Path, random.Random], None]] = [
    change_bytes, replace_file, change_result, change_config, change_config, change_table, change_table, rename,
]  # fmt: skip


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attributes if name.startswith("on"))}


def fault_of_report(out: Path) -> str:
    """What is wrong with the files of a report; "" if nothing is."""
    outside = [path for path in out.parent.iterdir() if path.name not in (out.name, "hostile", "intact")]
    if outside:
        return "wrote outside of the folder"
    with open(out / "table.csv", newline="") as file:
        for cell in (cell for row in csv.reader(file) for cell in row):
            if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(
                r"[-+]?[\d.]+(e[-+]?\d+)?|-?(inf|nan)", cell
            ):
                return "formula in CSV"
    page = (out / "report.html").read_text()
    if {"script", "onerror", "a", "b"} & Tags(page).found or SECRET in page:
        return "markup or a secret in HTML"
    return ""


SHOWN = 2_000  # characters of a traceback


class Hang(BaseException):
    """A comparison took too long; no handler for exceptions catches it."""


def outcome(arguments: list[str], out: Path) -> tuple[str, str]:
    """What a comparison does with a folder, and details."""
    stdout, stderr = io.StringIO(), io.StringIO()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            warnings.filterwarnings("error", category=RuntimeWarning)
            code = flash_pl(arguments)
    except Hang:
        return "hang", traceback.format_exc()[-SHOWN:]
    except MemoryError:
        return "memory", traceback.format_exc()[-SHOWN:]
    except BaseException:
        return "traceback", traceback.format_exc()[-SHOWN:]
    finally:
        signal.alarm(0)
    text = stdout.getvalue() + stderr.getvalue()
    lines = stderr.getvalue().splitlines()
    if MARKER.exists():
        MARKER.unlink()
        sys.modules.pop(EVIL, None)
        return "code ran", text
    if any(not (letter.isprintable() or letter == "\n") for letter in text):
        return "raw escape in the output", repr(text)
    if SECRET in text:
        return "secret in the output", text
    if code != 0 or not all(line.startswith("flash-pl: ") for line in lines):
        return f"exit code {code}", text
    if (out / "report.html").exists() and (fault := fault_of_report(out)):
        return fault, text
    refused = [line for line in lines if line.startswith("flash-pl: warning: left out: ")]
    return ("refused", refused[0]) if refused else ("compared", "")


def make_runs(folder: Path) -> list[Path]:
    """Train the runs, or take those of an earlier call."""
    for number, arguments in enumerate(RUNS):
        path = folder / str(number)
        if not (path / "result.json").exists():
            with contextlib.redirect_stdout(io.StringIO()):
                assert flash_pl(["fit", *arguments, *TINY, f"run_dir={path}"]) == 0
    return [folder / str(number) for number in range(len(RUNS))]


def attack(runs: list[Path], folders: int, seed: int, show: bool) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    slowest: list[tuple[float, int, str, str]] = []
    digits, recursion = sys.get_int_max_str_digits(), sys.getrecursionlimit()
    for number in range(folders):
        chance = random.Random(seed * 1_000_003 + number)
        mutation = chance.choice(MUTATIONS)
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            shutil.copytree(chance.choice(runs), place / "hostile", ignore=shutil.ignore_patterns("checkpoints"))
            shutil.copytree(chance.choice(runs), place / "intact", ignore=shutil.ignore_patterns("checkpoints"))
            if not (place / "hostile" / "consensus.csv").exists():
                shutil.copy(runs[0] / "consensus.csv", place / "hostile")
            sys.set_int_max_str_digits(0)  # to write numbers of thousands of digits
            sys.setrecursionlimit(10 * recursion)
            mutation(place / "hostile", chance)
            sys.set_int_max_str_digits(digits)
            sys.setrecursionlimit(recursion)
            report = ["--out", str(place / "out")] if number % REPORT_EVERY == 0 else []
            begun = time.perf_counter()
            end, details = outcome(["compare", str(place / "hostile"), str(place / "intact"), *report], place / "out")
            slowest.append((time.perf_counter() - begun, number, mutation.__name__, end))
        counts[end] += 1
        if show or end not in ("compared", "refused"):
            print(f"folder {number}, {mutation.__name__}: {end}\n{details}\n", flush=True)
    for seconds, number, name, end in sorted(slowest, reverse=True)[:5]:
        print(f"{seconds:6.1f} s  folder {number}, {name}: {end}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/attack"), help="where the intact runs are")
    parser.add_argument("--show", action="store_true", help="print the line of every folder that is refused")
    arguments = parser.parse_args()
    runs = make_runs(arguments.runs.absolute())
    os.environ["ATTACK_SECRET"] = SECRET
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hang()))
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        Path(f"{EVIL}.py").write_text(f"open({str(MARKER.absolute())!r}, 'w')\nclass Net: pass\n")
        assert (
            flash_pl(["compare", *map(str, runs), "--out", "warm"]) == 0
        )  # whatever is loaded on demand is loaded now
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, used + EXTRA_MEMORY))
        begun = time.perf_counter()
        counts = attack(runs, arguments.folders, arguments.seed, arguments.show)
        print(f"{arguments.folders:,} folders in {time.perf_counter() - begun:.0f} s")
        for end, count in counts.most_common():
            print(f"{count:>8,}  {end}")
        os.chdir("/")
    return int(not set(counts) <= {"compared", "refused"})


if __name__ == "__main__":
    sys.exit(main())
