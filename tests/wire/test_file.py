"""A .flash file comes back as it was, needs nothing else, and whatever is done to it never breaks its reader."""

import json
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_pl.errors import ConfigError, PayloadError
from flash_pl.seeding import generator
from flash_pl.sparsity import SparseModel
from flash_pl.wire import MaskKind, decode_flash, encode_flash, load_flash
from flash_pl.wire.codec import VERSION as CODEC_VERSION

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 40), "one.weight": (1, 1)}


def model(density: float, seed: int = 1) -> SparseModel:
    draws = generator(seed, "model")
    masks = {name: torch.rand(shape, generator=draws) < density for name, shape in SHAPES.items()}
    tensors = {name: torch.randn(mask.shape, generator=draws) * mask for name, mask in masks.items()}
    tensors["conv.weight"] = tensors["conv.weight"].to(memory_format=torch.channels_last)
    tensors |= {"größe": torch.tensor(2.5), "fc.bias": torch.randn(5, generator=draws), "none": torch.empty(0, 3)}
    tensors |= {"bn.num_batches_tracked": torch.tensor(7), "double": torch.ones(2, dtype=torch.float64)}
    return SparseModel(tensors, masks, {"method": "jmwst", "note": "ü\n[red]"})


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@given(st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_models_come_back_exactly(density, seed, compress):
    sent = model(density, seed)
    data = encode_flash(sent, compress=compress)
    found = decode_flash(data)
    assert same(found.model.tensors, sent.tensors) and same(found.model.masks, sent.masks)
    assert found.model.facts == sent.facts and found.values == "fp32" and found.size == len(data)
    assert all(tensor.is_contiguous() for tensor in found.model.tensors.values())
    assert found.sizes.values == 4 * sent.active
    layers = found.layer_bytes()
    assert found.sizes.kind in (MaskKind.POSITIONS, MaskKind.BITMAP) or not layers
    assert not layers or sum(layers.values()) == found.sizes.mask
    assert encode_flash(sent, compress=compress) == data


def test_a_path_gives_a_state_dict(tmp_path):
    (tmp_path / "model.flash").write_bytes(encode_flash(model(0.3)))
    assert same(load_flash(tmp_path / "model.flash"), model(0.3).tensors)


@pytest.mark.parametrize("values, worst", [("fp16", 2**-11), ("bf16", 2**-8)])
def test_short_values_round_the_active_weights_only(values, worst):
    sent = model(0.5)
    found = decode_flash(encode_flash(sent, values)).model.tensors
    for name, tensor in sent.tensors.items():
        exact = name not in sent.masks
        torch.testing.assert_close(found[name], tensor, rtol=0 if exact else worst, atol=0 if exact else 1e-6)


def test_a_weight_that_a_short_type_cannot_hold_is_refused():
    sent = model(1.0)
    sent.tensors["fc.weight"][0, 0] = 70000.0
    with pytest.raises(ConfigError, match="the largest weight, 70000"):
        encode_flash(sent, "fp16")
    assert float(decode_flash(encode_flash(sent, "bf16")).model.tensors["fc.weight"][0, 0]) == 70144.0
    with pytest.raises(ConfigError, match="values: 'int8'"):
        encode_flash(sent, "int8")


@pytest.mark.parametrize("masked", [True, False])
def test_a_tensor_of_more_dimensions_than_can_be_read_is_refused(masked):
    sent = model(0.3)
    sent.tensors["deep"] = torch.ones([1] * 9)
    if masked:
        sent.masks["deep"] = torch.ones([1] * 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"deep: a tensor \(1, 1, 1, 1, 1, 1, 1, 1, 1\) of torch.float32 cannot"):
        encode_flash(sent)


def forged(header: object, payload: bytes = b"", tail: bytes = b"\0") -> bytes:
    """A file with a fitting checksum around any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = text + payload + tail
    return b"FLPM\2\0\0\0" + len(text).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


GOOD = {"layers": [["fc", [2, 2]]], "rest": [], "payload": 0, "facts": {}}
# What of the header is replaced, a part of the message.
HEADERS = [
    (b"{", "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (b'{"\\ud800": 1}', "no JSON"),
    ([], "other keys"),
    ({}, "other keys"),
    (GOOD | {"more": 1}, "other keys"),
    (GOOD | {"layers": 5}, "no list"),
    (GOOD | {"layers": []}, "has maskable tensors"),
    (GOOD | {"layers": [["fc"]]}, "a name and a shape"),
    (GOOD | {"layers": [[5, [2]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [-1]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [True]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [2.0]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [1] * 9]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [2**31 + 1]]]}, "at most 2147483648 are allowed"),
    (GOOD | {"layers": [["fc", [2**62, 2**62, 0]]]}, "at most 2147483648 are allowed"),
    (GOOD | {"rest": [["x", [2**16, 2**16]]]}, "at most 2147483648 are allowed"),
    (GOOD | {"rest": [["fc", [1]]]}, "two tensors of one name"),
    (GOOD | {"payload": "0"}, "no integer"),
    (GOOD | {"payload": -1}, "wanted"),
    (GOOD | {"payload": 10**30}, "wanted"),
    (GOOD | {"facts": {"a": 1}}, "names and texts"),
    (GOOD, "4 bytes wanted"),
]


@pytest.mark.parametrize("header, expected", HEADERS)
def test_a_header_that_cannot_be_is_named(header, expected):
    with pytest.raises(PayloadError, match=expected):
        decode_flash(forged(header))


def test_a_small_file_of_a_huge_model_meets_the_limit_before_any_memory():
    huge = forged(GOOD | {"layers": [["fc", [2**20, 2**10]]]})
    with pytest.raises(PayloadError, match="at most 1000 are allowed"):
        decode_flash(huge, limit=1000)
    data = encode_flash(model(0.1))
    with pytest.raises(PayloadError, match="at most 300"):
        decode_flash(data, limit=300)


def test_a_seed_is_no_mask_of_a_file(monkeypatch):
    """What it means depends on the version of torch."""
    section = (5).to_bytes(8, "little") + b"\2"  # two of the four weights
    body = b"\0" + bytes([len(section)]) + section + bytes(8) + b"\0"
    payload = b"FLPL" + bytes([CODEC_VERSION, 0, MaskKind.SEED, 0]) + zlib.crc32(body).to_bytes(4, "little") + body
    monkeypatch.setattr("flash_pl.wire.masks.random_k", lambda *arguments: pytest.fail("drawn before it was refused"))
    with pytest.raises(PayloadError, match="as a seed"):
        decode_flash(forged(GOOD | {"payload": len(payload)}, payload))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_bytes_of_any_kind_are_refused(data, begun):
    with pytest.raises(PayloadError):
        decode_flash(b"FLPM\1\0\0\0" + data if begun else data)


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 255), st.booleans(), st.booleans())
def test_a_changed_byte_is_noticed_and_never_breaks_the_reader(seed, place, byte, mend, compress):
    """``mend`` repairs the checksums, so that what comes behind them meets the change."""
    data = bytearray(encode_flash(model(0.3, seed), compress=compress))
    place %= len(data)
    changed = data[place] != byte
    data[place] = byte
    if mend:
        start = bytes(data).find(b"FLPL\1")
        if start > 0:
            length = json.loads(bytes(data[16:start]))["payload"] if place >= start else None
            if length:
                stop = start + length
                data[start + 8 : start + 12] = zlib.crc32(data[start + 12 : stop]).to_bytes(4, "little")
        data[12:16] = zlib.crc32(data[16:]).to_bytes(4, "little")
    try:
        found = decode_flash(bytes(data), limit=10**6)
    except PayloadError:
        return
    assert mend or not changed
    assert found.model.tensors.keys() >= found.model.masks.keys()


@given(st.integers(0, 10**6))
def test_a_torn_file_is_refused(place):
    data = encode_flash(model(0.3))
    with pytest.raises(PayloadError):
        decode_flash(data[: place % len(data)])
    with pytest.raises(PayloadError):
        decode_flash(data + b"\0")
