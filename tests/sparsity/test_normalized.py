"""Which layers a normalization follows, found by running the model, and what that means for the initial weights."""

import pytest
import torch
from torch import nn

from flash_pl.models import VGG11, CharTransformer, MNISTNet, MobileNetV2, ResNet18
from flash_pl.sparsity import FanInPreserving, Layout, VariancePreserving, watching_norms


def normalized(module, example):
    layout = Layout(module)
    with watching_norms(module, [slot.name for slot in layout.layers]) as found, torch.no_grad():
        module(example)
    return found


class Branches(nn.Module):
    """Three convolutions before a norm: the first two are added, the third is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(3))
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.GroupNorm(1, 2)

    def forward(self, x):
        x = self.norm1(self.left(x) + self.right(x))
        return self.norm2(self.last(x).add_(x))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.RMSNorm(6)]
)
def test_every_norm_is_seen_after_its_layer_only(norm):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert normalized(module, torch.ones(2, 1, 8, 8)) == {"0.weight"}


def test_a_sum_of_outputs_is_not_the_output_of_a_layer():
    assert not normalized(Branches(), torch.ones(2, 2, 4, 4))


def test_an_activation_between_layer_and_norm_hides_the_layer():
    assert not normalized(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.LayerNorm(3)), torch.ones(2, 3))


def test_layers_that_share_a_weight_have_one_name():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.LayerNorm(3))
    module[2].weight = module[0].weight
    assert normalized(module, torch.ones(2, 3)) == {"0.weight"}


def test_tensors_of_inference_mode_are_seen():
    with torch.inference_mode():
        assert normalized(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), torch.ones(2, 3)) == {"0.weight"}


def test_the_block_leaves_no_hooks():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    normalized(module, torch.ones(2, 3))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("network", [ResNet18, VGG11, MobileNetV2])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_in_deep_networks_all_layers_but_the_head_are_normalized(network, norm):
    module = network(in_channels=1, norm=norm)
    found = normalized(module, torch.ones(2, 1, 32, 32))
    assert {slot.name for slot in Layout(module).layers} - found == {"fc.weight"}


@pytest.mark.parametrize(
    ("module", "example"),
    [(MNISTNet(), torch.ones(2, 1, 28, 28)), (CharTransformer(), torch.ones(2, 8, dtype=torch.long))],
)
def test_in_small_and_pre_norm_networks_none_is(module, example):
    assert not normalized(module, example)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_scale_of_these_weights_does_not_change_the_output(norm):
    """What the initialization rests on; eps of the norms is small beside the variance."""
    torch.manual_seed(0)
    module, images = ResNet18(in_channels=1, norm=norm), torch.randn(4, 1, 32, 32)
    layout = Layout(module)
    with torch.no_grad():
        before = module(images)
        for name in normalized(module, images):
            module.get_parameter(name).mul_(3)
        torch.testing.assert_close(module(images), before, rtol=1e-3, atol=1e-3)
    assert len(layout.layers) == 21


@pytest.mark.parametrize("initialization", [VariancePreserving, FanInPreserving])
def test_initialization_scales_the_other_layers(initialization):
    layout = Layout(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)))
    layout.normalized = (True, False)
    weights, mask = torch.ones(layout.size), torch.arange(32) % 4 == 0  # a quarter of every output's inputs
    initialization()(layout, weights, mask)
    assert [part.unique().tolist() for part in layout.split(weights)] == [[1.0], [2.0]]
    initialization(skip_normalized=False)(layout, weights, mask)
    assert [part.unique().tolist() for part in layout.split(weights)] == [[2.0], [4.0]]
