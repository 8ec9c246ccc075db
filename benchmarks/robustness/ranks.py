"""Do 1, 2, 3 and 4 processes compute the same bits? Runs the same experiments in each and compares the results.

    python benchmarks/robustness/ranks.py --out runs/ranks                # a Markdown table
    python benchmarks/robustness/ranks.py --data digits --config faults   # one row of it

FLASH's schedulers, dense training and hetero-JMWST train a few rounds on the digits and on Fashion-MNIST. Three clients
a round give two processes unequal shares and leave one of four processes without a client. Stage 1 is shortened to one
epoch of three clients.

"faults" is hetero-JMWST with everything that makes a round irregular: a client in five fails in every second round and
is skipped, some clients of a mixed fleet miss the deadline, clients are evaluated and fine-tuned, the server has an
optimizer with a state, and an average over rounds is deployed. Five clients train in a round.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from bits import differences

from flash_pl import Classifier
from flash_pl.models import LeafCNN

CONFIGS = ("dense", "nst", "pdst", "spdst", "jmwst", "hetero_jmwst", "faults")
PROCESSES = (1, 2, 3, 4)
ROUNDS = {"digits": 6, "fashion_mnist": 3}  # by data set
CLIENTS = {"digits": 20, "fashion_mnist": 100}
DEADLINE = {"digits": 0.1, "fashion_mnist": 2.0}  # simulated seconds that some clients need longer than
FAULTS = ["model=ranks.Failing", "trainer.on_client_error=skip", "trainer.min_clients=2", "fleet=mixed"]
FAULTS += ["server_optimizer=adam", "round_average=polynomial", "trainer.finetune_epochs=1"]


class Failing(Classifier):
    """Its training fails on the clients 3, 8, 13, ... in every second round, and while they are evaluated."""

    def __init__(self, classes: int, image_size: int, lr: float = 0.1) -> None:
        network = LeafCNN(num_classes=classes, image_size=image_size, channels=(8, 16), hidden=32)
        super().__init__(network, classes=classes, lr=lr)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        context = self._client.context
        if context.client % 5 == 3 and (context.purpose == "finetune" or context.round % 2):
            raise ValueError("a fault of this experiment")
        return super().training_step(batch, batch_idx)


def fit(out: Path, data: str, config: str, processes: int) -> Path:
    """Train and return the run directory."""
    run = out / f"{data}-{config}-{processes}"
    shutil.rmtree(run, ignore_errors=True)
    arguments = [f"data={data}", f"rounds={ROUNDS[data]}", "cohort=3", f"trainer.devices={processes}", f"run_dir={run}"]
    arguments += ["trainer.accelerator=cpu", "trainer.threads=1", "density=0.1"]
    if config.endswith(("spdst", "jmwst", "faults")):
        arguments += ["scheduler.sensitivity.epochs=1", f"scheduler.sensitivity.init_fraction={3 / CLIENTS[data]}"]
    if config == "faults":
        arguments += [*FAULTS, "cohort=5", f"fleet.deadline={DEADLINE[data]}", "trainer.eval_clients_every=2"]
    name = "hetero_jmwst" if config == "faults" else config
    # A process finds the class Failing beside this file.
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "flash_pl", "fit", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{run}: exit code {done.returncode}: {done.stderr}")
    return run


def check_faults(run: Path) -> None:
    """Check that the experiment has what it is for."""
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    totals = {column: sum(float(row[column]) for row in rows) for column in ("failed", "late", "participants")}
    if not all(totals.values()):
        raise SystemExit(f"{run}: the experiment needs clients that fail, are late and take part, it has {totals}")
    counts = ", ".join(f"{count:g} {name}" for name, count in totals.items())
    print(f"{run}: {counts}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"), help="folder of the run directories")
    parser.add_argument("--data", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=CONFIGS)
    options, unequal = parser.parse_args(), 0
    print(f"| data | method | {' | '.join(f'{processes} = 1' for processes in PROCESSES[1:])} |")
    print("|---|---|" + "---|" * len(PROCESSES[1:]))
    for data in options.data:
        for config in options.config:
            single, *several = [fit(options.out, data, config, processes) for processes in PROCESSES]
            if config == "faults":
                check_faults(single)
            cells = [", ".join(differences(single, run)) or "equal" for run in several]
            unequal += sum(cell != "equal" for cell in cells)
            print(f"| {data} | {config} | {' | '.join(cells)} |", flush=True)
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
