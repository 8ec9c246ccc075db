"""How long commands take that train nothing, and the memory that they need at their peak.

    python benchmarks/speed/start.py --repeats 7                        # a Markdown table
    python benchmarks/speed/start.py OLD_CHECKOUT . --repeats 5         # two versions of flash_pl
    python benchmarks/speed/start.py --run runs/first --only compare    # a command that needs a finished run

Each command is a process of its own, started and waited for by this script; the time is that of the whole process. All
commands of all versions take turns, so that a busy moment of the machine meets them all. The figures are medians.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

FLASH = f"{shlex.quote(sys.executable)} -m flash_pl"
COMMANDS = {  # shown, started
    "flash-pl --version": f"{FLASH} --version",
    "flash-pl --help": f"{FLASH} --help",
    "flash-pl fit --help": f"{FLASH} fit --help",
    "flash-pl configs": f"{FLASH} configs",
    "flash-pl fti": f"{FLASH} fti",
    "flash-pl fit jmwts": f"{FLASH} fit jmwts",
    "flash-pl fit jmwst denisty=0.1": f"{FLASH} fit jmwst denisty=0.1",
    "flash-pl fit hetero_jmwst denisty=0.1": f"{FLASH} fit hetero_jmwst denisty=0.1",
    "flash-pl fit jmwst scheduler.prune_rat=0.1": f"{FLASH} fit jmwst scheduler.prune_rat=0.1",
    "flash-pl fit jmwst data.sampels=5": f"{FLASH} fit jmwst data.sampels=5",
    "flash-pl fit jmwst model=restnet18": f"{FLASH} fit jmwst model=restnet18",
    "flash-pl fit jmwst scheduler.voter=magnitud": f"{FLASH} fit jmwst scheduler.voter=magnitud",
    "flash-pl fit jmwst density=2": f"{FLASH} fit jmwst density=2",
    "flash-pl sweep jmwst scheduler.prune_rat=0.1,0.2": f"{FLASH} sweep jmwst scheduler.prune_rat=0.1,0.2",
    "flash-pl help scheduler": f"{FLASH} help scheduler",
    "python -c 'import flash_pl'": f"{shlex.quote(sys.executable)} -c 'import flash_pl'",
    "python -c 'import flash_pl.trainer'": f"{shlex.quote(sys.executable)} -c 'import flash_pl.trainer'",
    "python -c pass": f"{shlex.quote(sys.executable)} -c pass",
}


def measure(command: str, checkout: Path) -> tuple[float, float, float]:
    """Run a command with the flash_pl of a checkout; return its seconds, CPU seconds, and peak memory in MB."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    null = subprocess.DEVNULL
    begun = time.perf_counter()
    # python -m and python -c look for flash_pl in the working directory first.
    process = subprocess.Popen(shlex.split(command), cwd=checkout, env=environment, stdout=null, stderr=null)
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = 0  # wait4 has taken the exit code
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", metavar="CHECKOUT", nargs="*", type=Path, default=[Path(__file__).parents[2]])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", metavar="RUN", type=Path, help="a finished run, to measure flash-pl compare RUN, too")
    parser.add_argument("--only", default="", help="measure commands that contain this text")
    options = parser.parse_args()
    if options.run is not None:
        COMMANDS["flash-pl compare RUN"] = f"{FLASH} compare {shlex.quote(str(options.run.resolve()))}"
    checkouts = [path.resolve() for path in options.checkouts]
    shown = [name for name in COMMANDS if options.only in name]
    contenders = [(name, checkout) for name in shown for checkout in checkouts]
    for contender in contenders:  # reads the files into the machine's cache, and writes bytecode
        measure(COMMANDS[contender[0]], contender[1])
    runs: dict[tuple[str, Path], list[tuple[float, float, float]]] = {contender: [] for contender in contenders}
    for _ in range(options.repeats):
        for name, checkout in contenders:
            runs[name, checkout].append(measure(COMMANDS[name], checkout))
    print("| command | version | s | CPU s | peak MB |")
    print("|---|---|---|---|---|")
    for name, checkout in contenders:
        seconds, cpu, memory = (statistics.median(column) for column in zip(*runs[name, checkout], strict=True))
        version = checkouts.index(checkout) + 1
        print(f"| `{name}` | {version} | {seconds:.2f} | {cpu:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
