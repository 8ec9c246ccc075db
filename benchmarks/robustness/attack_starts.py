"""Is anybody left behind if only the process that started a run is killed? Do runs that start at once stay apart?

    python benchmarks/robustness/attack_starts.py --kills 60 --out runs/attack_starts

Somebody who kills a job usually hits one process: the command, the sweep or torchrun. Its children must notice that and
end, also while they import torch, wait for each other or train. So SIGKILL goes to that process alone: half of the
kills come at delays that cover the whole start and the first seconds of training, half as soon as a stage of the start
is reached. After each kill no process of the run may be alive after ``LIMIT`` seconds. Then the same command resumes.
At the end the run is compared bit for bit with an uninterrupted one.

Four kinds of runs are attacked: one process, two processes, two processes under torchrun, a sweep with two workers.
Last, several commands start at once in one directory: with the default ``run_dir`` each gets a directory of its own,
and all results are equal; with one ``run_dir`` exactly one of them runs.
"""

import argparse
import collections
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from bits import differences

LIMIT = 10.0  # seconds after a kill
MARK = "FLASH_PL_ATTACK"  # a variable in the environment of all processes of a start
LATEST = 12.0  # seconds after a start
KINDS = ("one", "two", "torchrun", "sweep")


def settings(rounds: int, devices: int = 1) -> list[str]:
    arguments = ["data=digits", f"rounds={rounds}", f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    return [*arguments, "trainer.threads=1", "trainer.checkpoint_every=1", "trainer.progress=false"]


def command(kind: str, out: Path, rounds: int) -> list[str]:
    """The command line of a run in ``out``, which also resumes it."""
    fit = ["-m", "flash_pl", "fit", "jmwst", f"run_dir={out / 'seed=1'}", "ckpt_path=last", "seed=1"]
    if kind == "sweep":
        sweep = ["-m", "flash_pl", "sweep", "jmwst", "seed=1,2", "--workers", "2", "--out", str(out)]
        return [sys.executable, *sweep, *settings(rounds)]
    if kind == "torchrun":
        agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return [*agent, *fit, *settings(rounds)]
    return [sys.executable, *fit, *settings(rounds, {"one": 1, "two": 2}[kind])]


class Start:
    """A command that has been started, and all processes that come from it.

    Args:
        arguments: the command line.
        log: a file that gets the output.
        folder: where the command is started.
    """

    def __init__(self, arguments: list[str], log: Path, folder: Path | None = None) -> None:
        self.mark = uuid.uuid4().hex
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                arguments, stdout=output, stderr=output, cwd=folder, env=os.environ | {MARK: self.mark}
            )

    def alive(self) -> list[int]:
        """The ids of the processes of this start; a process that has ended has no environment any more."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    if wanted in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    def kill(self) -> bool:
        """Kill the first process alone; return False if it had ended."""
        if self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True

    def seconds_to_end(self) -> float | None:
        """How long the other processes live after the kill; None if some are still alive after ``LIMIT`` seconds. They
        are killed then."""
        killed = time.monotonic()
        while alive := self.alive():
            if time.monotonic() - killed > LIMIT:
                for process in alive:
                    os.kill(process, signal.SIGKILL)
                return None
            time.sleep(0.05)
        return time.monotonic() - killed


# The stages of a start, each with the file that is written at its beginning, by a fresh run and by a resumed one.
STAGES = {
    "directory claimed": ".lock",
    "config written": "config.yaml",
    "checkpoint written": "checkpoints/last.ckpt",
    "round done": "metrics.csv",
}


def begun(stage: str, out: Path, since: float) -> bool:
    """Whether the stage has begun in the folder of the runs after the time ``since``."""
    try:
        return any(path.stat().st_mtime >= since for path in out.glob(f"*/{STAGES[stage]}"))
    except FileNotFoundError:  # a file that has just been renamed
        return False


def stage_of(out: Path, since: float) -> str:
    """The last stage that has begun."""
    return ([stage for stage in STAGES if begun(stage, out, since)] or ["imports"])[-1]


@dataclass
class Count:
    """What came of the kills of one kind of run."""

    kills: collections.Counter[str]
    left: int = 0
    longest: float = 0.0

    def attack(self, start: Start, out: Path, delay: float, stage: str | None) -> bool:
        """Kill after a delay, or as soon as a stage begins; return False if the run had ended before."""
        since = time.time()
        while start.process.poll() is None:
            if time.time() >= since + delay if stage is None else begun(stage, out, since):
                break
            time.sleep(0.005)
        reached = f"after {stage_of(out, since)}" if stage is None else f"as soon as {stage}"
        if not start.kill():
            return False
        seconds = start.seconds_to_end()
        self.kills[reached] += 1
        self.left += seconds is None
        self.longest = max(self.longest, seconds or 0.0)
        return True


def attack(kind: str, out: Path, kills: int, rounds: int) -> bool:
    """Kill, resume, compare; return whether all is well."""
    alone, killed, log = out / f"{kind}-alone", out / f"{kind}-killed", out / f"{kind}.log"
    first = Start(command(kind, alone, rounds), log)
    if first.process.wait() != 0:
        raise SystemExit(f"the uninterrupted run failed; see {log}")
    count, stages = Count(collections.Counter()), itertools.cycle(STAGES)
    for number in range(kills):
        if number < 2 * len(STAGES):  # a fresh start; later ones resume
            shutil.rmtree(killed, ignore_errors=True)
        killed.mkdir(parents=True, exist_ok=True)
        delay, stage = LATEST * number / kills, next(stages) if number % 2 else None
        if not count.attack(Start(command(kind, killed, rounds), log), killed, delay, stage):
            print(f"{kind}: the run ended before kill {number + 1}; give more --rounds")
            break
    last = Start(command(kind, killed, rounds), log)
    code = last.process.wait()
    names = ["seed=1", "seed=2"] if kind == "sweep" else ["seed=1"]
    different = [f"exit code {code}, see {log}"] if code else []
    for name in names:
        different += [] if code else [f"{name}: {part}" for part in differences(alone / name, killed / name)]
    stages_hit = ", ".join(f"{number} {name}" for name, number in count.kills.items())
    print(f"{kind}: {count.kills.total()} kills ({stages_hit})")
    print(f"  processes left after {LIMIT:g} s: {count.left}; the slowest end took {count.longest:.1f} s")
    print(f"  differences to the uninterrupted run: {', '.join(different) or 'none'}", flush=True)
    return not (different or count.left) and count.kills.total() == kills


def together(out: Path, commands: int, rounds: int) -> bool:
    """Start several commands at once, first without a run directory and then in the same one."""
    folder = out / "together"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fit = [sys.executable, "-m", "flash_pl", "fit", "jmwst", *settings(rounds)]
    starts = [Start(fit, out / "together.log", folder) for _ in range(commands)]
    codes = [start.process.wait() for start in starts]
    runs = sorted(path.parent for path in folder.glob("runs/*/result.json"))
    different = [part for run in runs[1:] for part in differences(runs[0], run)]
    print(f"{commands} commands at once: exit codes {codes}, {len(runs)} finished runs in {[run.name for run in runs]}")
    print(f"  differences between them: {', '.join(different) or 'none'}")
    starts = [Start([*fit, "run_dir=one"], out / f"one-{number}.log", folder) for number in range(commands)]
    codes_of_one = sorted(start.process.wait() for start in starts)
    refusals = {(out / f"one-{number}.log").read_text().splitlines()[-1] for number in range(commands)}
    print(f"{commands} commands at once with the same run_dir: exit codes {codes_of_one}")
    for line in sorted(line for line in refusals if "error" in line):
        print(f"  {line}")
    left_over = [path.name for path in folder.rglob(".lock")]
    well = codes == [0] * commands and len(runs) == commands and not different and not left_over
    return well and codes_of_one == [0] + [2] * (commands - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="runs that are attacked")
    parser.add_argument("--kills", type=int, default=60, help="of each kind")
    parser.add_argument("--rounds", type=int, default=1000, help="of an attacked run")
    parser.add_argument("--together", type=int, default=4, help="commands that start at once")
    parser.add_argument("--out", type=Path, default=Path("runs/attack_starts"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    well = [attack(kind, out, arguments.kills, arguments.rounds) for kind in arguments.kinds]
    well.append(together(out, arguments.together, rounds=3))
    return int(not all(well))


if __name__ == "__main__":
    sys.exit(main())
