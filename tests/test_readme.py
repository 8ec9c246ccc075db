"""The README's Python runs as it stands."""

import re
from pathlib import Path

import torch

from flash_pl import FederatedTrainer
from flash_pl.sparsity import total_count

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if README.exists() else []


def test_your_own_module_and_data(capsys):
    torch.manual_seed(0)
    exec(compile(BLOCKS[0], "README.md", "exec"), {"__name__": "readme"})
    assert "tensor(" in capsys.readouterr().out
    assert sum(bool(line.strip()) for line in BLOCKS[0].splitlines()) <= 25


def test_your_own_scheduler_keeps_counts_and_moves(unaware, tiny_data):
    names: dict = {"__name__": "readme"}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    reports = []

    class Watch:
        def on_client_end(self, loop, report):
            assert not report.weights[: loop.server.layout.maskable][~report.mask].any()
            reports.append(int(report.mask.sum()))

    trainer = FederatedTrainer(names["SET"](), density=0.2, rounds=2, cohort=3, accelerator="cpu", callbacks=[Watch()])
    loop = trainer.fit(unaware(), tiny_data)
    assert set(reports) == {total_count(loop.server.layout.sizes, 0.2)}
    assert loop.metrics["mismatch_clients"] > 0
