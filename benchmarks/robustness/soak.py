"""Does a run that is killed many times, in every phase, end with the same bits as an uninterrupted run?

    python benchmarks/robustness/soak.py --kills 60 --minutes 60 --out runs/soak
    python benchmarks/robustness/soak.py --devices 2 --kills 60 --minutes 60 --out runs/soak

Kills all processes of a running ``flash-pl fit`` with SIGKILL, resumes it, kills it again, and at the end compares it
with an uninterrupted run. The kills take the phases in turn. So that the phase is known, the run is started through
this file, which notes it in a file when the functions of ``PHASES`` begin and end. A kill comes up to ``SPREAD``
seconds after the beginning of its phase, so it may hit the phase behind it; the counts are of the phases that were hit.
"""

import argparse
import collections
import functools
import importlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bits import differences

# Phases, each with the function that is the phase.
PHASES = {
    "stage 1": "flash_pl.loops.first_stage:FirstStageLoop.run",
    "round": "flash_pl.loops.federated:FederatedLoop.train_cohort",
    "evaluation": "flash_pl.loops.evaluation:RoundEvaluator.run",
    "checkpoint": "flash_pl.checkpoint:CheckpointFolder.save",
    "rename": "os:replace",
    "end of the run": "flash_pl.commands.fit:summarize",
    "result": "flash_pl.commands.fit:write_result",
}
SPREAD = {"stage 1": 0.2, "round": 0.2, "evaluation": 0.05, "checkpoint": 0.01}  # seconds; 0 for the others
FILE = "SOAK_PHASE"  # the variable with the path of the file


def note(phase: str) -> None:
    Path(os.environ[FILE]).write_text(phase)


def noting(phase: str, function):
    """The function, with a note of its phase as long as it runs."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        file = Path(os.environ[FILE])
        before = file.read_text()
        note(phase)
        try:
            if phase in ("rename", "end of the run", "result"):  # too short to be hit otherwise
                time.sleep(0.01)
            return function(*args, **kwargs)
        finally:
            note(before)

    return wrapped


def run_noting(arguments: list[str]) -> int:
    """Run the command line of flash_pl in this process; rank 0 notes the phases."""
    from flash_pl.cli import main
    from flash_pl.environment import starts_as_rank_0

    if starts_as_rank_0():
        for phase, place in PHASES.items():
            module, _, path = place.partition(":")
            *owners, name = path.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            setattr(owner, name, noting(phase, getattr(owner, name)))
    return main(arguments)


def start(config: str, run: Path, rounds: int, devices: int) -> subprocess.Popen[bytes]:
    """Start or resume the run: the command is the same every time."""
    arguments = ["data=digits", f"rounds={rounds}", f"run_dir={run}", "ckpt_path=last", f"trainer.devices={devices}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.checkpoint_every=1"]
    command, phase = [sys.executable, __file__, "fit", config, *arguments], run.with_suffix(".phase")
    phase.parent.mkdir(parents=True, exist_ok=True)
    phase.write_text("start")
    with open(run.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command, start_new_session=True, stdout=log, stderr=log, env=os.environ | {FILE: str(phase)}
        )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill all processes of the run; return False if it had already ended."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=60.0, help="no kill comes later than that")
    parser.add_argument("--config", default="jmwst", help="shipped configuration")
    parser.add_argument("--devices", type=int, default=1, help="processes")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=9.0, help="latest time of a kill in the phase start")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    settings = arguments.rounds, arguments.devices
    name = f"{arguments.config}-{arguments.devices}"
    uninterrupted, killed = arguments.out / f"{name}-alone", arguments.out / f"{name}-killed"
    started = time.monotonic()
    if start(arguments.config, uninterrupted, *settings).wait() != 0:
        raise SystemExit("the uninterrupted run failed")
    print(f"uninterrupted: {arguments.rounds} rounds, {time.monotonic() - started:.0f} s with start-up", flush=True)
    draw, hit, file = random.Random(0), collections.Counter[str](), killed.with_suffix(".phase")
    # Stage 1 comes once and the end once, so most kills come between them.
    between = itertools.cycle(["start", "round", "evaluation", "checkpoint", "rename"])
    last = ["end of the run", "result", "result"]
    wanted = ["stage 1", "stage 1", "start", *itertools.islice(between, max(0, arguments.kills - 6)), *last]
    for phase in wanted:
        if time.monotonic() - started > 60 * arguments.minutes and phase not in last:
            continue
        process = start(arguments.config, killed, *settings)
        if phase == "start":
            time.sleep(draw.uniform(0, arguments.seconds))
        else:
            behind = {"round"} if phase == "stage 1" else set()  # an earlier kill came when stage 1 was over
            while process.poll() is None and file.read_text() not in {phase, *behind}:
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, SPREAD.get(phase, 0.0)))
        reached = file.read_text() or "between two phases"
        if kill(process):
            hit[reached] += 1
        elif phase not in last:
            print(f"the run ended before a kill in the phase {phase}; give more --rounds", flush=True)
            break
    code = start(arguments.config, killed, *settings).wait()
    different = [f"exit code {code}"] if code else differences(uninterrupted, killed)
    print(f"{hit.total()} kills: {', '.join(f'{number} in {phase}' for phase, number in hit.items())}")
    print("differences to the uninterrupted run:", ", ".join(different) or "none")
    return int(bool(different) or len(hit) < 4)


if __name__ == "__main__":
    sys.exit(run_noting(sys.argv[1:]) if FILE in os.environ else main())
