"""Packing loses no bit. The store returns the last mask of each client, shares equal masks, and saves no history."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_pl.sparsity import MaskStore, pack_bits, unpack_bits
from flash_pl.sparsity.mask_store import pack_bits_on_device, unpack_bits_on_device

SIZE = 11
puts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**SIZE - 1) | st.integers(0, 2)), max_size=40)


@given(st.lists(st.booleans(), max_size=70))
def test_packing_loses_nothing(flags):
    mask = torch.tensor(flags, dtype=torch.bool)
    bits = pack_bits(mask)
    assert bits.dtype == torch.uint8 and len(bits) == -(-len(flags) // 8)
    assert torch.equal(unpack_bits(bits, len(flags)), mask)
    assert torch.equal(pack_bits_on_device(mask), bits)  # the paths of a GPU, here on the CPU
    assert torch.equal(unpack_bits_on_device(bits, len(flags)), mask)


def mask_of(number):
    return torch.tensor([bool(number >> place & 1) for place in range(SIZE)])


def test_the_checksum_is_that_of_the_stored_masks():
    """Whatever was stored before, and in any order."""
    first, second = MaskStore(), MaskStore()
    for client, number in ((0, 5), (1, 5), (0, 9), (2, 1), (2, 9)):
        first.put(client, mask_of(number))
    for client, number in ((2, 9), (1, 5), (0, 9)):
        second.put(client, mask_of(number))
    assert first.compared_state() == second.compared_state()
    loaded = MaskStore()
    loaded.load_state_dict(first.state_dict())
    assert loaded.compared_state() == first.compared_state()
    second.put(0, mask_of(5))
    second.put(1, mask_of(9))  # the same masks, of other clients
    assert second.compared_state() != first.compared_state()
    assert MaskStore().compared_state() != first.compared_state()


def equal(a, b):
    return a["of"] == b["of"] and torch.equal(a["masks"], b["masks"]) and a["size"] == b["size"]


@given(puts)
def test_the_store_is_a_dictionary_that_shares_equal_masks(pairs):
    store, expected = MaskStore(), {}
    for client, number in pairs:
        store.put(client, mask_of(number))
        expected[client] = number
    assert len(store) == len(expected) and store.nbytes == 2 * len(set(expected.values()))
    for client in range(6):
        mask = store.get(client)
        assert (client in store) == (client in expected) == (mask is not None)
        assert mask is None or torch.equal(mask, mask_of(expected[client]))
    fresh = MaskStore()
    for client in reversed(sorted(expected)):
        fresh.put(client, mask_of(expected[client]))
    loaded = MaskStore()
    loaded.load_state_dict(store.state_dict())
    assert equal(store.state_dict(), fresh.state_dict())
    assert equal(store.state_dict(), loaded.state_dict())


def test_a_loaded_store_does_not_keep_the_tensor_of_the_state():
    store, loaded = MaskStore(), MaskStore()
    store.put(0, mask_of(5))
    state = store.state_dict()
    loaded.load_state_dict(state)
    state["masks"].zero_()
    assert torch.equal(loaded.get(0), mask_of(5))
