"""Sparse convolutions and linear layers against float64 torch with masked weights, for all instruction sets."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels import (
    Normalization,
    Sink,
    SparsePattern,
    available,
    deferred,
    moments,
    sparse_conv2d,
    sparse_linear,
)
from flash_pl.kernels.geometry import Pair
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import Library
from flash_pl.kernels.norm import RELU, RELU6


@dataclass
class Case:
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor
    stride: Pair
    padding: Pair
    groups: int
    dy: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [each for each in (self.x, self.weight, self.bias) if each is not None]

    def grads(self) -> list[Tensor]:
        grads = []
        for leaf in self.leaves:
            assert leaf.grad is not None
            grads.append(leaf.grad)
            leaf.grad = None
        return grads

    def sparse(self) -> list[Tensor]:
        """Return output and gradients of the kernels."""
        geometry = self.stride, self.padding, self.groups
        y = sparse_conv2d(self.x, self.weight, self.bias, SparsePattern(self.mask), *geometry)
        y.backward(self.dy)
        return [y.detach(), *self.grads()]

    def dense(self) -> list[Tensor]:
        """Return the same from torch in float64; the gradient of the weight is masked."""
        leaves = [each.detach().double().requires_grad_() for each in self.leaves]
        bias = leaves[2] if self.bias is not None else None
        y = F.conv2d(leaves[0], leaves[1] * self.mask, bias, self.stride, self.padding, groups=self.groups)
        y.backward(self.dy.double())
        return [y.detach(), *(each.grad for each in leaves if each.grad is not None)]


def random_case(seed: int) -> Case:
    draw, rng = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, groups = draw.choice([1, 2, 3, 5, 12, 16, 17, 32, 33, 48, 65]), draw.choice([1, 1, 1, 2, 3])
    inputs, outputs = draw.randint(1, 6), draw.randint(1, 9)
    kernel, stride, padding = (
        (draw.randint(1, top), draw.randint(1, top)) if bottom else (draw.randint(0, top), draw.randint(0, top))
        for bottom, top in ((1, 5), (1, 3), (0, 4))
    )
    side = [draw.randint(max(1, k - 2 * p), 19) for k, p in zip(kernel, padding, strict=True)]
    x = torch.randn(batch, groups * inputs, *side, generator=rng)
    weight = torch.randn(groups * outputs, inputs, *kernel, generator=rng)
    mask = torch.rand(weight.shape, generator=rng) < draw.choice([0.0, 0.05, 0.3, 1.0])
    if draw.random() < 0.3:
        x = x.to(memory_format=torch.channels_last)
    elif draw.random() < 0.5:
        x = draw.choice([batch_innermost(x), x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)])
    elif draw.random() < 0.3:
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    if draw.random() < 0.5:
        weight = weight.to(memory_format=torch.channels_last)
    bias = torch.randn(groups * outputs, generator=rng).requires_grad_() if draw.random() < 0.5 else None
    shape = F.conv2d(x, weight, None, stride, padding, groups=groups).shape
    dy = torch.randn(shape, generator=rng)
    return Case(x.requires_grad_(), weight.requires_grad_(), bias, mask, stride, padding, groups, dy)


@pytest.mark.parametrize("seed", range(200))
def test_output_and_gradients_equal_masked_dense_torch(native: Library, seed: int) -> None:
    case = random_case(seed)
    assert native.use(native.isas()[seed % len(native.isas())])
    expected, results = case.dense(), case.sparse()
    for result, reference in zip(results, expected, strict=True):
        assert (result - reference).abs().max() <= 3e-6 * (1 + reference.abs().max())
    assert not results[2][~case.mask].any()
    assert results[2].stride() == case.weight.stride()


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(4, 4, 1, (28, 28)), (3, 3, 1, (6, 6)), (3, 3, 1, (12, 12)), (3, 4, 1, (28, 28)), (2, 2, 0, (4, 17))],
)
def test_padding_is_zero_if_strides_skip_pixels(native, kernel, stride, padding, side, batch):
    """As many pixels are skipped as there are padding places, which still hold values of the previous convolution."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, *side, generator=rng, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, generator=rng, requires_grad=True)
    shape = F.conv2d(x, weight, None, stride, padding).shape
    dy, mask = torch.randn(shape, generator=rng), torch.rand(weight.shape, generator=rng) < 0.5
    case = Case(x, weight, None, mask, (stride, stride), (padding, padding), 1, dy)
    for isa in native.isas():
        native.use(isa)
        random_case(7).sparse()
        for result, reference in zip(case.sparse(), case.dense(), strict=True):
            assert (result - reference).abs().max() <= 2e-6 * (1 + reference.abs().max())


@pytest.mark.parametrize("seed", range(0, 40, 3))
@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(native: Library, seed: int, threads: int) -> None:
    case = random_case(seed)
    torch.set_num_threads(1)
    single = case.sparse()
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(single, case.sparse(), strict=True))


def test_inactive_weights_count_as_zero(native: Library) -> None:
    case = random_case(4)
    expected = case.sparse()[0]
    with torch.no_grad():
        case.weight[~case.mask] = float("nan")
    assert torch.equal(case.sparse()[0], expected)


def test_gradients_equal_finite_differences(native: Library) -> None:
    torch.manual_seed(0)
    x, weight, mask = torch.randn(2, 2, 5, 4), torch.randn(3, 2, 3, 2), torch.rand(3, 2, 3, 2) < 0.5
    pattern, dy, h = SparsePattern(mask), torch.randn(2, 3, 3, 2), 1e-2
    x.requires_grad_()
    weight.requires_grad_()
    sparse_conv2d(x, weight, None, pattern, (2, 2), (1, 0)).backward(dy)

    def loss(dx: Tensor, dw: Tensor) -> float:
        with torch.no_grad():
            return float((sparse_conv2d(x + dx, weight + dw, None, pattern, (2, 2), (1, 0)).double() * dy).sum())

    for leaf, first in ((x, True), (weight, False)):
        assert leaf.grad is not None
        for at in range(leaf.numel()):
            step = torch.zeros(leaf.numel()).index_fill_(0, torch.tensor(at), h).view(leaf.shape)
            zero = torch.zeros(())
            ahead, behind = (loss(s, zero) if first else loss(zero, s) for s in (step, -step))
            assert (ahead - behind) / (2 * h) == pytest.approx(leaf.grad.flatten()[at].item(), abs=2e-3)


def test_only_requested_gradients_are_computed(native: Library) -> None:
    case = random_case(8)
    full = case.sparse()
    case.x.requires_grad_(False)
    y = sparse_conv2d(case.x, case.weight, case.bias, SparsePattern(case.mask), case.stride, case.padding, case.groups)
    y.backward(case.dy)
    assert case.weight.grad is not None and torch.equal(case.weight.grad, full[2])
    assert case.x.grad is None


def second_derivatives(compute: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The gradients of a loss, and those of their squared norm."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    first = torch.autograd.grad(compute(*leaves).pow(3).sum(), leaves, create_graph=True)
    return [*first, *torch.autograd.grad(sum(value.square().sum() for value in first), leaves)]


@pytest.mark.parametrize("every", [False, True], ids=["active", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_second_derivatives_equal_torchs(native: Library, seed: int, every: bool) -> None:
    case = random_case(seed)
    mask, stride, padding, groups = case.mask, case.stride, case.padding, case.groups
    weight, pattern = (case.weight * mask if every else case.weight).detach(), SparsePattern(mask)

    def sparse(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.tanh().to(memory_format=torch.channels_last)
        return sparse_conv2d(x, weight, bias, pattern, stride, padding, groups, all_gradients=lambda: every)

    def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x.tanh(), weight if every else weight * mask, bias, stride, padding, groups=groups)

    inputs = case.x.detach(), weight, torch.randn(len(weight))
    for value, expected in zip(second_derivatives(sparse, *inputs), second_derivatives(dense, *inputs), strict=True):
        assert (value - expected).norm() <= 1e-4 * expected.norm() + 1e-6


def test_second_derivatives_of_a_linear_layer_equal_torchs(native: Library) -> None:
    mask = torch.rand(5, 6) < 0.4
    inputs = torch.randn(7, 6), torch.randn(5, 6)
    pattern = SparsePattern(mask)
    found = second_derivatives(lambda x, weight: sparse_linear(x, weight, None, pattern), *inputs)
    expected = second_derivatives(lambda x, weight: F.linear(x, weight * mask), *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_autocast_does_not_change_the_result(native: Library) -> None:
    case = random_case(5)
    plain = case.sparse()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.sparse()[0], plain)


def test_an_empty_batch_has_an_empty_output(native: Library) -> None:
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    y = sparse_conv2d(torch.randn(0, 2, 5, 5), weight, None, SparsePattern(torch.ones(3, 2, 3, 3, dtype=torch.bool)))
    y.sum().backward()
    assert y.shape == (0, 3, 3, 3) and weight.grad is not None and not weight.grad.any()


@pytest.mark.parametrize(
    ("x", "weight", "words"),
    [
        (torch.randn(1, 2, 4, 4).double(), torch.randn(3, 2, 3, 3), "float64"),
        (torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 2), "pattern"),
        (torch.randn(1, 3, 4, 4), torch.randn(3, 2, 3, 3), "images"),
        (torch.randn(1, 2, 2, 4), torch.randn(3, 2, 3, 3), "no output"),
    ],
)
def test_unsupported_convolutions_are_refused(native: Library, x: Tensor, weight: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sparse_conv2d(x, weight, None, SparsePattern(torch.ones(3, 2, 3, 3, dtype=torch.bool)))


@pytest.mark.parametrize("batch", [(1,), (7,), (16,), (32,), (33,), (65,), (3, 5), (), (0,)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_linear_output_and_gradients_equal_masked_dense_torch(
    native: Library, batch: tuple[int, ...], density: float
) -> None:
    torch.manual_seed(len(batch))
    x, weight, bias = torch.randn(*batch, 37), torch.randn(11, 37), torch.randn(11)
    mask = torch.rand(11, 37) < density
    dy = torch.randn(*batch, 11)
    for isa in native.isas():
        native.use(isa)
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
        references = [each.double().requires_grad_() for each in (x, weight, bias)]
        y = sparse_linear(*leaves, SparsePattern(mask))
        expected = F.linear(references[0], references[1] * mask, references[2])
        y.backward(dy)
        expected.backward(dy.double())
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        for a, b in zip(leaves, references, strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_transposed_weight_has_its_strides(native: Library) -> None:
    weight = torch.randn(5, 4).t().requires_grad_()
    sparse_linear(torch.randn(3, 5), weight, None, SparsePattern(torch.ones(4, 5, dtype=torch.bool))).sum().backward()
    assert weight.grad is not None and weight.grad.stride() == weight.stride()


def test_inputs_that_do_not_fit_are_refused(native: Library) -> None:
    with pytest.raises(ValueError, match="4 inputs"):
        sparse_linear(torch.randn(2, 5), torch.randn(3, 4), None, SparsePattern(torch.ones(3, 4, dtype=torch.bool)))


@pytest.mark.parametrize("shape", [(3, 0), (0, 4)])
def test_a_weight_without_elements_is_refused(native: Library, shape: tuple[int, int]) -> None:
    pattern = SparsePattern(torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="no elements"):
        sparse_linear(torch.randn(2, shape[1]), torch.randn(shape), None, pattern)


def normalized(case: Case, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """The convolution of a clamped normalization, whose values are never stored, and the same by torch in float64."""
    limits = (RELU, RELU6)[seed % 2]
    channels = case.x.shape[1]
    leaves = [case.x, case.weight, torch.rand(channels) + 0.5, torch.randn(channels)]
    leaves = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in leaves]
    x, weight, gamma, beta = leaves
    deferred_norm = deferred(Normalization(x, gamma, beta, *moments(x)))
    activated = F.relu(deferred_norm) if limits is RELU else F.relu6(deferred_norm)
    y = sparse_conv2d(activated, weight, None, SparsePattern(case.mask), case.stride, case.padding, case.groups)
    y.backward(case.dy)
    references = [each.detach().double().requires_grad_() for each in leaves]
    x, weight, gamma, beta = references
    norm = F.batch_norm(x, None, None, gamma, beta, training=True)
    activated = norm.relu() if limits is RELU else F.relu6(norm)
    expected = F.conv2d(activated, weight * case.mask, None, case.stride, case.padding, groups=case.groups)
    expected.backward(case.dy.double())
    return [y, *(each.grad for each in leaves)], [expected, *(each.grad for each in references)]


# Cases are drawn with the kernels' own functions; without kernels there are none, and pytest skips the test.
WITH_VARIANCE = [seed for seed in range(60) if available() and random_case(seed).x[:, 0].numel() > 1]


@pytest.mark.parametrize("seed", WITH_VARIANCE)
def test_a_normalization_is_computed_while_the_convolution_reads_it(native: Library, seed: int) -> None:
    case = random_case(seed)
    native.use(native.isas()[seed % len(native.isas())])
    assert case.x.numel() > case.x.shape[1], "no variance"
    case.x = batch_innermost(case.x.detach())
    for result, reference in zip(*normalized(case, seed), strict=True):
        assert result is not None and reference is not None
        assert (result - reference).abs().max() <= 2e-5 * (1 + reference.abs().max())


def test_the_gradient_goes_to_the_sink(native: Library) -> None:
    case, sink = random_case(3), Sink()
    expected = case.sparse()[2]
    pattern = SparsePattern(case.mask)
    for _ in range(2):  # a layer may be used twice
        y = sparse_conv2d(case.x, case.weight, case.bias, pattern, case.stride, case.padding, case.groups, sink)
        y.backward(case.dy)
    gradient = torch.zeros_like(case.weight)
    sink.add_to_(gradient)
    assert case.weight.grad is None
    torch.testing.assert_close(gradient, 2 * expected)
