"""Payloads decode to the same message, report their sizes, and end in a PayloadError if they are damaged."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flash_pl.errors import ConfigError, MessageError, PayloadError
from flash_pl.seeding import generator
from flash_pl.sparsity import ExactDraw, Layout
from flash_pl.wire import VALUE_TYPES, Codec, MaskKind, Message, Reader
from flash_pl.wire.codec import HEADER_SIZE
from flash_pl.wire.extra import decode_extra
from flash_pl.wire.masks import _draw, encode_positions
from flash_pl.wire.reader import encode_varint

MODEL = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(7, 5), nn.Linear(5, 1, bias=False))
LAYOUT = Layout(MODEL)
REFERENCES = st.sampled_from(["the same mask", "a similar mask", "none"])


def random_mask(density: float, seed: int):
    return torch.rand(LAYOUT.maskable, generator=generator(seed, "mask")) < density


def message(density: float, seed: int, samples: int = 0, extra=None) -> Message:
    mask, draws = random_mask(density, seed), generator(seed, "weights")
    weights = torch.zeros(LAYOUT.size)
    for slot in LAYOUT.slots:
        slot.view(weights).normal_(generator=draws)
    weights[: LAYOUT.maskable] *= mask
    return Message(weights, mask, samples, extra or {})


def same(a: Message, b: Message) -> bool:
    extra = a.extra.keys() == b.extra.keys() and all(
        torch.equal(a.extra[name], b.extra[name]) and a.extra[name].dtype == b.extra[name].dtype for name in a.extra
    )
    return extra and torch.equal(a.weights, b.weights) and torch.equal(a.mask, b.mask)


@given(st.floats(0, 1), st.integers(0, 99), st.sampled_from([None, 0.0, 0.1, 1.0]), st.booleans())
def test_messages_come_back_exactly(density, seed, changed, compress):
    codec, sent = Codec(LAYOUT, compress=compress), message(density, seed, samples=seed)
    reference = None if changed is None else sent.mask ^ random_mask(changed, seed + 1)
    payload = codec.encode(sent, reference)
    received = codec.decode(payload.data, reference)
    assert same(sent, received) and received.samples == seed
    assert payload.sizes.total == len(payload.data) and payload.sizes == codec.measure(sent, reference)
    assert payload.sizes.values == 4 * int(sent.mask.sum())
    assert payload.sizes.rest == 4 * (LAYOUT.elements - LAYOUT.maskable) + 1


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_empty_and_full_masks_come_back(density):
    codec, sent = Codec(LAYOUT), message(density, 1)
    assert same(sent, codec.decode(codec.encode(sent).data))


def test_the_shortest_section_is_chosen():
    codec, sent = Codec(LAYOUT, compress=True), message(0.1, 1)
    drawn = ExactDraw()(
        LAYOUT, torch.zeros(LAYOUT.size), torch.full((3,), 0.3, dtype=torch.float64), torch.Generator().manual_seed(77)
    )
    zeros, full = torch.zeros(LAYOUT.size), torch.ones(LAYOUT.maskable, dtype=torch.bool)
    assert codec.encode(sent, reference=sent.mask.clone()).sizes.kind is MaskKind.REFERENCE
    assert codec.encode(Message(zeros, drawn), seed=77).sizes.kind is MaskKind.SEED
    assert codec.encode(Message(zeros, full)).sizes.kind is MaskKind.SEED
    assert codec.encode(Message(zeros, drawn), seed=78).sizes.kind is not MaskKind.SEED


def test_long_masks_prefer_positions_deltas_and_bitmaps():
    model = nn.Linear(1000, 50, bias=False)
    layout = Layout(model)
    codec, compressing = Codec(layout), Codec(layout, compress=True)
    sparse = torch.rand(layout.maskable, generator=generator(1, "mask")) < 0.05
    half = torch.rand(layout.maskable, generator=generator(2, "mask")) < 0.5
    moved = sparse.clone()
    moved[:40] ^= True
    regular = torch.arange(layout.maskable) % 2 == 0
    cases = [(codec, sparse, None, MaskKind.POSITIONS), (codec, half, None, MaskKind.BITMAP)]
    cases += [(codec, moved, sparse, MaskKind.DELTA), (compressing, regular, None, MaskKind.DEFLATED)]
    for coder, mask, reference, kind in cases:
        payload = coder.encode(Message(torch.zeros(layout.size), mask), reference)
        assert payload.sizes.kind is kind
        assert torch.equal(coder.decode(payload.data, reference).mask, mask)


@pytest.mark.parametrize("values, error", [("fp16", 2**-11), ("bf16", 2**-8)])
def test_short_values_round_the_active_weights_only(values, error):
    codec, sent = Codec(LAYOUT, values), message(0.5, 3)
    payload = codec.encode(sent)
    received = codec.decode(payload.data)
    assert payload.sizes.values == 2 * int(sent.mask.sum())
    torch.testing.assert_close(
        received.weights[: LAYOUT.maskable], sent.weights[: LAYOUT.maskable], rtol=error, atol=1e-6
    )
    assert torch.equal(received.weights[LAYOUT.maskable :], sent.weights[LAYOUT.maskable :])


def test_negative_zero_comes_back():
    sent = message(1.0, 1)
    sent.weights[:3] = torch.tensor([0.0, -0.0, 1e-45])
    received = Codec(LAYOUT).decode(Codec(LAYOUT).encode(sent).data)
    assert torch.equal(received.weights.view(torch.int32), sent.weights.view(torch.int32))


NUMBERS = st.floats(width=64) | st.sampled_from([65504.0, 65519.0, 65520.0, 70000.0, 3.4e38, 3.39e38, 1e39, -7e4, 1e-8])


@settings(max_examples=300)
@given(st.lists(NUMBERS, min_size=1, max_size=9), st.sampled_from(list(VALUE_TYPES)), st.booleans(), st.integers(0, 99))
def test_a_payload_holds_the_numbers_that_were_given_or_names_one(numbers, values, double, seed):
    """The active weights are rounded to the type, all others to float32."""
    codec, sent = Codec(LAYOUT, values), message(0.5, seed)
    weights = sent.weights.double() if double else sent.weights
    places = torch.randperm(LAYOUT.elements, generator=generator(seed, "places"))[: len(numbers)]
    flat = torch.cat([slot.view(weights).reshape(-1) for slot in LAYOUT.slots])
    flat[places] = torch.tensor(numbers, dtype=torch.float64).to(flat.dtype)
    weights[: LAYOUT.maskable] = torch.where(sent.mask, flat[: LAYOUT.maskable], 0)
    LAYOUT.write_others_(weights, flat[LAYOUT.maskable :])
    before, expected = weights.clone(), weights.float().clone()
    expected[: LAYOUT.maskable] = expected[: LAYOUT.maskable].to(VALUE_TYPES[values]).float()
    try:
        payload = codec.encode(replace(sent, weights=weights))
    except MessageError as error:
        place = int((~expected.isfinite()).nonzero()[0])
        name = next(slot.name for slot in LAYOUT.slots if place < slot.stop)
        assert str(error).startswith(f"{name} has the value {float(before[place]):g}, which ")
        assert torch.equal(weights.nan_to_num(), before.nan_to_num())
        return
    assert expected.isfinite().all()
    assert torch.equal(codec.decode(payload.data).weights, expected)


@pytest.mark.parametrize("samples", [-1, 2**63, 1.0, "1", None, True])
def test_a_number_of_samples_that_is_none_is_refused(samples):
    codec, sent = Codec(LAYOUT), message(0.5, 1, samples=samples)
    for write in (codec.encode, codec.measure):
        with pytest.raises(MessageError):
            write(sent)


@pytest.mark.parametrize("samples", [0, 1, 2**63 - 1, np.int64(7)])
def test_other_numbers_of_samples_come_back(samples):
    codec = Codec(LAYOUT)
    assert codec.decode(codec.encode(message(0.5, 1, samples=samples)).data).samples == samples


EXTRA = {
    "dtype": {"x": torch.zeros(2, dtype=torch.complex64)},
    "short dtype": {"x": torch.zeros(2, dtype=torch.int8)},
    "sparse": {"x": torch.eye(3).to_sparse()},
    "meta": {"x": torch.empty(2, device="meta")},
    "dimensions": {"x": torch.zeros([1] * 9)},
    "size": {"x": torch.empty(2**41, 0)},
    "sizes": {"x": torch.empty(2**40, 2**22, 0)},
    "name": {"x" * 257: torch.zeros(1)},
    "surrogate": {"\ud800": torch.zeros(1)},
    "number": {str(i): torch.zeros(1) for i in range(65)},
}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_an_extra_tensor_that_cannot_be_sent_is_refused(extra):
    codec, sent = Codec(LAYOUT), message(0.5, 1, extra=extra)
    for write in (codec.encode, codec.measure):
        with pytest.raises(MessageError) as error:
            write(sent)
        str(error.value).encode()


@pytest.mark.parametrize("values", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("maskable", [True, False])
def test_a_number_of_another_sender_that_is_not_finite_is_refused(values, maskable):
    codec, sent = Codec(LAYOUT, values), message(1.0, 1)
    payload = codec.encode(sent)
    data, place = bytearray(payload.data), payload.sizes.header + payload.sizes.mask
    width = payload.sizes.values // LAYOUT.maskable
    if not maskable:
        place, width = place + payload.sizes.values, 4
    data[place : place + width] = b"\xff" * width  # NaN in all three types
    data[8:12] = zlib.crc32(data[12:]).to_bytes(4, "little")
    with pytest.raises(PayloadError, match=LAYOUT.slots[0].name if maskable else LAYOUT.others[0].name):
        codec.decode(bytes(data))


def test_the_tensors_of_a_scheduler_come_back():
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


def test_another_reference_layout_or_type_is_refused():
    codec, sent = Codec(LAYOUT), message(0.3, 1)
    data = codec.encode(sent, sent.mask).data
    for reference in (None, ~sent.mask):
        with pytest.raises(PayloadError, match="does not have"):
            codec.decode(data, reference)
    with pytest.raises(PayloadError):
        Codec(Layout(nn.Linear(3, 3))).decode(codec.encode(sent).data)
    with pytest.raises(ConfigError, match="'int8' .* fp32, fp16, bf16") as error:
        Codec(LAYOUT, "int8")
    assert error.value.key == "values"


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(PayloadError):
        Codec(LAYOUT).decode(data)


@settings(max_examples=500)
@given(st.integers(0, 9), REFERENCES, st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_changed_byte_is_noticed_and_never_breaks_the_receiver(seed, kind, place, byte, repair):
    """``repair`` makes the checksum fit again, so that the code behind it reads the changed byte."""
    codec, sent = Codec(LAYOUT, compress=True), message(0.3, seed)
    reference = {"the same mask": sent.mask, "a similar mask": sent.mask ^ random_mask(0.05, seed)}.get(kind)
    data = bytearray(codec.encode(sent, reference).data)
    place %= len(data)
    changed = data[place] != byte
    data[place] = byte
    if repair:
        data[8:12] = zlib.crc32(data[12:]).to_bytes(4, "little")
    try:
        received = codec.decode(bytes(data), reference)
    except PayloadError:
        return
    assert repair or not changed
    assert received.weights.shape == (LAYOUT.size,) and received.mask.shape == (LAYOUT.maskable,)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(LAYOUT.maskable,), (3, 4 * LAYOUT.maskable), (0,), ()])
def test_a_bool_takes_at_most_one_bit(density, shape):
    values = torch.rand(shape, generator=generator(0, "bools")) < density
    codec, message = Codec(LAYOUT), Message(torch.zeros(LAYOUT.size), torch.ones(LAYOUT.maskable, dtype=torch.bool))
    plain = codec.encode(message).sizes.rest
    payload = codec.encode(replace(message, extra={"x": values}))
    assert payload.sizes == codec.measure(replace(message, extra={"x": values}))
    assert torch.equal(codec.decode(payload.data).extra["x"], values)
    limit = values.numel() / 8 if density in (0.5, 1.0) or len(shape) > 1 else 0.03 * values.numel()
    assert payload.sizes.rest - plain <= limit + 24


def test_bools_that_would_fill_the_memory_are_refused():
    """A few bytes cannot stand for more positions than the layout has."""
    section = encode_positions(torch.zeros(1, dtype=torch.bool), [1])
    head = b"\1" + b"\1x" + bytes([7]) + encode_varint(1) + encode_varint(2**40) + bytes([MaskKind.POSITIONS])
    with pytest.raises(PayloadError, match=f"{2**40} bools"):
        decode_extra(Reader(head + encode_varint(len(section)) + section), max_bools=LAYOUT.maskable)


def test_a_shape_that_overflows_is_refused():
    """Seven sizes of 2^40 and one of 0 need no bytes, but torch multiplies the sizes in 64 bits."""
    reader = Reader(b"\1" + b"\1x" + b"\0" + encode_varint(8) + encode_varint(2**40) * 7 + encode_varint(0))
    with pytest.raises(PayloadError, match="'x': the shape"):
        decode_extra(reader)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_a_seed_of_more_weights_than_values_is_refused_before_it_is_drawn(density, monkeypatch):
    codec, zeros = Codec(LAYOUT), torch.zeros(LAYOUT.size)
    mask = torch.ones(LAYOUT.maskable, dtype=torch.bool)
    if density < 1:
        mask = _draw(7, codec.sizes, [size // 2 for size in codec.sizes])
    payload = codec.encode(Message(zeros, mask), seed=7)
    assert payload.sizes.kind is MaskKind.SEED and same(codec.decode(payload.data), Message(zeros, mask))
    monkeypatch.setattr("flash_pl.wire.masks._draw", lambda *arguments: pytest.fail("drawn before it was refused"))
    body = payload.data[HEADER_SIZE : payload.sizes.header + payload.sizes.mask] + bytes(4 * int(mask.sum()) - 1)
    with pytest.raises(PayloadError, match="active weights, but there are at most"):
        codec.decode(payload.data[:8] + zlib.crc32(body).to_bytes(4, "little") + body)
