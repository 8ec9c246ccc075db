"""Loading the compiled kernels, choosing an instruction set, and computing without them."""

import shutil
import warnings

import pytest
import torch
from torch.nn import functional as F

from flash_pl.errors import ConfigError
from flash_pl.kernels import SparsePattern, available, sparse_conv2d, sparse_linear
from flash_pl.kernels import conv as conv_file
from flash_pl.kernels import library as library_file
from flash_pl.kernels.library import ISA_VARIABLE, ISAS, Library, warn_missing

IMAGES = torch.randn(2, 4, 6, 6)


def test_an_unknown_instruction_set_is_refused(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(native.isas()) <= set(ISAS) and "baseline" in native.isas()
    isa = native.isa
    assert not native.use("mmx") and native.isa == isa
    monkeypatch.setenv(ISA_VARIABLE, "mmx")
    library_file.library.cache_clear()
    with pytest.raises(ConfigError, match="mmx.*baseline") as error:
        library_file.library()
    assert error.value.key == "FLASH_PL_ISA"
    monkeypatch.undo()
    library_file.library.cache_clear()


def test_a_library_compiled_from_other_sources_is_not_used(native: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_file, "INTERFACE", -1)
    library_file.library.cache_clear()
    assert not library_file.available()
    monkeypatch.undo()
    library_file.library.cache_clear()


def test_without_the_library_torch_computes_and_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_file, "available", lambda: False)
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


def test_with_a_compiler_the_kernels_are_installed():
    """If the build failed, the other tests of this folder would skip silently."""
    assert available() or not any(map(shutil.which, ("cc", "gcc", "clang")))
