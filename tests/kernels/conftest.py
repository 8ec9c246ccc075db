"""The compiled kernels, for tests that call them directly."""

from collections.abc import Iterator

import pytest
import torch

from flash_pl.kernels.library import Library, library


@pytest.fixture
def native() -> Iterator[Library]:
    """Return the compiled kernels; restore the instruction set and the number of threads afterward."""
    native = library()
    assert native is not None  # tests that ask for this fixture are skipped without kernels
    isa, threads = native.isa, torch.get_num_threads()
    yield native
    native.use(isa)
    torch.set_num_threads(threads)
