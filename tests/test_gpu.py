"""What only a GPU can show; tests/schedulers/test_contract.py checks every method on one too."""

import json
import subprocess
import sys
import warnings
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_pl import JMWST, SPDST, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.cli import main
from flash_pl.client import Classifier
from flash_pl.data import Synthetic, TensorBatches
from flash_pl.loops import Participant
from flash_pl.models import VGG11, LeafCNN, MobileNetV2, ResNet18
from flash_pl.schedulers import PDST, STEAD, Sensitivity
from flash_pl.sparsity import Layout, on_device, random_k_by_layer, top_k
from flash_pl.wire import encode_mask
from flash_pl.wire.mask_size import measure_mask
from tests.loops import test_captured as captured

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
STAGE_1 = Sensitivity(init_fraction=0.4, epochs=2)
METHODS = {
    "spdst": lambda: SPDST(sensitivity=STAGE_1),
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "stead": lambda: STEAD(every=2),
}


@pytest.fixture
def trained(unaware, tiny_data):
    """Trains with a method of ``METHODS``."""

    def train(method, accelerator="cuda", ckpt_path=None, **settings):
        torch.manual_seed(2)
        settings = {"density": 0.2, "rounds": 3, "cohort": 4, "seed": 1, "accelerator": accelerator} | settings
        return FederatedTrainer(METHODS[method](), **settings).fit(unaware(), deepcopy(tiny_data), ckpt_path)

    return train


@pytest.mark.parametrize("method", METHODS)
def test_a_round_is_that_of_a_cpu(method, trained):
    here, there = (trained(method, where, rounds=1).server for where in ("cpu", "cuda"))
    assert there.weights.device.type == there.mask.device.type == "cuda"
    assert (here.mask == there.mask.cpu()).float().mean() > 0.98  # weights of nearly the same size may change places
    both = here.mask & there.mask.cpu()
    maskable = len(both)
    mine, its = here.weights[:maskable][both], there.weights[:maskable].cpu()[both]
    assert_close(mine, its, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision(method, precision, trained):
    exact, mixed = (trained(method, precision=precision, rounds=1) for precision in ("32-true", precision))
    assert mixed.server.weights.dtype == torch.float32
    assert not torch.equal(exact.server.weights, mixed.server.weights)
    near = (exact.server.weights - mixed.server.weights).abs()
    assert near.quantile(0.95) < 0.02


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first, then", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_a_run_goes_on_where_there_is_another_device(first, then, method, trained, tmp_path):
    trained(method, first, rounds=2, callbacks=[Checkpoint(tmp_path)])
    loop = trained(method, then, rounds=3, ckpt_path=tmp_path / "last.ckpt")
    assert loop.round == 3 and loop.server.weights.device.type == then
    if first == then:
        assert torch.equal(loop.server.weights, trained(method, then, rounds=3).server.weights)


def odd():
    """A network whose tensors would not be aligned if they lay side by side."""
    head = nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU()
    return nn.Sequential(*head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


NETWORKS = {"odd": odd} | {
    network.__name__: partial(network, num_classes=4, in_channels=3)
    for network in (LeafCNN, ResNet18, VGG11, MobileNetV2)
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train(name, precision):
    shape = (3, 28, 28) if name == "LeafCNN" else (3, 32, 32)
    images = Synthetic(samples=40, test_samples=8, classes=4, shape=shape, clients=2, batch_size=8, seed=1)
    trainer = FederatedTrainer(PDST(), density=0.5, rounds=2, cohort=1, seed=1, accelerator="cuda", precision=precision)
    loop = trainer.fit(Classifier(NETWORKS[name](), classes=4, lr=0.01), images)
    assert loop.server.weights.isfinite().all()


def test_steps_do_not_wait_for_the_gpu(unaware, tiny_data):
    def waits(steps):
        trainer = FederatedTrainer(PDST(), density=0.3, cohort=1, accelerator="cuda")
        loop = trainer.loop(unaware(), deepcopy(tiny_data))
        loop.server.mask = loop.scheduler.initial_mask(loop.server, None, torch.Generator().manual_seed(1))
        images, labels = torch.randn(8 * steps, 1, 8, 8, device="cuda"), torch.zeros(8 * steps, device="cuda").long()
        batches = TensorBatches(images, labels, 8)
        context = loop.plan.context(Participant(0, 0, batches.samples, batches.samples), len(batches), 0)
        loop.client.receive(loop.server.weights, loop.server.mask)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                loop.local.run(loop.client, loop.scheduler, batches, context)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(one.message) for one in found)

    waits(1)  # what happens once
    few, many = waits(2), waits(9)
    assert 0 < few == many < 20


def test_compiled_layers(trained):
    loop = trained("spdst", compile=True, rounds=1)
    plain = trained("spdst", rounds=1)
    assert_close(loop.server.weights, plain.server.weights, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["spdst", "jmwst", "stead", "fedrts"])
def test_commands_on_a_gpu_repeat_their_bits(method, tmp_path, capsys):
    settings = ["data=digits", "clients=10", "cohort=5", "density=0.1", "trainer.progress=false"]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, rounds in ((one, 3), (two, 2)):
        assert main(["fit", method, *settings, "trainer.accelerator=gpu", f"rounds={rounds}", f"run_dir={folder}"]) == 0
    assert main(["fit", method, *settings, "rounds=3", f"run_dir={two}", "ckpt_path=last"]) == 0
    checkpoints = [read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (one, two)]
    weights = [each["flash_pl"]["server"]["weights"] for each in checkpoints]
    assert torch.equal(*weights)
    reached = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert reached[0]["accuracy"] == reached[1]["accuracy"] and reached[0]["loss"] == reached[1]["loss"]
    capsys.readouterr()
    assert main(["validate", str(one / "checkpoints" / "last.ckpt")]) == 0
    assert f"{reached[0]['accuracy']:.3f}"[:4] in capsys.readouterr().out


class Adam(captured.Net):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01, capturable=True)


def compare_captured(make, scheduler, **settings):
    """Compare runs with and without captured steps; return the captured steps' loop."""
    settings |= {"accelerator": "cuda"}
    expected, rows, _ = captured.run(make, scheduler(), FederatedTrainer, graphs=False, **settings)
    tensors, its_rows, loop = captured.run(make, scheduler(), FederatedTrainer, graphs=True, **settings)
    assert all(map(torch.equal, tensors, expected)) and its_rows == rows
    return loop.local


@pytest.mark.parametrize("scheduler", [PDST, captured.moving, STEAD])
@pytest.mark.parametrize("module", [*captured.MODULES.values(), captured.Schedule, captured.InPlace, Adam])
def test_captured_steps_have_the_same_bits(module, scheduler):
    assert compare_captured(module, scheduler).counts["replayed"]


@pytest.mark.parametrize("settings", captured.SETTINGS.values(), ids=captured.SETTINGS)
def test_captured_steps_under_settings_of_the_trainer(settings):
    assert compare_captured(captured.Net, PDST, **settings).counts["replayed"]


@pytest.mark.parametrize("module", captured.EAGER, ids=lambda cls: cls.__name__)
def test_steps_that_cannot_be_captured(module):
    local = compare_captured(module, PDST)
    assert not local.counts["replayed"] and any(reason.startswith(captured.EAGER[module]) for reason in local.told)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
def test_masks_are_chosen_and_measured_as_on_a_cpu(density):
    draws = torch.Generator().manual_seed(1)
    sizes = [1000, 3, 20_000]
    mask = torch.rand(sum(sizes), generator=draws) < density
    reference = mask ^ (torch.rand(len(mask), generator=draws) < 0.01)
    for other in (None, mask, reference):
        kind, section = encode_mask(mask, sizes, other)
        assert measure_mask(mask.cuda(), sizes, other) == (kind, len(section))
    scores = torch.randint(5, (len(mask),), generator=draws).float()
    count = int(mask.sum())
    for k in {0, 1, count // 2, count}:
        assert torch.equal(top_k(scores.cuda(), k).cpu(), top_k(scores, k))
    layout = Layout(nn.Sequential(nn.Linear(10, 100, bias=False), nn.Linear(3, 1, bias=False), nn.Linear(200, 100)))
    wished = layout.counts(mask) // 3
    here, there = (random_k_by_layer(layout, each, wished, torch.Generator()) for each in (mask, mask.cuda()))
    assert torch.equal(here, there.cpu())
    assert torch.equal(on_device(on_device(mask, torch.device("cuda:0")), torch.device("cpu")), mask)


def test_processes_that_share_a_gpu_have_the_bits_of_one(tmp_path):
    weights = []
    for processes in (1, 2):
        run = [f"run_dir={tmp_path / str(processes)}", f"trainer.processes_per_device={processes}", "rounds=3"]
        command = [sys.executable, "-m", "flash_pl", "fit", "jmwst", "scheduler.sensitivity.epochs=2", *run]
        subprocess.run([*command, "trainer.accelerator=gpu", "trainer.progress=false"], check=True, timeout=180)
        weights.append(read_checkpoint(tmp_path / str(processes) / "checkpoints" / "last.ckpt")["flash_pl"]["server"])
    assert all(torch.equal(weights[0][part], weights[1][part]) for part in ("weights", "mask"))
