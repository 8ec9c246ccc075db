"""The sparse linear layer against float64 torch."""

import pytest
import torch
from torch.nn import functional as F

from flash_pl.kernels import Plan, SparsePattern, sparse_linear
from flash_pl.kernels.library import Library


@pytest.mark.parametrize("batch", [(1,), (7,), (16,), (32,), (33,), (65,), (3, 5), (), (0,)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_output_and_gradients_are_those_of_masked_dense_torch(
    native: Library, batch: tuple[int, ...], density: float
) -> None:
    torch.manual_seed(len(batch))
    x, weight, bias = torch.randn(*batch, 37), torch.randn(11, 37), torch.randn(11)
    mask = torch.rand(11, 37) < density
    dy = torch.randn(*batch, 11)
    for isa in native.isas():
        native.use(isa)
        ours = [each.clone().requires_grad_() for each in (x, weight, bias)]
        theirs = [each.double().requires_grad_() for each in (x, weight, bias)]
        y = sparse_linear(*ours, SparsePattern(mask))
        expected = F.linear(theirs[0], theirs[1] * mask, theirs[2])
        y.backward(dy)
        expected.backward(dy.double())
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        for a, b in zip(ours, theirs, strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-5)


def test_a_transposed_weight_gets_its_gradient_in_its_own_layout(native: Library) -> None:
    weight = torch.randn(5, 4).t().requires_grad_()
    sparse_linear(torch.randn(3, 5), weight, None, SparsePattern(torch.ones(4, 5, dtype=torch.bool))).sum().backward()
    assert weight.grad is not None and weight.grad.stride() == weight.stride()


def test_inputs_that_do_not_fit_are_one_line(native: Library) -> None:
    with pytest.raises(ValueError, match="4 inputs"):
        sparse_linear(torch.randn(2, 5), torch.randn(3, 4), None, SparsePattern(torch.ones(3, 4, dtype=torch.bool)))


@pytest.mark.parametrize("shape", [(3, 0), (0, 4)])
def test_a_weight_without_elements_is_one_line(native: Library, shape: tuple[int, int]) -> None:
    pattern = SparsePattern(torch.ones(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="no elements"):
        sparse_linear(torch.randn(2, shape[1]), torch.randn(shape), None, pattern)


def test_inputs_beyond_the_kernels_offsets_are_one_line(native: Library) -> None:
    inputs = 1 << 16
    pattern = SparsePattern(torch.ones(1, inputs, dtype=torch.bool))
    with pytest.raises(ValueError, match="32 bits"):
        sparse_linear(torch.randn(1, inputs), torch.randn(1, inputs), None, pattern, Plan(lanes=1 << 15))
