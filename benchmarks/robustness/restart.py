"""Kills one of two ranks in the middle of a run: how soon does the other end, and does a restart find the way on?

    python benchmarks/restart.py --out runs/restart

First without restarts, the victim rank 0 or 1; then under torchrun --max-restarts, whose end is compared with a
run that was left alone, bit for bit.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from bits import differences

ROUNDS = 120


def arguments(run: Path, rounds: int = ROUNDS) -> list[str]:
    settings = ["data=digits", f"rounds={rounds}", f"run_dir={run}", "trainer.accelerator=cpu", "trainer.threads=1"]
    return ["-m", "flash_pl", "fit", "jmwst", *settings, "trainer.checkpoint_every=5"]


def wait_for_rounds(run: Path, rounds: int) -> None:
    table = run / "metrics.csv"
    while not (table.exists() and len(table.read_text().splitlines()) > rounds):
        time.sleep(0.05)


def ranks_of(parent: int) -> dict[int, int]:
    """The processes of a run by rank: ``parent`` and what it has started, as their environment says."""
    listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    found = {}
    for pid in map(int, [*listed, parent]):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        rank = dict(line.split("=", 1) for line in environment if "=" in line).get("LOCAL_RANK", "0")
        found.setdefault(int(rank), pid)
    return found


def lost(out: Path, victim: int) -> None:
    """A rank dies, nobody restarts it."""
    run = out / f"lost-{victim}"
    command = [sys.executable, *arguments(run, 10**6), "trainer.devices=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_rounds(run, 10)
    pids = ranks_of(process.pid)
    os.kill(pids[victim], signal.SIGKILL)
    begun, survivor = time.monotonic(), pids[1 - victim]
    while (
        Path(f"/proc/{survivor}").exists() and "Z" not in Path(f"/proc/{survivor}/stat").read_text().split(")")[1][:3]
    ):
        process.poll()
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    said = [line for line in process.communicate()[1].splitlines() if "error" in line]
    print(f"rank {victim} killed: the other one ended after {seconds:.1f} s and said: {' / '.join(said)}", flush=True)


def restarted(out: Path) -> list[str]:
    """A rank dies and torchrun starts both again."""
    alone, run = out / "alone", out / "restarted"
    subprocess.run([sys.executable, *arguments(alone)], check=True, capture_output=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    process = subprocess.Popen([*command, *arguments(run)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_rounds(run, 30)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    said = process.communicate()[0]
    resumed = re.findall(r"going on from .*", said)
    print(f"torchrun ended with {process.returncode} after: {', '.join(resumed)}")
    return differences(alone, run) if process.returncode == 0 else [said]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/restart"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    for victim in (0, 1):
        lost(out, victim)
    found = restarted(out)
    print("differences to the run left alone:", ", ".join(found) or "none")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
