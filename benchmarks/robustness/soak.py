"""Does a run that is killed many times end with the same bits as an uninterrupted run?

    python benchmarks/robustness/soak.py --kills 30 --out runs/soak

Kills a running ``flash-pl fit`` with SIGKILL, resumes it, kills it again, and at the end compares it with an
uninterrupted run. Half of the kills come at a random moment, start-up included; the other half come as soon as a
checkpoint is being written.
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


def start(config: str, run: Path, rounds: int, devices: int) -> subprocess.Popen[bytes]:
    """Start or resume the run: the command is the same every time."""
    arguments = ["data=digits", f"rounds={rounds}", f"run_dir={run}", "ckpt_path=last", f"trainer.devices={devices}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "trainer.checkpoint_every=1"]
    command = [sys.executable, "-m", "flash_pl", "fit", config, *arguments]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill all processes of the run; return False if it had already ended."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def finished_rounds(run: Path) -> int:
    """The number of rounds in metrics.csv."""
    table = run / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def wait_for_checkpoint(process: subprocess.Popen[bytes], temporary: Path) -> None:
    """Wait until a checkpoint is being written or the process has ended."""
    while process.poll() is None and not temporary.exists():
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--config", default="jmwst", help="shipped configuration")
    parser.add_argument("--devices", type=int, default=1, help="processes")
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=9.0, help="latest time of a kill after a start")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    settings = arguments.rounds, arguments.devices
    name = f"{arguments.config}-{arguments.devices}"
    uninterrupted, killed = arguments.out / f"{name}-alone", arguments.out / f"{name}-killed"
    started = time.monotonic()
    if start(arguments.config, uninterrupted, *settings).wait() != 0:
        raise SystemExit("the uninterrupted run failed")
    print(f"uninterrupted: {arguments.rounds} rounds, {time.monotonic() - started:.0f} s with start-up", flush=True)
    draw, kills, during_write, temporary = random.Random(0), 0, 0, killed / "checkpoints" / "new.ckpt.tmp"
    while kills < arguments.kills:
        temporary.unlink(missing_ok=True)
        process = start(arguments.config, killed, *settings)
        time.sleep(draw.uniform(0, arguments.seconds))
        if kills % 2:
            wait_for_checkpoint(process, temporary)
        if not kill(process):
            print(f"ended after {kills} kills with exit code {process.returncode}", flush=True)
            break
        kills += 1
        during_write += temporary.exists()
        print(f"kill {kills}: round {finished_rounds(killed)}", flush=True)
    process = start(arguments.config, killed, *settings)
    output = process.communicate()[0].decode()
    resumed = next((line for line in output.splitlines() if "going on from" in line), "")
    exit_code = process.returncode
    different = [f"exit code {exit_code}: {output}"] if exit_code else differences(uninterrupted, killed)
    print(f"{kills} kills, {during_write} of them while a checkpoint was being written; last {resumed.strip()}")
    print("differences to the uninterrupted run:", ", ".join(different) or "none")
    return int(bool(different) or kills < arguments.kills or not during_write)


if __name__ == "__main__":
    sys.exit(main())
