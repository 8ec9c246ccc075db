"""Does every hostile config end in one sentence? None may hang, fill the memory, run code or leave a half-made folder.

    python benchmarks/robustness/attack_configs.py --configs 500

Each config is a small experiment in which some keys have a hostile value: another type, a number of thousands of
digits, deep nesting, aliases, references that are cyclic or read the environment, characters outside of ASCII, the path
of a function such as ``os.system`` as the class of a component, also inside of init args and lists. Every config goes
through ``flash-pl fit`` in this process, with a limit of seconds, a limit of memory, and markers that show whether code
of the config ran. A reader of the table sees at once what must not be there: lines other than "refused" and "trained".
"""

import argparse
import collections
import contextlib
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import yaml

from flash_pl.cli import main as flash_pl
from flash_pl.config.keys import KEYS

EXTRA_MEMORY = 2 * 2**30
TINY = ["rounds=1", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.enable_model_summary=false"]
BASE = {
    "scheduler": "pdst",
    "data": {"name": "synthetic", "samples": 40, "test_samples": 8, "classes": 4, "shape": [1, 8, 8]},
    "model": {"name": "digits_cnn", "hidden": 8},
    "clients": 4,
    "cohort": 1,
    "logger": False,
}
BELOW = [
    "data.samples",
    "data.shape",
    "data.partition",
    "data.root",
    "data.validation",
    "model.hidden",
    "model.exclude",
]
BELOW += [
    "scheduler.prune_rate",
    "scheduler.voter",
    "scheduler.move",
    "scheduler.decay",
    "budget.tiers",
    "fleet.deadline",
]
BELOW += [
    "callbacks",
    "server_optimizer.momentum",
    "round_average.power",
    "sampler.offline",
    "nonsense",
    "data.batch_size",
]


def hostile_values(marker: Path) -> list[object]:
    """Values of every kind; the code among them would create ``marker``."""
    command = f"touch {marker}"
    calls = [
        {"class_path": "os.system", "init_args": {"command": command}},
        {"class_path": "subprocess.Popen", "init_args": {"args": command, "shell": True}},
        {"class_path": "subprocess.check_output", "init_args": {"args": ["touch", str(marker)]}},
        {"class_path": "builtins.exec", "init_args": {"source": f"open({str(marker)!r}, 'w')"}},
        {"class_path": "builtins.eval", "init_args": {"source": f"open({str(marker)!r}, 'w')"}},
        {"class_path": "builtins.open", "init_args": {"file": str(marker), "mode": "w"}},
        {"class_path": "pathlib.Path.touch", "init_args": {"self": str(marker)}},
        {"class_path": "torch.load", "init_args": {"f": str(marker), "weights_only": False}},
        {"class_path": "shutil.copyfile", "init_args": {"src": "/etc/hostname", "dst": str(marker)}},
        {"class_path": "tempfile.mkdtemp", "init_args": {"dir": str(marker.parent), "prefix": marker.name}},
    ]
    nested = [{"name": "nst", "voter": call} for call in calls] + [[call] for call in calls]
    nested += [{"class_path": "flash_pl.PDST", "init_args": {"move": call}} for call in calls]
    deep: object = 1
    for _ in range(60):
        deep = [deep]
    numbers = [0, -1, 2**31, 2**63, 2**70, 10**12, 10**299, -0.0, 1e-320, 1e308, float("inf"), float("nan"), 1.5, True]
    texts = [
        "",
        " ",
        "x",
        "\u00e9\u4e16",
        "\x00",
        "a" * 10_000,
        "../../x",
        "/dev/full",
        "/dev/zero",
        "/proc/self/mem",
        "1" * 5000,
    ]
    references = ["${density}", "${nope}", "${scheduler}", "${oc.env:HOME}", "${oc.env:NOPE}", "${oc.decode:${seed}}"]
    references += [
        "${oc.create:[1]}",
        "${times:1e308,1e308}",
        "${times:x,y}",
        "${",
        "???",
        "${${seed}}",
        "${data.samples}",
    ]
    return [*numbers, *texts, *references, *calls, *nested, deep, None, [], {}, [[]], {"name": None}, {"class_path": 5}]


def make(chance: random.Random, marker: Path) -> str:
    """The text of a hostile config."""
    config = yaml.safe_load(yaml.safe_dump(BASE))
    values = hostile_values(marker)
    keys = [key for key in KEYS if key not in ("run_dir", "rounds")] + BELOW
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        *sections, last = chance.choice(keys).split(".")
        node = config
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {"name": node[section]} if isinstance(node.get(section), str) else {}
            node = node[section]
        node[last] = chance.choice(values)
    text = yaml.safe_dump(config, allow_unicode=True)
    kind = chance.randrange(20)
    if kind == 0:
        text += "lr: &a [*a]\n"
    elif kind == 1:
        text += "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    elif kind == 2:
        text += "seed: " + "1" * 5000 + "\n"
    elif kind == 3:
        text += "lr: !!python/object/apply:os.system ['touch " + str(marker) + "']\n"
    elif kind == 4:
        text += "lr: ${lr_end}\nlr_end: ${lr}\n"
    elif kind == 5:
        text += "x: " + "[" * 5000 + "\n"
    return text


class Late(BaseException):
    """A config took longer than its limit."""


def run(path: Path, seconds: int) -> tuple[str, str]:
    """How ``flash-pl fit`` ends with a config: in a word, and what it printed."""

    is_late = False

    def late(number: int, frame: object) -> None:
        nonlocal is_late
        is_late = True
        raise Late

    out, err = io.StringIO(), io.StringIO()
    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = flash_pl(["fit", str(path), *TINY])
    except BaseException as error:  # whatever it is, it must not come here
        return "took too long" if is_late else f"traceback: {type(error).__name__}", str(error)[:200]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    if is_late:
        return "took too long", path.read_text(encoding="utf-8")[-300:]
    lines = [line for line in err.getvalue().splitlines() if line.startswith("flash-pl: error")]
    if code == 0:
        return "trained", ""
    if code in (2, 3) and len(lines) == 1:
        unexplained = " (unexplained)" if "shows the traceback" in lines[0] else ""
        return f"{'refused' if code == 2 else 'ended while it trained'}{unexplained}", lines[0]
    return f"code {code} with {len(lines)} lines", err.getvalue()[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60, help="limit of a config")
    parser.add_argument("--show", action="store_true", help="print the end of every config")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="attack_configs_"))
    os.chdir(folder)
    chance, ends, ran = random.Random(arguments.seed), collections.Counter[str](), collections.Counter[str]()
    slowest, left, begun = 0.0, 0, time.perf_counter()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, resource.RLIM_INFINITY))
    for number in range(arguments.configs):
        (marker := folder / "ran").unlink(missing_ok=True)
        path = folder / "config.yaml"
        path.write_text(text := make(chance, marker), encoding="utf-8")
        started = time.perf_counter()
        end, line = run(path, arguments.seconds)
        slowest = max(slowest, time.perf_counter() - started)
        ends[end] += 1
        if [*folder.glob("ran*")]:
            ran[next(iter(re.findall(r"class_path: ((?:os|sub|bui|pat|tor|shu|tem)\S+)", text)), "another way")] += 1
        others = [file for file in folder.iterdir() if file.name != "config.yaml"]
        left += end == "refused" and any(not file.name.startswith("ran") for file in others)
        for file in others:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        if arguments.show or not re.fullmatch("refused|trained|ended while it trained", end):
            print(f"{number}: {end}: {line[:300]}", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{arguments.configs:,} configs in {time.perf_counter() - begun:.0f} s, the slowest in {slowest:.1f} s")
    print(f"memory at most {peak:.0f} MiB; {left} refused configs left files")
    for end, count in ends.most_common():
        print(f"{count:>6,}  {end}")
    print(f"{sum(ran.values()):>6,}  ran code: {dict(ran.most_common())}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
