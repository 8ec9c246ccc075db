"""Steps of training never wait for the device: the operations that would are counted where the device is a CPU."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flash_pl import FederatedTrainer
from flash_pl.client import recorder
from flash_pl.data import TensorBatches
from flash_pl.loops import Participant
from flash_pl.schedulers import PDST, SparseScheduler


class Waits(TorchDispatchMode):
    """Counts operations that would synchronize with a GPU."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if recorder.waits(function, args):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def waits(module, data, scheduler: SparseScheduler, steps: int) -> Counter:
    """Of a client's training that has so many batches."""
    trainer = FederatedTrainer(scheduler, density=0.3, cohort=1, accelerator="cpu", backend="dense")
    loop = trainer.loop(module, data)
    loop.server.mask = scheduler.initial_mask(loop.server, None, torch.Generator().manual_seed(1))
    batches = TensorBatches(torch.randn(4 * steps, 1, 8, 8), torch.randint(4, (4 * steps,)), 4)
    context = loop.plan.context(Participant(0, 0, batches.samples, batches.samples), len(batches), 0)
    loop.client.receive(loop.server.weights, loop.server.mask)
    with Waits() as found:
        loop.local.run(loop.client, scheduler, batches, context)
    return found.found


class Fixed(SparseScheduler):
    """Looks at dense gradients without waiting for them."""

    def on_dense_gradients(self, client, step):
        client.module.net[0].weight.grad.abs().mean()


@pytest.mark.parametrize("scheduler", [PDST, Fixed])
def test_a_step_does_not_wait(scheduler, unaware, tiny_data):
    few, many = (waits(unaware(), tiny_data, scheduler(), steps) for steps in (2, 9))
    assert few == many and few.total() < 20  # between clients some are needed


def test_what_waits_is_found(unaware, tiny_data):
    class Asking(SparseScheduler):
        def on_batch_end(self, client, step):
            client.weights.sum().item()

    few, many = (waits(unaware(), tiny_data, Asking(), steps) for steps in (2, 9))
    assert many.total() - few.total() == 7
