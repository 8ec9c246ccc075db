"""Tests of the compiled kernels skip if the kernels are not installed."""

from collections.abc import Iterator

import pytest
import torch

from flash_pl.kernels.library import Library, library


@pytest.fixture
def native() -> Iterator[Library]:
    """Return the compiled kernels; restore the instruction set and the number of threads afterward."""
    native = library()
    if native is None:
        pytest.skip("there was no compiler when flash_pl was installed")
    isa, threads = native.isa, torch.get_num_threads()
    yield native
    native.use(isa)
    torch.set_num_threads(threads)
