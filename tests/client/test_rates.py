"""Learning rates of single layers."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from flash_pl import PDST, FederatedTrainer
from flash_pl.client.optimizers import split_

SCHEDULERS = {
    "step": lambda o: StepLR(o, 2, 0.5),
    "lambda": lambda o: LambdaLR(o, lambda epoch: 0.9**epoch),
    "exponential": lambda o: ExponentialLR(o, 0.8),
    "cosine": lambda o: CosineAnnealingLR(o, 6),
    "cycle": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "one cycle": lambda o: OneCycleLR(o, 0.2, total_steps=8),
    "sequence": lambda o: SequentialLR(o, [LinearLR(o, 0.5, total_iters=2), StepLR(o, 1, 0.5)], [2]),
}


def layers():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 3, bias=False) for _ in range(3)])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_goes_on_as_if_the_groups_had_been_there(name):
    net = layers()
    optimizer = SGD(net.parameters(), 0.1, momentum=0.5)
    scheduler = SCHEDULERS[name](optimizer)
    split_(optimizer, [scheduler], {net[1].weight: 3.0, net[2].weight: 1.0})
    plain = SGD([net[0].weight], 0.1, momentum=0.5)
    reference = SCHEDULERS[name](plain)
    for _ in range(6):
        rest, own = optimizer.param_groups
        assert [len(group["params"]) for group in (rest, own)] == [2, 1] and own["params"][0] is net[1].weight
        assert rest["lr"] == pytest.approx(plain.param_groups[0]["lr"])
        assert own["lr"] == pytest.approx(3 * plain.param_groups[0]["lr"])
        for one, schedule in ((optimizer, scheduler), (plain, reference)):
            one.step()
            schedule.step()


@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_group_may_be_left_empty(make):
    net = layers()
    optimizer = make(net.parameters(), lr=0.1)
    split_(optimizer, [], {layer.weight: 0.5 for layer in net})
    before = [layer.weight.detach().clone() for layer in net]
    sum(layer.weight.sum() for layer in net).backward()
    optimizer.step()
    for layer, old in zip(net, before, strict=True):
        torch.testing.assert_close(layer.weight, old - 0.05)


class Faster(PDST):
    """The first layer learns at twice its rate, the others at theirs."""

    def layer_rates(self, client):
        return torch.tensor([2.0] + [1.0] * (len(client.layout.layers) - 1), dtype=torch.float64)


class Scaled(PDST):
    """The same by its gradients."""

    def on_dense_gradients(self, client, step):
        first = client.layout.layers[0]
        factors = torch.ones(client.layout.maskable)
        factors[: first.shape.numel()] = 2.0
        client.scale_gradients_(factors)

    def wants_dense_gradients(self, client, step):
        return False


@pytest.mark.parametrize("backend", ["dense", "auto"])
def test_with_plain_sgd_a_rate_is_a_factor_of_the_gradient(backend, unaware, tiny_data):
    servers = []
    for scheduler in (Faster(), Scaled(), PDST()):
        torch.manual_seed(0)
        trainer = FederatedTrainer(
            scheduler, density=0.3, rounds=2, cohort=3, seed=1, accelerator="cpu", backend=backend
        )
        servers.append(trainer.fit(unaware(momentum=0.0, weight_decay=0.0), tiny_data).server.weights)
    faster, scaled, plain = servers
    torch.testing.assert_close(faster, scaled)
    assert not torch.equal(faster, plain)
