"""Do 1, 2 and 4 processes compute the same bits? Runs the same experiments in each and compares the results.

    python benchmarks/robustness/ranks.py --out runs/ranks    # a Markdown table

FLASH's schedulers, dense training and hetero-JMWST train a few rounds on the digits and on Fashion-MNIST. Three clients
a round give two processes unequal shares and leave one of four processes without a client. Stage 1 is shortened to one
epoch of three clients.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bits import differences

CONFIGS = ("dense", "nst", "pdst", "spdst", "jmwst", "hetero_jmwst")
PROCESSES = (1, 2, 4)
ROUNDS = {"digits": 6, "fashion_mnist": 3}  # by data set
CLIENTS = {"digits": 20, "fashion_mnist": 100}


def fit(out: Path, data: str, config: str, processes: int) -> Path:
    """Train and return the run directory."""
    run = out / f"{data}-{config}-{processes}"
    shutil.rmtree(run, ignore_errors=True)
    arguments = [f"data={data}", f"rounds={ROUNDS[data]}", "cohort=3", f"trainer.devices={processes}", f"run_dir={run}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "density=0.1"]
    if config.endswith(("spdst", "jmwst")):
        arguments += ["scheduler.sensitivity.epochs=1", f"scheduler.sensitivity.init_fraction={3 / CLIENTS[data]}"]
    subprocess.run([sys.executable, "-m", "flash_pl", "fit", config, *arguments], check=True, capture_output=True)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"), help="folder of the run directories")
    out, unequal = parser.parse_args().out, 0
    print(f"| data | method | {' | '.join(f'{processes} = 1' for processes in PROCESSES[1:])} |")
    print("|---|---|" + "---|" * len(PROCESSES[1:]))
    for data in ROUNDS:
        for config in CONFIGS:
            single, *several = [fit(out, data, config, processes) for processes in PROCESSES]
            cells = [", ".join(differences(single, run)) or "equal" for run in several]
            unequal += sum(cell != "equal" for cell in cells)
            print(f"| {data} | {config} | {' | '.join(cells)} |", flush=True)
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
