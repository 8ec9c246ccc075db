"""A store gives back what was put there last, keeps equal masks once, and saves the same whatever came before."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.sparsity import MaskStore

SIZE = 11
puts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**SIZE - 1) | st.integers(0, 2)), max_size=40)


def mask_of(number):
    return torch.tensor([bool(number >> place & 1) for place in range(SIZE)])


def same(one, other):
    return one["of"] == other["of"] and torch.equal(one["masks"], other["masks"]) and one["size"] == other["size"]


@given(puts)
def test_it_is_a_dictionary_that_shares(pairs):
    store, expected = MaskStore(), {}
    for client, number in pairs:
        store.put(client, mask_of(number))
        expected[client] = number
    assert len(store) == len(expected) and store.nbytes == 2 * len(set(expected.values()))
    for client in range(6):
        found = store.get(client)
        assert (client in store) == (client in expected) == (found is not None)
        assert found is None or torch.equal(found, mask_of(expected[client]))
    fresh = MaskStore()
    for client in reversed(sorted(expected)):
        fresh.put(client, mask_of(expected[client]))
    again = MaskStore()
    again.load_state_dict(store.state_dict())
    assert same(store.state_dict(), fresh.state_dict()) if expected else not len(fresh)
    assert same(store.state_dict(), again.state_dict()) if expected else not len(again)
