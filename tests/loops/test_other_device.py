"""A client whose mask moves, on a device that is no CPU: same bits, few waits, masks at one bit per weight."""

import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from flash_pl import FederatedTrainer
from flash_pl.client import Classifier
from flash_pl.fingerprint import fingerprint
from flash_pl.loops import whole_state
from flash_pl.schedulers import JMWST, NST, PDST, FedDST, FedRTS, Sensitivity
from flash_pl.sparsity import BernoulliMove, MaskStore
from tests.other_device import copied, counts, other_device

__all__ = ["other_device"]
STAGE_1 = Sensitivity(init_fraction=0.1, epochs=2)
METHODS = {
    "pdst": PDST,
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "bernoulli": lambda: JMWST(sensitivity=STAGE_1, move=BernoulliMove()),
    "nst": NST,
    "feddst": FedDST,
    "fedrts": FedRTS,
}


class Net(Classifier):
    def __init__(self, hidden):
        torch.manual_seed(3)
        sizes = [64, *hidden, 4]
        layers = [nn.Linear(size, next_) for size, next_ in zip(sizes, sizes[1:], strict=False)]
        super().__init__(nn.Sequential(nn.Flatten(), *layers), classes=4, lr=0.1)

    def backward(self, loss):
        for index, parameter in enumerate(self.parameters()):
            parameter.grad = torch.cos(parameter.detach() * 50 + index)


def make_loop(method, data, device, hidden=(30,)):
    trainer = FederatedTrainer(
        METHODS[method](), density=0.2, rounds=3, cohort=3, seed=1, accelerator="cpu", backend="dense"
    )
    trainer.launch()
    trainer.fabric.strategy._root_device = device
    return trainer, trainer.loop(Net(hidden), deepcopy(data))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_there_has_the_bits_of_a_cpu(method, tiny_data, other_device):
    states = []
    for device in (torch.device("cpu"), other_device):
        trainer, loop = make_loop(method, tiny_data, device)
        trainer.run(loop)
        assert loop.server.weights.device == loop.server.mask.device == device
        parts = loop.server.state_dict(), loop.ledger.link.state_dict(), loop.scheduler.state_dict()
        states.append(tree_leaves((parts, loop.metrics["bytes_up"], loop.metrics["bytes_down"])))
    assert len(states[0]) == len(states[1])
    for here, there in zip(*states, strict=True):
        assert torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there


def second_round(method, data, device, hidden):
    """A loop whose clients have trained a round, so that server and clients remember masks; and the next client."""
    _, loop = make_loop(method, data, device, hidden)
    loop.make_first_mask()
    with loop.client.backend:
        loop.train_round()
    (client, *_) = loop.plan.sample_cohort(1)
    loop.ledger.link.remember([replace(update(loop, client), client=each) for each in range(loop.data.clients)])
    counts.clear()
    copied.clear()
    return loop, client


def update(loop, client):
    loop.scheduler.on_round_start(loop.server, loop.tier_masks, loop.round)
    loop.aggregator.reset(loop.server.weights, loop.server.layout.maskable, [client.weight])
    return loop.train_client(client)


@pytest.mark.parametrize("method", ["pdst", "jmwst", "nst"])
def test_the_host_waits_as_often_for_many_layers_as_for_few(method, tiny_data, other_device):
    found = []
    for hidden in ((12,), (12, 12, 12, 12, 12)):
        loop, client = second_round(method, tiny_data, other_device, hidden)
        update(loop, client)
        found.append(dict(counts))
    assert found[0] == found[1] and sum(found[0].values()) < 30 and "nonzero" not in found[0]


@pytest.mark.parametrize("method", METHODS)
def test_masks_are_copied_at_one_bit_per_weight(method, tiny_data, other_device):
    loop, client = second_round(method, tiny_data, other_device, hidden=(2000,))
    for known in (True, False):  # a client with and one without an earlier mask
        loop.ledger.link.remember([update(loop, client)])
        assert copied["up"] > loop.server.layout.maskable / 8
        assert max(copied.values()) < 0.5 * loop.server.layout.maskable
        if known:
            loop.ledger.link.load_state_dict(MaskStore().state_dict())
            counts.clear()
            copied.clear()


def test_a_mask_from_another_process_is_unpacked_there(tiny_data, other_device):
    loop, client = second_round("jmwst", tiny_data, other_device, hidden=(2000,))
    sent = update(loop, client)
    message = pickle.dumps(sent)
    counts.clear()
    copied.clear()
    arrived = pickle.loads(message)
    assert torch.equal(arrived.mask.cpu(), sent.mask.cpu()) and arrived.mask.device == other_device
    assert copied["up"] <= loop.server.layout.maskable / 8 + 1


def test_a_state_there_has_the_fingerprint_of_a_cpu_after_one_wait(tiny_data, other_device):
    found = []
    for device in (torch.device("cpu"), other_device):
        trainer, loop = make_loop("nst", tiny_data, device, hidden=(2000,))
        trainer.run(loop)
        fingerprint({"warm": {"up": torch.zeros(1).to(device)}})  # constants go there once
        counts.clear()
        copied.clear()
        found.append(fingerprint(whole_state(loop)))
    assert found[0] == found[1] and counts["down"] == 1
    assert copied["down"] < 0.01 * 4 * loop.server.layout.size
