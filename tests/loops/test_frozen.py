"""Frozen parameters are neither masked, sent nor averaged, and they keep every bit."""

import pytest
import torch
from torch import nn

from flash_pl import JMWST, PDST, Classifier, FederatedTrainer
from flash_pl.callbacks import Checkpoint
from flash_pl.checkpoint import read_checkpoint
from flash_pl.costs import WireFormat, count_flops
from flash_pl.errors import ClientError
from flash_pl.schedulers import Sensitivity
from flash_pl.server import FedAdam, RoundAverage
from flash_pl.sparsity import Layout


def adapted(seed: int = 0) -> nn.Sequential:
    """A frozen base with an adapter of 64 x 2 and 2 x 64 weights in front of a frozen head.

    The base has values that a sum of units of 2^-40 would round.
    """
    torch.manual_seed(seed)
    base, head = nn.Linear(64, 64), nn.Linear(64, 4)
    for part in (base, head):
        part.requires_grad_(False)
        part.weight[:, :3] *= 1e-9
    return nn.Sequential(nn.Flatten(), base, nn.ReLU(), nn.Linear(64, 2, bias=False), nn.Linear(2, 64), nn.ReLU(), head)


def train(data, scheduler=None, ckpt_path=None, **settings):
    module = Classifier(adapted(), classes=4, lr=0.05)
    settings = {"density": 0.5, "rounds": 3, "cohort": 3, "seed": 1, "accelerator": "cpu"} | settings
    return FederatedTrainer(scheduler or PDST(), **settings).fit(module, data, ckpt_path), module


@pytest.mark.parametrize("wire", [WireFormat(), WireFormat(verify=True), WireFormat(values="fp16")])
def test_a_message_has_the_adapter_alone(wire, tiny_data):
    loop, _ = train(tiny_data, wire=wire)
    layout = loop.server.layout
    assert layout.maskable == 64 * 2 + 2 * 64 and layout.sent == layout.maskable + 64
    active, size = int(loop.server.mask.sum()), 2 if wire.values == "fp16" else 4
    messages = 3 * 3
    up = messages * (size * active + 4 * 64)
    # What is left is header, samples and mask: far less than the 4,416 frozen weights.
    assert up <= loop.ledger.totals["bytes_up"] <= up + messages * 64
    assert loop.ledger.totals["bytes_down"] <= up + messages * 128


@pytest.mark.parametrize("settings", [
    {}, {"wire": WireFormat(verify=True)}, {"wire": WireFormat(values="bf16")},
    {"server_optimizer": FedAdam(lr=0.01), "round_average": RoundAverage()},
    {"scheduler": JMWST(sensitivity=Sensitivity(init_fraction=0.25, epochs=1))},
])  # fmt: skip
def test_frozen_parameters_keep_every_bit(settings, tiny_data, tmp_path):
    before = {name: value.clone() for name, value in adapted().state_dict().items()}
    loop, module = train(tiny_data, **settings, callbacks=[Checkpoint(tmp_path)])
    after = module.model.state_dict()
    frozen = [name for name in before if name.split(".")[0] in ("1", "6")]
    assert len(frozen) == 4 and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["4.weight"], after["4.weight"])  # the adapter has learned
    resumed, twin = train(tiny_data, **settings, rounds=4, ckpt_path=tmp_path / "last.ckpt")
    assert resumed.round == 4
    assert all(torch.equal(before[name], twin.model.state_dict()[name]) for name in frozen)


def test_a_checkpoint_has_the_frozen_parameters_too(tiny_data, tmp_path):
    _, module = train(tiny_data, callbacks=[Checkpoint(tmp_path)])
    saved = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    assert saved.keys() == module.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())


def test_training_that_changes_a_frozen_parameter_is_refused(tiny_data):
    class Thawing(Classifier):
        def on_train_start(self):
            self.model[6].requires_grad_(True)

    module = Thawing(adapted(), classes=4, lr=0.05)
    with pytest.raises(ClientError, match=r"model\.6\.(weight|bias)"):
        FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu").fit(module, tiny_data)


def test_a_parameter_that_a_hook_freezes_later_is_sent(tiny_data):
    class Freezing(Classifier):
        def on_train_start(self):
            self.model[3].requires_grad_(False)

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    module = Freezing(network, classes=4, lr=0.05)
    layout = (
        FederatedTrainer(PDST(), density=0.5, rounds=1, cohort=2, accelerator="cpu")
        .fit(module, tiny_data)
        .server.layout
    )
    assert layout.sent == layout.elements and layout.frozen == layout.size


def test_no_gradient_that_nothing_needs_is_counted():
    network, x = adapted(), torch.ones(10, 1, 8, 8)
    layout = Layout(network)
    flops = count_flops(network, [slot.name for slot in layout.layers], lambda: network(x))
    base, head, down, up = (2 * 10 * size for size in (64 * 64, 64 * 4, 64 * 2, 2 * 64))
    assert flops.layers == (down, up) and flops.rest == base + head
    assert flops.input_gradients == (0, up) and flops.rest_gradients == head
    # Forward; gradients of the inputs behind the first trained layer; gradients of the adapter's weights.
    assert flops.training(flops.dense) == (base + head + down + up) + (head + up) + (down + up)
