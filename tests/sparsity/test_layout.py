"""The arena: views, order, which weights are maskable, and which modules are refused."""

import pytest
import torch
from torch import nn

from flash_pl.errors import ConfigError, ModuleError
from flash_pl.sparsity import Layout


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2)
    )


def test_maskable_weights_come_first_and_buffers_last():
    layout = Layout(network())
    assert [layer.name for layer in layout.layers] == ["0.weight", "4.weight", "5.weight"]
    assert [slot.name for slot in layout.slots[-2:]] == ["1.running_mean", "1.running_var"]
    assert layout.maskable == 3 * 4 * 9 + 16 * 8 + 8 * 2
    assert all(a.stop == b.start for a, b in zip(layout.layers, layout.layers[1:], strict=False))
    assert layout.trainable == layout.slots[-3].stop  # before the buffers
    assert layout.elements == sum(value.numel() for value in network().state_dict().values()) - 1  # a counter


def test_tensors_without_a_mask_are_aligned():
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 3), nn.BatchNorm1d(3))
    layout = Layout(module, exclude=["3"])
    arena = layout.flatten_(module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    assert len(layout.others) == 11 and all(tensors[slot.name].data_ptr() % 16 == 0 for slot in layout.others)
    gaps = torch.ones(layout.size)
    for slot in layout.slots:
        slot.view(gaps).zero_()
    assert gaps.sum() == layout.size - layout.elements > 0 and not arena[gaps.bool()].any()


def test_other_tensors_are_read_and_written_without_gaps():
    module = network()
    layout = Layout(module)
    arena, again = layout.flatten_(module), torch.zeros(layout.size)
    values = layout.read_others(arena)
    assert len(values) == layout.elements - layout.maskable
    assert torch.equal(values, torch.cat([slot.view(arena).flatten() for slot in layout.others]))
    layout.write_others_(again, values)
    assert torch.equal(again[layout.maskable :], arena[layout.maskable :])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flatten_keeps_values_strides_and_the_function(memory_format):
    module = network().to(memory_format=memory_format).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.randn(2, 3, 4, 4)
    expected = module(images)
    layout = Layout(module)
    arena = layout.flatten_(module)
    assert arena.numel() == layout.size
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) and value.stride() == before[name].stride()
    assert torch.equal(module(images), expected)
    arena.zero_()
    assert all(not p.any() for p in module.parameters())


def test_training_the_module_writes_to_the_arena():
    module = network()
    layout = Layout(module)
    arena = layout.flatten_(module)
    before = arena.clone()
    module(torch.randn(2, 3, 4, 4)).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert not torch.equal(arena, before)
    assert torch.equal(layout.layers[0].view(arena), module[0].weight)


def test_exclude_by_name_glob_and_position():
    assert [s.name for s in Layout(network(), exclude=["4"]).layers] == ["0.weight", "5.weight"]
    assert [s.name for s in Layout(network(), exclude=["[45]"]).layers] == ["0.weight"]
    assert [s.name for s in Layout(network(), exclude_first_last=True).layers] == ["4.weight"]


def test_a_pattern_without_a_layer_is_an_error_that_names_the_layers():
    with pytest.raises(ConfigError, match="'head'.*0, 4, 5") as error:
        Layout(network(), exclude=["head"])
    assert error.value.key == "exclude"
    with pytest.raises(ConfigError, match=r"\['\*'\]") as error:
        Layout(network(), exclude=["*"])
    assert error.value.key == "exclude"


def test_tied_weights_appear_once():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    assert Layout(module).size == 16


def test_modules_that_do_not_fit_in_one_arena_are_refused():
    with pytest.raises(ModuleError, match=r"torch\.float32 on cpu, torch\.float64 on cpu"):
        Layout(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    with pytest.raises(ModuleError, match=r"1\.weight has no shape yet"):
        Layout(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
    with pytest.raises(ConfigError, match="true") as error:
        Layout(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), exclude_first_last=True)
    assert error.value.key == "exclude_first_last"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_specification_gives_the_layout_back_without_the_module(memory_format):
    layout = Layout(network().to(memory_format=memory_format))
    again = Layout.from_specification(layout.specification)
    assert again.slots == layout.slots and again.layers == layout.layers and again.specification == layout.specification
    assert (again.size, again.maskable, again.trainable) == (layout.size, layout.maskable, layout.trainable)
    assert torch.equal(again.sizes, layout.sizes)


# A specification, and a part of the error message.
SPECIFICATIONS = [
    ([], "must have maskable tensors"),
    ([["bias", "parameter", [2], [1]]], "must have maskable tensors"),
    ([["bias", "parameter", [2], [1]], ["weight", "maskable", [2], [1]]], "they come first"),
    ([["weight", "maskable", [2], [1]], ["mean", "buffer", [2], [1]], ["bias", "parameter", [2], [1]]], "then buffers"),
    ([["weight", "maskable", [2], [1]], ["weight", "parameter", [2], [1]]], "two tensors have the same name"),
    ([["weight", "maskable", [2, 3], [1, 1]]], "weight: its elements overlap or have gaps"),
    ([["weight", "maskable", [2, 3], [6, 2]]], "weight: its elements overlap or have gaps"),
]


@pytest.mark.parametrize("specification, words", SPECIFICATIONS)
def test_an_invalid_specification_is_refused(specification, words):
    with pytest.raises(ValueError, match=words):
        Layout.from_specification(specification)
