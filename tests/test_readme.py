"""The README's Python runs as it stands."""

import re
from pathlib import Path

import torch

from flash_pl import FederatedTrainer
from flash_pl.cli import main
from flash_pl.models import LeafCNN
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


def test_an_exported_model_is_loaded_without_flash_pl(tmp_path):
    tiny = ["data=synthetic", "data.samples=60", "data.test_samples=20", "model=digits_cnn", "model.hidden=16"]
    tiny += ["clients=4", "cohort=2", "rounds=1", "density=0.2", "trainer.accelerator=cpu", "trainer.progress=false"]
    assert main(["fit", "pdst", *tiny, f"run_dir={tmp_path / 'run'}"]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for to, options in (("model.safetensors", []), ("sparse.safetensors", ["--sparse"])):
        assert main(["export", str(checkpoint), "--to", str(tmp_path / to), *options]) == 0
    names: dict = {"__name__": "readme"}
    exec(compile(BLOCKS[2], "README.md", "exec"), names)
    assert "flash_pl" not in BLOCKS[2]
    dense = names["load_dense"](tmp_path / "model.safetensors")
    sparse = names["load_sparse"](tmp_path / "sparse.safetensors")
    assert dense.keys() == sparse.keys() and all(torch.equal(dense[name], sparse[name]) for name in dense)
    LeafCNN(channels=(16, 32), hidden=16).load_state_dict(sparse)
