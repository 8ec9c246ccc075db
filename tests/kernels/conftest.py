"""Tests of the compiled kernels skip where there are none."""

from collections.abc import Iterator

import pytest
import torch

from flash_pl.kernels.library import Library, library


@pytest.fixture
def native() -> Iterator[Library]:
    """The compiled kernels; the instruction set and the number of threads are put back."""
    found = library()
    if found is None:
        pytest.skip("flash_pl was installed without its compiled kernels")
    isa, threads = found.isa, torch.get_num_threads()
    yield found
    found.use(isa)
    torch.set_num_threads(threads)
