"""Which weights are masked: every kind of layer, weights that torch computes from others, and the user's patterns."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from flash_pl.errors import ConfigError
from flash_pl.sparsity import NM, Channels, Layout, channel_mask
from flash_pl.sparsity.maskable import maskable_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    OLD = {
        "old weight_norm": (nn.utils.weight_norm(nn.Linear(6, 4)), "weight_v"),
        "old spectral_norm": (nn.utils.spectral_norm(nn.Linear(6, 4)), "weight_orig"),
    }
REPARAMETRIZED = OLD | {
    "weight_norm": (parametrizations.weight_norm(nn.Linear(6, 4)), "parametrizations.weight.original1"),
    "spectral_norm": (parametrizations.spectral_norm(nn.Conv2d(2, 4, 3)), "parametrizations.weight.original"),
    "prune": (prune.identity(nn.Linear(6, 4), "weight"), "weight_orig"),
}


class Positive(nn.Module):
    def forward(self, x):
        return x.exp()


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.scale, self.linear = (
            nn.Parameter(torch.ones(3, 5)),
            nn.Parameter(torch.ones(5)),
            nn.Linear(5, 2),
        )
        self.embedding = nn.Embedding(7, 5)


@pytest.mark.parametrize("kind", REPARAMETRIZED)
def test_a_computed_weight_is_0_exactly_where_the_mask_is(kind):
    layer, name = REPARAMETRIZED[kind]
    layer.eval()
    layout = Layout(layer)
    assert [slot.name for slot in layout.layers] == [name]
    arena, mask = layout.flatten_(layer), torch.arange(layout.maskable) % 3 != 0
    arena[: layout.maskable] *= mask
    layer(torch.ones(2, 6) if name != "parametrizations.weight.original" else torch.ones(1, 2, 3, 3))
    assert torch.equal(layer.weight.flatten() != 0, mask)


def test_a_parametrization_without_zeros_is_not_masked():
    positive = nn.Linear(3, 2)
    parametrize.register_parametrization(positive, "weight", Positive())
    module = nn.Sequential(nn.Linear(3, 3), positive, parametrizations.orthogonal(nn.Linear(2, 2)))
    before = [p.clone() for p in module.parameters()]
    assert maskable_names(module) == ["0.weight"]
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_the_weights_of_every_kind_of_layer():
    module = nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(2, 3, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=2),
            "lstm": nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2),
            "cell": nn.GRUCell(4, 3),
            "embedding": nn.Embedding(5, 4),
            "norm": nn.LayerNorm(4),
        }
    )
    recurrent = [f"lstm.weight_{m}_l{i}{end}" for i in (0, 1) for end in ("", "_reverse") for m in ("ih", "hh", "hr")]
    attention = ["attention.in_proj_weight", "attention.out_proj.weight"]
    cross = [f"cross.{part}_proj_weight" for part in "qkv"] + ["cross.out_proj.weight"]
    expected = ["up.weight", *attention, *cross, *recurrent, "cell.weight_ih", "cell.weight_hh"]
    assert maskable_names(module) == expected
    matrices = {name for name, p in module.named_parameters() if p.ndim > 1} - {"embedding.weight"}
    assert set(expected) == matrices


def test_include_adds_layers_and_parameters():
    module = Bare()
    assert maskable_names(module) == ["linear.weight"]
    assert maskable_names(module, include=["table", "scale"]) == ["table", "scale", "linear.weight"]
    assert maskable_names(module, include=["emb*"], exclude=["linear.weight"]) == ["embedding.weight"]
    assert maskable_names(module, include=["*.bias"]) == ["linear.weight", "linear.bias"]
    nested = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.Embedding(3, 2))
    assert maskable_names(nested, include=["0.*", "1"]) == ["0.0.weight", "1.weight"]  # layers: no biases, no norms
    module.table.requires_grad_(False)
    for pattern in ("table", "nothing"):
        with pytest.raises(ConfigError, match=f"'{pattern}' matches no trainable weight") as error:
            maskable_names(module, include=[pattern])
        assert error.value.key == "include"


def test_a_shared_weight_stays_dense_if_one_of_its_layers_is_excluded():
    for first in (nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)):
        module = nn.Sequential(first, nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
        module[1].weight = first.weight
        assert maskable_names(module) == ["0.weight", "2.weight"]
        for pattern in ("1", "1.weight"):
            assert maskable_names(module, exclude=[pattern]) == ["2.weight"]


def test_the_norms_of_weight_norm_are_not_included_with_their_layer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    new = parametrizations.weight_norm(nn.Linear(3, 2))
    names = maskable_names(nn.Sequential(old, new), include=["0", "1"])
    assert names == ["0.weight_v", "1.parametrizations.weight.original1"]


def test_an_attribute_groups_of_another_layer_is_not_that_of_a_convolution():
    module = Bare()
    module.groups = [1, 2]
    layout = Layout(module, include=["table"])
    assert Channels()(layout, torch.rand(layout.size), torch.tensor([5, 5])).any()


def test_a_module_without_masked_weights_needs_include():
    with pytest.raises(ConfigError, match="leaves nothing to mask") as error:
        maskable_names(nn.Embedding(3, 2))
    assert error.value.key == "include"


def test_exclude_takes_single_weights():
    module = nn.Sequential(nn.LSTM(4, 3), nn.Linear(3, 2))
    assert maskable_names(module, exclude=["*.weight_hh_*"]) == ["0.weight_ih_l0", "1.weight"]


def test_the_count_of_trainable_weights_leaves_out_frozen_ones_and_gaps():
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[2].weight.requires_grad_(False)
    layout = Layout(module)
    assert (layout.maskable, layout.trained) == (15, 15 + 3 + 6 + 2)
    assert (layout.elements, layout.sent) == (15 + 3 + 6 + 6 + 6 + 2, 15 + 3 + 6 + 6 + 2)  # with mean and variance
    again = Layout.from_specification(layout.specification)
    assert (again.trained, again.sent, again.frozen) == (layout.trained, layout.sent, layout.frozen)


@pytest.mark.parametrize("groups", [1, 2])
def test_structures_of_a_transposed_convolution_are_those_of_the_convolution_it_transposes(groups):
    """Its outputs are those that a weight of 0 switches off, found by running the layer."""
    up, inputs = nn.ConvTranspose2d(4, 6, 2, groups=groups, bias=False), torch.randn(1, 4, 3, 3)
    network = nn.Sequential(up, nn.Conv2d(6, 6, 1, bias=False))
    layout = Layout(network)
    arena = layout.flatten_(network)
    scores = torch.rand(layout.maskable)
    arena.copy_(Channels()(layout, scores, layout.sizes // 2))
    assert int((up(inputs).abs().sum(dim=(0, 2, 3)) > 0).sum()) == 3
    for output in range(6):  # N:M along the inputs of each output
        mask = NM(4)(layout, scores, layout.sizes // 2)
        arena.copy_(mask)
        up.zero_grad()
        up(torch.ones(1, 4, 3, 3))[0, output].sum().backward()
        uses = up.weight.grad != 0  # [inputs, outputs of a group, 2, 2]
        assert int((uses & layout.layers[0].view(mask)).sum()) * 2 == int(uses.sum())
    narrow = nn.Sequential(nn.Conv2d(3, 4, 1), up)
    first, second = Layout(narrow).split(channel_mask(Layout(narrow), 0.5))
    assert first.view(4, 3).all(dim=1).tolist() == [True, True, False, False]
    kept = second.view(4, 6 // groups, 2, 2)
    assert kept[:2].all() and not kept[2:].any()


def test_layers_without_channels_cannot_be_narrowed():
    with pytest.raises(ConfigError, match=r"0\.weight_ih_l0 is not the weight of a Linear or Conv layer"):
        channel_mask(Layout(nn.Sequential(nn.LSTM(3, 2), nn.Linear(2, 2))), 0.5)
