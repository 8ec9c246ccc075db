"""Runs the same experiment in 1, 2 and 4 processes and compares all that it finds, bit for bit.

    python benchmarks/ranks.py --out runs/ranks

Five methods and hetero-JMWST on the digits and on Fashion-MNIST, a few rounds each; three clients a round, so that two
ranks have unequal shares and of four one has nothing to do. Stage 1 is shortened to one epoch of three clients.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bits import differences

METHODS = ("dense", "nst", "pdst", "spdst", "jmwst", "hetero_jmwst")
RANKS = (1, 2, 4)
DATA = {"digits": 6, "fashion_mnist": 3}  # and rounds


def fit(out: Path, data: str, rounds: int, method: str, ranks: int) -> Path:
    run = out / f"{data}-{method}-{ranks}"
    shutil.rmtree(run, ignore_errors=True)
    arguments = [f"data={data}", f"rounds={rounds}", "cohort=3", f"trainer.devices={ranks}", f"run_dir={run}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "density=0.1"]
    if method.endswith(("spdst", "jmwst")):
        clients = 20 if data == "digits" else 100
        arguments += ["scheduler.sensitivity.epochs=1", f"scheduler.sensitivity.init_fraction={3 / clients}"]
    subprocess.run([sys.executable, "-m", "flash_pl", "fit", method, *arguments], check=True, capture_output=True)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"))
    out, failed = parser.parse_args().out, 0
    print(f"| data | method | {' | '.join(f'{ranks} = 1' for ranks in RANKS[1:])} |")
    print("|---|---|" + "---|" * len(RANKS[1:]))
    for data, rounds in DATA.items():
        for method in METHODS:
            alone, *others = [fit(out, data, rounds, method, ranks) for ranks in RANKS]
            found = [differences(alone, other) for other in others]
            failed += sum(map(bool, found))
            print(f"| {data} | {method} | {' | '.join(', '.join(one) or 'equal' for one in found)} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
