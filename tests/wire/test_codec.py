"""Payloads come back as they were, say how long they are, and never break a receiver."""

import tracemalloc
import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.seeding import generator
from flash_pl.sparsity import ExactDraw, Layout
from flash_pl.wire import Codec, MaskKind, Message, Reader, decode_mask, encode_mask, rice
from flash_pl.wire.codec import HEADER, decode_extra
from flash_pl.wire.header import number
from flash_pl.wire.masks import _draw, _drawn, positions

MODEL = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(7, 5), nn.Linear(5, 1, bias=False))
LAYOUT = Layout(MODEL)
WORDS = st.sampled_from(["reference", "delta", "seed", "none"])


def random_mask(density: float, seed: int):
    return torch.rand(LAYOUT.maskable, generator=generator(seed, "mask")) < density


def message(density: float, seed: int, samples: int = 0, extra=None) -> Message:
    mask, draws = random_mask(density, seed), generator(seed, "weights")
    weights = torch.zeros(LAYOUT.size)
    for slot in LAYOUT.slots:
        slot.view(weights).normal_(generator=draws)
    weights[: LAYOUT.maskable] *= mask
    return Message(weights, mask, samples, extra or {})


def same(one: Message, other: Message) -> bool:
    extra = one.extra.keys() == other.extra.keys() and all(
        torch.equal(one.extra[k], other.extra[k]) and one.extra[k].dtype == other.extra[k].dtype for k in one.extra
    )
    return extra and torch.equal(one.weights, other.weights) and torch.equal(one.mask, other.mask)


@given(st.floats(0, 1), st.integers(0, 99), st.sampled_from([None, 0.0, 0.1, 1.0]), st.booleans())
def test_messages_come_back_exactly(density, seed, other, compress):
    codec, sent = Codec(LAYOUT, compress=compress), message(density, seed, samples=seed)
    reference = None if other is None else sent.mask ^ random_mask(other, seed + 1)
    payload = codec.encode(sent, reference)
    found = codec.decode(payload.data, reference)
    assert same(sent, found) and found.samples == seed
    assert payload.sizes.total == len(payload.data) and payload.sizes == codec.measure(sent, reference)
    assert payload.sizes.values == 4 * int(sent.mask.sum())
    assert payload.sizes.rest == 4 * (LAYOUT.elements - LAYOUT.maskable) + 1


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_nothing_and_everything(density):
    codec, sent = Codec(LAYOUT), message(density, 1)
    assert same(sent, codec.decode(codec.encode(sent).data))


def test_the_shortest_section_is_chosen():
    codec, sent = Codec(LAYOUT, compress=True), message(0.1, 1)
    drawn = ExactDraw()(
        LAYOUT, torch.zeros(LAYOUT.size), torch.full((3,), 0.3, dtype=torch.float64), torch.Generator().manual_seed(77)
    )
    nothing, everything = torch.zeros(LAYOUT.size), torch.ones(LAYOUT.maskable, dtype=torch.bool)
    assert codec.encode(sent, reference=sent.mask.clone()).sizes.kind is MaskKind.REFERENCE
    assert codec.encode(Message(nothing, drawn), seed=77).sizes.kind is MaskKind.SEED
    assert codec.encode(Message(nothing, everything)).sizes.kind is MaskKind.SEED
    assert codec.encode(Message(nothing, drawn), seed=78).sizes.kind is not MaskKind.SEED


def test_long_masks_prefer_positions_deltas_and_bitmaps():
    model = nn.Linear(1000, 50, bias=False)
    layout = Layout(model)
    codec, squeezing = Codec(layout), Codec(layout, compress=True)
    sparse = torch.rand(layout.maskable, generator=generator(1, "mask")) < 0.05
    half = torch.rand(layout.maskable, generator=generator(2, "mask")) < 0.5
    moved = sparse.clone()
    moved[:40] ^= True
    regular = torch.arange(layout.maskable) % 2 == 0
    cases = [(codec, sparse, None, MaskKind.POSITIONS), (codec, half, None, MaskKind.BITMAP)]
    cases += [(codec, moved, sparse, MaskKind.DELTA), (squeezing, regular, None, MaskKind.DEFLATED)]
    for coder, mask, reference, kind in cases:
        payload = coder.encode(Message(torch.zeros(layout.size), mask), reference)
        assert payload.sizes.kind is kind
        assert torch.equal(coder.decode(payload.data, reference).mask, mask)


@pytest.mark.parametrize("values, worst", [("fp16", 2**-11), ("bf16", 2**-8)])
def test_short_values_round_the_active_weights_only(values, worst):
    codec, sent = Codec(LAYOUT, values), message(0.5, 3)
    payload = codec.encode(sent)
    found = codec.decode(payload.data)
    assert payload.sizes.values == 2 * int(sent.mask.sum())
    torch.testing.assert_close(found.weights[: LAYOUT.maskable], sent.weights[: LAYOUT.maskable], rtol=worst, atol=1e-6)
    assert torch.equal(found.weights[LAYOUT.maskable :], sent.weights[LAYOUT.maskable :])


def test_values_that_are_not_numbers_arrive_too():
    sent = message(1.0, 1)
    sent.weights[:3] = torch.tensor([float("nan"), float("inf"), -0.0])
    found = Codec(LAYOUT).decode(Codec(LAYOUT).encode(sent).data)
    assert torch.equal(found.weights.view(torch.int32), sent.weights.view(torch.int32))


def test_a_schedulers_tensors_arrive_too():
    extra = {
        "scores": torch.randn(3, 2, dtype=torch.float64),
        "votes": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "größe": torch.tensor(7),
    }
    sent = message(0.3, 1, extra=extra)
    assert same(sent, Codec(LAYOUT).decode(Codec(LAYOUT).encode(sent).data))
    with pytest.raises(ValueError, match="complex64"):
        Codec(LAYOUT).encode(message(0.3, 1, extra={"odd": torch.zeros(2, dtype=torch.complex64)}))


def test_another_reference_another_layout_and_another_type_are_named():
    codec, sent = Codec(LAYOUT), message(0.3, 1)
    data = codec.encode(sent, sent.mask).data
    for reference in (None, ~sent.mask):
        with pytest.raises(PayloadError, match="does not have"):
            codec.decode(data, reference)
    with pytest.raises(PayloadError):
        Codec(Layout(nn.Linear(3, 3))).decode(codec.encode(sent).data)
    with pytest.raises(ConfigError, match="values: 'int8'"):
        Codec(LAYOUT, "int8")


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused(data):
    with pytest.raises(PayloadError):
        Codec(LAYOUT).decode(data)


@settings(max_examples=500)
@given(st.integers(0, 9), WORDS, st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_changed_byte_is_noticed_and_never_breaks_the_receiver(seed, kind, place, byte, mend):
    """``mend`` repairs the checksum, so that what comes behind it meets the change."""
    codec, sent = Codec(LAYOUT, compress=True), message(0.3, seed)
    reference = {"reference": sent.mask, "delta": sent.mask ^ random_mask(0.05, seed)}.get(kind)
    data = bytearray(codec.encode(sent, reference).data)
    place %= len(data)
    changed = data[place] != byte
    data[place] = byte
    if mend:
        data[8:12] = zlib.crc32(data[12:]).to_bytes(4, "little")
    try:
        found = codec.decode(bytes(data), reference)
    except PayloadError:
        return
    assert mend or not changed
    assert found.weights.shape == (LAYOUT.size,) and found.mask.shape == (LAYOUT.maskable,)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(LAYOUT.maskable,), (3, 4 * LAYOUT.maskable), (0,), ()])
def test_truth_values_take_at_most_a_bit_each(density, shape):
    values = torch.rand(shape, generator=generator(0, "truth")) < density
    codec, message = Codec(LAYOUT), Message(torch.zeros(LAYOUT.size), torch.ones(LAYOUT.maskable, dtype=torch.bool))
    plain = codec.encode(message).sizes.rest
    payload = codec.encode(replace(message, extra={"x": values}))
    assert payload.sizes == codec.measure(replace(message, extra={"x": values}))
    assert torch.equal(codec.decode(payload.data).extra["x"], values)
    limit = values.numel() / 8 if density in (0.5, 1.0) or len(shape) > 1 else 0.03 * values.numel()
    assert payload.sizes.rest - plain <= limit + 24


def test_truth_values_that_would_fill_the_memory_are_refused():
    """A few bytes cannot stand for more positions than the layout has."""
    section = positions(torch.zeros(1, dtype=torch.bool), [1])
    head = b"\1" + b"\1x" + bytes([7]) + number(1) + number(2**40) + bytes([MaskKind.POSITIONS])
    with pytest.raises(PayloadError, match="truth values cannot be written"):
        decode_extra(Reader(head + number(len(section)) + section), maskable=LAYOUT.maskable)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_a_seed_without_the_values_of_its_weights_is_refused_before_it_is_followed(density, monkeypatch):
    codec, nothing = Codec(LAYOUT), torch.zeros(LAYOUT.size)
    mask = torch.ones(LAYOUT.maskable, dtype=torch.bool)
    if density < 1:
        mask = _draw(7, codec.sizes, [size // 2 for size in codec.sizes])
    payload = codec.encode(Message(nothing, mask), seed=7)
    assert payload.sizes.kind is MaskKind.SEED and same(codec.decode(payload.data), Message(nothing, mask))
    monkeypatch.setattr("flash_pl.wire.masks._draw", lambda *arguments: pytest.fail("drawn before it was refused"))
    body = payload.data[HEADER : payload.sizes.header + payload.sizes.mask] + bytes(4 * int(mask.sum()) - 1)
    with pytest.raises(PayloadError, match="active weights, and values of"):
        codec.decode(payload.data[:8] + zlib.crc32(body).to_bytes(4, "little") + body)


def test_a_mask_that_a_sender_draws_is_not_kept():
    section = (3).to_bytes(8, "little") + number(2)
    before = _drawn.cache_info()
    decode_mask(MaskKind.SEED, Reader(section), [9])
    assert _drawn.cache_info() == before


@pytest.mark.parametrize("sizes", [[0], [8], [20, 4]])
def test_a_compressed_bitmap_is_never_longer_than_the_mask(sizes):
    """Two megabytes of zeros in two kilobytes, also where nothing can be masked."""
    section = Reader(zlib.compress(bytes(2**21), 9))
    tracemalloc.start()
    with pytest.raises(PayloadError, match="of another length"):
        decode_mask(MaskKind.DEFLATED, section, sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_shape_that_nobody_can_count_is_refused():
    """Seven sizes of 2^40 and one of 0: no bytes, and more elements than an integer of torch holds without the 0."""
    reader = Reader(b"\1" + b"\1x" + b"\0" + number(8) + number(2**40) * 7 + number(0))
    with pytest.raises(PayloadError, match="'x': a shape"):
        decode_extra(reader)


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    st.sampled_from([None, 0.0, 0.01, 1.0]),
    st.integers(0, 99),
    st.booleans(),
)
def test_masks_of_layers_of_any_size_come_back(sizes, density, moved, seed, compress):
    draws = generator(seed, "mask")
    mask = torch.rand(sum(sizes), generator=draws) < density
    reference = None if moved is None else mask ^ (torch.rand(len(mask), generator=draws) < moved)
    kind, section = encode_mask(mask, sizes, reference, None, compress)
    reader = Reader(section)
    assert torch.equal(decode_mask(kind, reader, sizes, reference), mask)
    reader.end()
    if kind != MaskKind.REFERENCE and not compress and not mask.all():  # nothing shorter was passed over
        ways = {MaskKind.POSITIONS: len(positions(mask, sizes)), MaskKind.BITMAP: -(-len(mask) // 8)}
        if reference is not None:
            ways[MaskKind.DELTA] = 4 + len(positions(mask ^ reference, sizes))
        assert (kind, len(section)) == min(ways.items(), key=lambda way: way[1])  # the first of equals


@given(st.integers(1, 5000), st.floats(0, 1), st.integers(0, 99))
def test_no_positions_are_shorter_than_their_least(size, density, seed):
    mask = torch.rand(size, generator=generator(seed, "mask")) < density
    count = int(mask.count_nonzero())
    assert rice.least(count, size) <= len(positions(mask, [size]))


def test_of_sections_of_one_length_the_first_way_is_taken():
    mask = torch.arange(28) == 0
    assert len(positions(mask, [28])) == 4 == -(-28 // 8)
    assert encode_mask(mask, [28])[0] is MaskKind.POSITIONS
