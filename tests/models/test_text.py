"""The networks for text: causality, attention by hand, which weights are masked, and their FLOPs."""

import math

import pytest
import torch
from torch import Tensor, nn

from flash_pl import JMWST, Classifier, FederatedTrainer
from flash_pl.callbacks import Callback
from flash_pl.costs import count_flops
from flash_pl.data import TensorData
from flash_pl.errors import ConfigError
from flash_pl.models import CharLSTM, CharTransformer
from flash_pl.models.text import CausalAttention
from flash_pl.schedulers import Sensitivity
from flash_pl.sparsity import Layout

TINY = {
    CharTransformer: {"num_classes": 7, "context_length": 12, "dim": 16, "depth": 2, "heads": 2},
    CharLSTM: {"num_classes": 7, "embedding": 4, "hidden": 16, "depth": 2},
}
each = pytest.mark.parametrize("build", TINY)


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@each
def test_a_later_character_changes_no_earlier_logits(build: type[nn.Module]) -> None:
    network, characters = build(**TINY[build]), torch.randint(7, (3, 12))
    before = network(characters)
    assert before.shape == (3, 12, 7)
    for t in range(11):
        changed = characters.clone()
        changed[:, t + 1] = (changed[:, t + 1] + 1) % 7
        after = network(changed)
        torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1])
        assert (after[:, t + 1] - before[:, t + 1]).abs().amax(-1).min() > 1e-4
        assert (after[:, 11] - before[:, 11]).abs().amax(-1).min() > 1e-6  # the last position sees all


@each
def test_a_shorter_input_has_the_same_logits(build: type[nn.Module]) -> None:
    network, characters = build(**TINY[build]), torch.randint(7, (3, 12))
    torch.testing.assert_close(network(characters[:, :5]), network(characters)[:, :5])


@each
def test_every_parameter_gets_a_gradient_and_no_random_number_is_drawn(build: type[nn.Module]) -> None:
    network, characters = build(**TINY[build]).train(), torch.randint(7, (3, 12))
    state = torch.get_rng_state()
    nn.functional.cross_entropy(network(characters).flatten(0, 1), torch.randint(7, (36,)).roll(1)).backward()
    torch.set_rng_state(state)
    network(characters)
    assert torch.equal(torch.get_rng_state(), state)
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def attention_by_hand(layer: CausalAttention, features: Tensor) -> Tensor:
    """Equation 1 of Vaswani et al., one position of one head at a time."""
    samples, length, dim = features.shape
    size = dim // layer.heads
    query, key, value = layer.query(features), layer.key(features), layer.value(features)
    mixed = torch.zeros_like(features)
    for b in range(samples):
        for t in range(length):
            for head in range(layer.heads):
                part = slice(head * size, (head + 1) * size)
                scores = [float(query[b, t, part] @ key[b, s, part]) / math.sqrt(size) for s in range(t + 1)]
                shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                mixed[b, t, part] = sum(share * value[b, s, part] for s, share in enumerate(shares))
    return layer.out(mixed)


def test_attention_is_that_of_the_equation() -> None:
    layer, features = CausalAttention(dim=6, heads=3), torch.randn(2, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), attention_by_hand(layer, features))


def test_the_layers_of_attention_and_feed_forward_are_masked() -> None:
    layout = Layout(CharTransformer(), exclude=["fc"])
    layers = {"attention.query": 96, "attention.key": 96, "attention.value": 96, "attention.out": 96}
    layers |= {"up": 4 * 96, "down": 4 * 96}
    expected = {f"blocks.{block}.{layer}.weight": 96 * width for block in range(3) for layer, width in layers.items()}
    assert {slot.name: slot.stop - slot.start for slot in layout.layers} == expected
    assert layout.maskable == 3 * 12 * 96**2
    recurrent = Layout(CharLSTM(), exclude=["fc"])
    names = {f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}
    assert {slot.name for slot in recurrent.layers} == names
    assert recurrent.maskable == 4 * 256 * (8 + 256) + 4 * 256 * (256 + 256)


def test_flops_are_those_of_the_products() -> None:
    """A multiply-add counts as two; the products of attention scores have no weight and are the rest."""
    network, characters = CharTransformer(**TINY[CharTransformer]), torch.randint(7, (3, 12))
    layout = Layout(network, exclude=["fc"])
    flops = count_flops(network, [slot.name for slot in layout.layers], lambda: network(characters))
    positions = 3 * 12
    assert list(flops.layers) == [2 * positions * size for size in layout.sizes.tolist()]
    scores = 2 * (2 * 3 * 12 * 12 * 16) * 2  # two products, two blocks; all pairs of positions, as torch computes them
    assert flops.rest == scores + 2 * positions * 16 * 7
    assert flops.input_gradients == flops.layers  # the embedding before the first product is trained
    assert flops.rest_gradients == 2 * flops.rest

    network = CharLSTM(**TINY[CharLSTM])
    layout = Layout(network, exclude=["fc"])
    flops = count_flops(network, [slot.name for slot in layout.layers], lambda: network(characters))
    assert list(flops.layers) == [2 * positions * size for size in layout.sizes.tolist()]
    assert flops.rest == 2 * positions * 16 * 7


@pytest.mark.parametrize(
    ("key", "build"),
    [
        ("heads", lambda: CharTransformer(dim=10, heads=3)),
        ("context_length", lambda: CharTransformer(context_length=0)),
        ("hidden", lambda: CharLSTM(hidden=0)),
    ],
)
def test_bad_arguments_name_their_key(key: str, build) -> None:
    with pytest.raises(ConfigError) as refused:
        build()
    assert refused.value.key == key


def sequences(n: int) -> tuple[Tensor, Tensor]:
    """Sequences that count modulo 7; the next number is the label of each position."""
    numbers = (torch.arange(n).unsqueeze(1) + torch.arange(13)) % 7
    return numbers[:, :12], numbers[:, 1:]


@each
@pytest.mark.parametrize("backend", ["dense", pytest.param("sparse", marks=pytest.mark.kernels)])
def test_training_keeps_the_density_and_pruned_weights_at_0(build: type[nn.Module], backend: str) -> None:
    clients = []

    class Watch(Callback):
        def on_client_end(self, loop, update) -> None:
            pruned = loop.client.arena[: loop.server.layout.maskable][~update.mask]
            clients.append((int(update.mask.sum()), int(pruned.count_nonzero())))

    data = TensorData((*sequences(60), torch.arange(60) % 5), sequences(14), clients=None, batch_size=4)
    module = Classifier(build(**TINY[build]), classes=7, lr=0.01, optimizer="adam")
    scheduler = JMWST(sensitivity=Sensitivity(init_fraction=0.4, epochs=1))
    settings = {"exclude": ["model.fc"], "backend": backend, "accelerator": "cpu", "callbacks": [Watch()]}
    loop = FederatedTrainer(scheduler, density=0.3, rounds=5, cohort=3, local_epochs=3, **settings).fit(module, data)
    layout = loop.server.layout
    active = round(0.3 * layout.maskable)
    assert clients and set(clients) == {(active, 0)}
    assert int(loop.server.mask.sum()) == active
    # The masked model is the one that is evaluated, and it has learned to count.
    weights = {slot.name: slot.view(loop.server.mask) for slot in layout.layers}
    parameters = dict(module.named_parameters())
    assert all(not parameters[name][~keep].any() for name, keep in weights.items())
    inputs, labels = sequences(14)
    with torch.no_grad():
        logits = module(inputs)
    torch.testing.assert_close(
        loop.metrics["val_loss"],
        float(nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())),
        rtol=1e-4,
        atol=1e-4,
    )
    assert loop.metrics["val_acc"] > 0.5
