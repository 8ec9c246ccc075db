"""Rounds of other frameworks for federated learning, of Lightning and of flash_pl against a bare PyTorch loop.

    python benchmarks/speed/peers.py setup --envs DIR               # one environment per framework; minutes
    python benchmarks/speed/peers.py run --envs DIR                 # results/peers.json and results/peers.md
    python benchmarks/speed/peers.py run --envs DIR --only Flower   # adds to the results that are there
    python benchmarks/speed/peers.py table                          # the tables of the results

Every contender is a file in ``peers/``. All train the same clients in batches of 32 with SGD and a learning rate of
0.1, without evaluation, on one core and one thread; the server takes the mean.

- LeNet-5: Fashion-MNIST, 100 clients of 600 samples, 10 a round.
- ResNet-18: random images 3x32x32, 10 clients of 64 samples, 4 a round.

A process measures one contender. The bare loop runs before its first round and after each, and a round is divided by
the mean of the two bare rounds around it; tables have the median of these ratios, and the smallest and the largest. The
bare loop's own row shows the noise. A second process without the bare loop measures memory and the time from its start
to the end of the first round. Memory is the largest sum over the contender's processes of their proportional set size
(PSS), in which pages that processes share count once; it is sampled every 0.1 s.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "peers"))
from environments import PACKAGES, make, prepare_data, python_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers.json"
WORKLOADS = {"lenet5": "LeNet-5", "resnet18": "ResNet-18"}
ROUNDS = {"lenet5": 12, "resnet18": 4}
WARM_UP = {"lenet5": 2, "resnet18": 1}
LIMIT = 600  # seconds after which a process is ended
Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A row of the tables.

    Args:
        script: file in ``peers/``.
        variant: of the script.
        environment: folder of its environment; without one it runs in that of this script.
        workloads: that it can train.
        rounds: to train, if rounds take minutes; then one process measures everything.
    """

    script: str
    variant: str = ""
    environment: str = ""
    workloads: Sequence[str] = tuple(WORKLOADS)
    rounds: int = 0


CONTENDERS = {
    "bare loop": Contender("run_bare.py"),
    "bare loop, tuned": Contender("run_bare.py", "tuned"),
    "flash_pl, dense": Contender("run_flash.py", "dense"),
    "flash_pl, d = 0.05": Contender("run_flash.py", "0.05"),
    "Lightning Fabric": Contender("run_lightning.py", "fabric"),
    "Lightning Trainer": Contender("run_lightning.py", "trainer"),
    "fluke": Contender("run_fluke.py", "", "fluke"),
    "pfl-research": Contender("run_pfl.py", "", "pfl"),
    "FedLab": Contender("run_fedlab.py", "", "fedlab"),
    "FLSim": Contender("run_flsim.py", "", "flsim"),
    "Flower": Contender("run_flower.py", "", "flower"),
    "FedJAX": Contender("run_fedjax.py", "", "fedjax", ["lenet5"]),
    "NVIDIA FLARE": Contender("run_nvflare.py", "", "nvflare", rounds=2),
}


def descendants(process: int) -> list[int]:
    """The process and all that it has started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for each in found:
        found += children.get(each, [])
    return found


def memory_mb(process: int) -> float:
    """Proportional set size of a process and its descendants, in MB of 10^6 bytes."""
    kilobytes = 0
    for each in descendants(process):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * kilobytes / 1e6


def measure(contender: Contender, workload: str, rounds: int, bare: bool, envs: Path, core: int) -> Row:
    """Run a contender in a process of its own, on one core; return its report, peak memory and start."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "report.json"
        task = {"workload": workload, "variant": contender.variant, "rounds": rounds, "bare": bare}
        task |= {"data": str(envs / "data"), "to": str(to)}
        path = os.pathsep.join([str(HERE / "peers"), str(HERE.parents[1])])
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment = os.environ | threads | {"PYTHONPATH": path, "PEERS_TASK": json.dumps(task)}
        python = python_of(envs / contender.environment) if contender.environment else Path(sys.executable)
        sampled = not bare or bool(contender.rounds)  # reading a process's memory map delays it
        with open(Path(folder) / "log", "w+") as log:
            begun, peak = time.time(), 0.0
            process = subprocess.Popen(
                [python, HERE / "peers" / contender.script], env=environment, cwd=folder, stdout=log, stderr=log
            )
            os.sched_setaffinity(process.pid, {core})
            try:
                while process.poll() is None and time.time() < begun + LIMIT:
                    if sampled:
                        peak = max(peak, memory_mb(process.pid))
                    time.sleep(0.1)
            finally:  # after the limit, or Ctrl-C
                for each in descendants(process.pid) if process.poll() is None else []:
                    os.kill(each, signal.SIGKILL)
            process.wait()
            if process.returncode or not to.exists():
                log.seek(0)
                reason = f"{contender.script}: exit code {process.returncode} after {time.time() - begun:.0f} s"
                raise RuntimeError(f"{reason}\n{log.read()[-4000:]}")
        report: Row = json.loads(to.read_text())
    return report | {"memory_mb": peak, "first_round_s": report.pop("first_round_at") - begun}


def ratios(seconds: Sequence[float], bare: Sequence[float], warm_up: int) -> list[float]:
    """Each round after the warm-up, divided by the mean of the bare rounds around it.

    If there are not as many bare rounds as that, they ran at the end, and their median stands for all.

    >>> ratios([9.0, 2.0, 3.0], [8.0, 1.0, 1.0, 2.0], warm_up=1)
    [2.0, 2.0]
    """
    if len(bare) != len(seconds) + 1:
        return [each / statistics.median(bare) for each in seconds]
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    return [each / loop for each, loop in zip(seconds, around, strict=True)][warm_up:]


def contend(name: str, workload: str, envs: Path, core: int) -> Row:
    """The row of a contender."""
    contender = CONTENDERS[name]
    timed = measure(contender, workload, contender.rounds or ROUNDS[workload], True, envs, core)
    alone = timed if contender.rounds else measure(contender, workload, 2, False, envs, core)
    row = {"contender": name, "workload": workload, **{key: timed[key] for key in ("version", "accuracy", "moved")}}
    row |= {"seconds": timed["seconds"], "bare": timed["bare"], "torch": timed["torch"]}
    return row | {key: round(alone[key], 2) for key in ("memory_mb", "first_round_s")} | {"processor": processor()}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names) or os.cpu_count()} cores"


def table(rows: Sequence[Row], workload: str) -> list[str]:
    """A Markdown table of the contenders of a workload, in order of their ratios."""
    heads = ["version", "s a round", "times the bare loop", "accuracy", "moved", "MB", "first round, s"]
    lines = [f"| {' | '.join([WORKLOADS[workload], *heads])} |", f"|{8 * '---|'}"]
    cells: list[tuple[float, str]] = []
    for name in CONTENDERS:
        turns = [row for row in rows if (row["contender"], row["workload"]) == (name, workload)]
        if not turns:
            continue
        warm_up = WARM_UP[workload]
        divided = [ratio for turn in turns for ratio in ratios(turn["seconds"], turn["bare"], warm_up)]
        seconds = [each for turn in turns for each in turn["seconds"][warm_up:] or turn["seconds"]]
        ratio, last = statistics.median(divided), turns[-1]
        spread = f"{ratio:.2f} ({min(divided):.2f} to {max(divided):.2f})"
        memory, first = (statistics.median(turn[key] for turn in turns) for key in ("memory_mb", "first_round_s"))
        facts = f"{last['version']} | {statistics.median(seconds):.2f} | {spread} | {100 * last['accuracy']:.1f} %"
        cells.append((ratio, f"| {name} | {facts} | {last['moved']:.2f} | {memory:.0f} | {first:.1f} |"))
    return lines + [line for _, line in sorted(cells)]


def tables(rows: Sequence[Row]) -> str:
    return "\n\n".join("\n".join(table(rows, workload)) for workload in WORKLOADS) + "\n"


def write(rows: Sequence[Row]) -> None:
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    machine = f"{rows[-1]['processor']}; Python {platform.python_version()}, PyTorch {rows[-1]['torch']}"
    command = "`python benchmarks/speed/peers.py run --envs DIR`"
    RESULTS.with_suffix(".md").write_text(f"{command}\n\n{machine}. One core, one thread.\n\n{tables(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["setup", "run", "table"])
    parser.add_argument("--envs", type=Path, help="folder of the environments and of the data")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), help="contenders, added to the results")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)), help="the core of the contenders")
    arguments = parser.parse_args()
    if arguments.task == "table":
        return print(tables(json.loads(RESULTS.read_text())), end="")
    if not arguments.envs:
        parser.error("--envs is missing")
    envs = arguments.envs.absolute()
    if arguments.task == "setup":
        prepare_data(envs / "data")
        chosen = {CONTENDERS[name].environment for name in arguments.only or CONTENDERS} - {""}
        for name in sorted(chosen):
            make(envs / name, PACKAGES[name])
        return
    rows = json.loads(RESULTS.read_text()) if arguments.only and RESULTS.exists() else []
    failed: list[str] = []
    for workload in arguments.workloads:
        for name in arguments.only or CONTENDERS:
            if workload not in CONTENDERS[name].workloads:
                continue
            try:
                rows.append(contend(name, workload, envs, arguments.core))
            except RuntimeError as error:
                print(error, file=sys.stderr)
                failed.append(name)
                continue
            write(rows)
            print(table(rows[-1:], workload)[-1], flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
