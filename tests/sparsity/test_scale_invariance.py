"""Which layers are scale-invariant, found from gradients, and what that means for the initial weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from flash_pl.models import VGG11, CharTransformer, MNISTNet, MobileNetV2, ResNet18
from flash_pl.sparsity import FanInPreserving, Layout, VariancePreserving, scale_invariant_layers


def invariant(module, inputs):
    """The names of the scale-invariant weights, and how many losses were computed."""
    layout, passes = Layout(module), 0
    arena = layout.flatten_(module)
    targets = torch.randn(module(inputs).shape, generator=torch.Generator().manual_seed(1))

    def gradients(weights):
        nonlocal passes
        passes += 1
        arena.copy_(weights)
        module.zero_grad()
        F.mse_loss(module(inputs), targets).backward()
        parameters = dict(module.named_parameters())
        result = torch.zeros(layout.maskable)
        for slot in layout.layers:
            slot.view(result).copy_(parameters[slot.name].grad)
        return result

    found = scale_invariant_layers(layout, arena.clone(), gradients)
    return {slot.name for slot, is_invariant in zip(layout.layers, found, strict=True) if is_invariant}, passes


def images(channels=3):
    return torch.randn(8, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.RMSNorm([4, 6, 6])],
)
def test_a_layer_before_any_norm_is_invariant(norm):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert invariant(module, images())[0] == {"0.weight"}


class Function(nn.Module):
    """A layer, then a function of its output."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function, self.head = layer, function, nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.function(self.layer(x)).flatten(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.group_norm(x, 2),
        lambda x: F.layer_norm(x.flatten(2).transpose(1, 2), [4]),  # the patches of a vision transformer
        lambda x: F.rms_norm(x.relu(), x.shape[1:]),  # the scale goes through an activation
        lambda x: F.normalize(x.flatten(1), dim=1),
    ],
)
def test_norms_that_are_functions_and_come_later_are_seen(function):
    module = Function(nn.Conv2d(3, 4, 3, bias=False), function)
    module(images())
    assert invariant(module, images())[0] == {"layer.weight"}


def test_the_direction_under_weight_norm_is_invariant():
    module = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert invariant(module, images())[0] == {"0.parametrizations.weight.original1"}


class Shortcut(nn.Module):
    """A first layer whose output goes to a norm and around it, as in pre-activation networks."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.stem(x)
        return x + self.conv(self.norm(x).relu())


def biased(layer):
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        Shortcut,
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()),  # it keeps its own variance
        lambda: nn.Sequential(biased(nn.Linear(8, 8)), nn.LayerNorm(8)),  # the bias does not grow with the weights
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)),
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)),
    ],
)
def test_layers_whose_scale_matters_are_not(make):
    torch.manual_seed(0)
    assert not invariant(make(), images())[0]


@pytest.mark.parametrize("network", [ResNet18, VGG11, MobileNetV2])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_in_deep_networks_all_layers_but_the_head_are(network, norm):
    torch.manual_seed(0)
    module = network(in_channels=1, norm=norm)
    found, passes = invariant(module, torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert {slot.name for slot in Layout(module).layers} - found == {"fc.weight"}
    assert passes <= 2 + 2 * math.ceil(math.log2(len(found)))  # and not one for each layer


@pytest.mark.parametrize(
    ("network", "example"),
    [(MNISTNet, torch.ones(4, 1, 28, 28)), (CharTransformer, torch.arange(16).reshape(2, 8))],
)
def test_in_small_and_pre_norm_networks_none_is(network, example):
    torch.manual_seed(0)
    assert not invariant(network(), example)[0]


def test_a_layer_without_a_gradient_is_not():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4))
    layout = Layout(module)
    arena = layout.flatten_(module)
    for value in (0.0, float("nan")):
        assert scale_invariant_layers(layout, arena, lambda w, value=value: torch.full([16], value)) == (False,)


@pytest.mark.parametrize("initialization", [VariancePreserving, FanInPreserving])
def test_initialization_scales_the_other_layers(initialization):
    layout = Layout(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)))
    layout.scale_invariant = (True, False)
    weights, mask = torch.ones(layout.size), torch.arange(32) % 4 == 0  # a quarter of every output's inputs
    initialization()(layout, weights, mask)
    assert [part.unique().tolist() for part in layout.split(weights)] == [[1.0], [2.0]]
    initialization(skip_scale_invariant=False)(layout, weights, mask)
    assert [part.unique().tolist() for part in layout.split(weights)] == [[2.0], [4.0]]
