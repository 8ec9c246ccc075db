"""What happens if one of two processes of a run is killed?

    python benchmarks/robustness/restart.py --out runs/restart

First, without restarts, rank 0 or rank 1 is killed: after how many seconds does the other rank end, and with which
message? Then ``torchrun --max-restarts`` restarts a run whose rank 1 was killed, and its end is compared bit for bit
with an uninterrupted run.
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
    """Process ids by rank, of ``parent`` and its children; their environment holds the ranks."""
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    pids: dict[int, int] = {}
    for pid in map(int, [*children, parent]):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        rank = dict(line.split("=", 1) for line in environment if "=" in line).get("LOCAL_RANK", "0")
        pids.setdefault(int(rank), pid)
    return pids


def kill_rank(out: Path, victim: int) -> None:
    """Kill a rank of a run that is not restarted, and print how the other rank ends."""
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
    errors = [line for line in process.communicate()[1].splitlines() if "error" in line]
    print(f"rank {victim} killed: the other rank ended after {seconds:.1f} s: {' / '.join(errors)}", flush=True)


def restart(out: Path) -> list[str]:
    """Kill a rank of a run that torchrun restarts; return the differences to an uninterrupted run."""
    uninterrupted, run = out / "alone", out / "restarted"
    subprocess.run([sys.executable, *arguments(uninterrupted)], check=True, capture_output=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    process = subprocess.Popen([*command, *arguments(run)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_rounds(run, 30)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    output = process.communicate()[0]
    resumed = re.findall(r"going on from .*", output)
    print(f"torchrun ended with {process.returncode} after: {', '.join(resumed)}")
    return differences(uninterrupted, run) if process.returncode == 0 else [output]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/restart"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    for victim in (0, 1):
        kill_rank(out, victim)
    different = restart(out)
    print("differences to the uninterrupted run:", ", ".join(different) or "none")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
