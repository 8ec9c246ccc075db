"""The first numbers of a permutation are those of torch.randperm, and so is the generator's state."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.sparsity.permutation import first_of_permutation


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_first_of_permutation_equals_the_start_of_randperm(n, share, seed):
    ours, reference = (torch.Generator().manual_seed(seed) for _ in range(2))
    k = round(share**3 * n)  # small in most cases
    assert torch.equal(first_of_permutation(n, k, ours), torch.randperm(n, generator=reference)[:k])
    assert torch.equal(ours.get_state(), reference.get_state())
