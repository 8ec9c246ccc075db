"""Kills a running fit with SIGKILL, resumes it, kills it again, and compares the end with a run that was left alone.

    python benchmarks/soak.py --kills 30 --out runs/soak

Half of the kills come at a random moment, start-up included, half as soon as a checkpoint is seen being written.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bits import differences


def start(method: str, run: Path, rounds: int, devices: int) -> subprocess.Popen[bytes]:
    """The command that is given every time; it goes on from where it was."""
    arguments = ["data=digits", f"rounds={rounds}", f"run_dir={run}", "ckpt_path=last", f"trainer.devices={devices}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.checkpoint_every=1"]
    command = [sys.executable, "-m", "flash_pl", "fit", method, *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill all its processes; False if it had already ended."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def round_of(run: Path) -> int:
    """Rounds that metrics.csv knows."""
    table = run / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def wait_for_a_write(process: subprocess.Popen[bytes], temporary: Path) -> None:
    """Until a checkpoint is being written, or the process has ended."""
    while process.poll() is None and not temporary.exists():
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--method", default="jmwst")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=9.0, help="the latest moment of a kill after a start")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    settings = options.rounds, options.devices
    alone, run = (options.out / f"{options.method}-{options.devices}-{name}" for name in ("alone", "killed"))
    started = time.monotonic()
    if start(options.method, alone, *settings).wait() != 0:
        raise SystemExit("the run that is left alone failed")
    print(f"left alone: {options.rounds} rounds, {time.monotonic() - started:.0f} s with start-up", flush=True)
    draw, kills, torn, temporary = random.Random(0), 0, 0, run / "checkpoints" / "new.ckpt.tmp"
    while kills < options.kills:
        temporary.unlink(missing_ok=True)
        process = start(options.method, run, *settings)
        time.sleep(draw.uniform(0, options.seconds))
        if kills % 2:
            wait_for_a_write(process, temporary)
        if not kill(process):
            print(f"ended after {kills} kills with exit code {process.returncode}", flush=True)
            break
        kills += 1
        torn += temporary.exists()
        print(f"kill {kills}: round {round_of(run)}", flush=True)
    process = start(options.method, run, *settings)
    said = process.communicate()[0].decode()
    resumed = next((line for line in said.splitlines() if "going on from" in line), "")
    found = differences(alone, run) if process.returncode == 0 else [f"exit code {process.returncode}: {said}"]
    print(f"{kills} kills, {torn} of them while a checkpoint was being written; last {resumed.strip()}")
    print("differences to the run left alone:", ", ".join(found) or "none")
    return int(bool(found) or kills < options.kills or not torn)


if __name__ == "__main__":
    sys.exit(main())
