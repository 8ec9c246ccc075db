"""Which layers are for the kernels, and what happens without them."""

import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flash_pl.errors import ConfigError
from flash_pl.kernels import (
    SparsePattern,
    available,
    computes,
    library,
    reaches,
    sparse_conv2d,
    sparse_linear,
    worthwhile,
)
from flash_pl.kernels import conv as conv_file
from flash_pl.kernels import linear as linear_file
from flash_pl.kernels.library import ISAS, VARIABLE, Library, warn_missing

IMAGES = torch.randn(2, 4, 6, 6)


@pytest.mark.parametrize(
    ("module", "supported"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(4, 4, 3, dilation=2), False),
        (nn.Conv2d(4, 4, 3, padding="same"), False),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), False),
        (nn.Linear(6, 2), True),
        (nn.MaxPool2d(3, 1), True),
        (nn.MaxPool2d(3, 1, ceil_mode=True), False),
        (nn.MaxPool2d(16, 1), False),
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4, affine=False), False),
        (nn.ReLU(), False),
    ],
)
def test_layers_that_the_kernels_compute(module: nn.Module, supported: bool) -> None:
    assert computes(module) is supported


def test_inputs_that_the_kernels_read() -> None:
    assert reaches(IMAGES) and not reaches(IMAGES.double()) and not reaches(IMAGES.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not reaches(IMAGES)


def test_dense_masks_and_small_layers_are_left_to_torch() -> None:
    assert worthwhile(torch.Size([64, 64, 3, 3]), 0.05, 32) and not worthwhile(torch.Size([64, 64, 3, 3]), 1.0, 32)
    assert worthwhile(torch.Size([50, 5120]), 0.05, 32) and not worthwhile(torch.Size([50, 5120]), 0.05, 1)
    assert not worthwhile(torch.Size([10, 50]), 0.05, 32) and worthwhile(torch.Size([10, 1, 5, 5]), 1.0, 32)


def test_an_unknown_instruction_set_is_refused(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(native.isas()) <= set(ISAS) and "baseline" in native.isas()
    before = native.isa
    assert not native.use("mmx") and native.isa == before
    monkeypatch.setenv(VARIABLE, "mmx")
    library.library.cache_clear()
    with pytest.raises(ConfigError, match="FLASH_PL_ISA"):
        library.library()
    monkeypatch.undo()
    library.library.cache_clear()


def test_a_library_of_other_sources_is_not_used(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "INTERFACE", -1)
    library.library.cache_clear()
    assert not library.available()
    monkeypatch.undo()
    library.library.cache_clear()


def test_without_the_library_torch_takes_over_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_file, "available", lambda: False)
    monkeypatch.setattr(linear_file, "available", lambda: False)
    warn_missing.cache_clear()
    mask = torch.rand(3, 4, 3, 3) < 0.5
    weight = torch.randn(3, 4, 3, 3, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="compiler"):
        y = sparse_conv2d(IMAGES, weight, None, SparsePattern(mask), padding=1)
    torch.testing.assert_close(y, F.conv2d(IMAGES, weight * mask, padding=1))
    y.sum().backward()
    assert weight.grad is not None and not weight.grad[~mask].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat, wide = torch.rand(2, 6) < 0.5, torch.randn(2, 6)
        torch.testing.assert_close(
            sparse_linear(IMAGES, wide, None, SparsePattern(flat)), F.linear(IMAGES, wide * flat)
        )


def test_with_a_compiler_the_kernels_are_here():
    """Else the tests of this folder would skip without a word where building them has failed."""
    assert available() or not any(map(shutil.which, ("cc", "gcc", "clang")))
