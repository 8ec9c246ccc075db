""".flash files decode to the same model, and end in a PayloadError if they are damaged or malicious."""

import json
import math
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_pl.errors import ConfigError, MessageError, PayloadError
from flash_pl.seeding import generator
from flash_pl.sparsity import SparseModel
from flash_pl.wire import MaskKind, decode_flash, encode_flash, load_flash
from flash_pl.wire.codec import VERSION as CODEC_VERSION
from flash_pl.wire.masks import encode_positions
from flash_pl.wire.reader import encode_varint

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 40), "one.weight": (1, 1)}


def model(density: float, seed: int = 1) -> SparseModel:
    draws = generator(seed, "model")
    masks = {name: torch.rand(shape, generator=draws) < density for name, shape in SHAPES.items()}
    tensors = {name: torch.randn(mask.shape, generator=draws) * mask for name, mask in masks.items()}
    tensors["conv.weight"] = tensors["conv.weight"].to(memory_format=torch.channels_last)
    tensors |= {"größe": torch.tensor(2.5), "fc.bias": torch.randn(5, generator=draws), "none": torch.empty(0, 3)}
    tensors |= {"bn.num_batches_tracked": torch.tensor(7), "double": torch.ones(2, dtype=torch.float64)}
    return SparseModel(tensors, masks, {"scheduler": "jmwst", "note": "ü\n[red]"})


def sent_payload(data: bytes) -> bytes:
    """The payload in a file."""
    stop = 16 + int.from_bytes(data[8:12], "little")
    return data[stop : stop + json.loads(data[16:stop])["payload"]]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@given(st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_models_come_back_exactly(density, seed, compress):
    sent = model(density, seed)
    data = encode_flash(sent, compress=compress)
    file = decode_flash(data)
    assert same(file.model.tensors, sent.tensors) and same(file.model.masks, sent.masks)
    assert file.model.facts == sent.facts and file.values == "fp32" and file.size == len(data)
    assert all(tensor.is_contiguous() for tensor in file.model.tensors.values())
    assert file.sizes.values == 4 * sent.active
    layers = [sparse.mask_bytes for sparse in file.masked.values()]
    if file.sizes.kind in (MaskKind.POSITIONS, MaskKind.BITMAP):
        assert sum(layers) == file.sizes.mask
    else:
        assert layers == [None] * len(layers)
    assert len(sent_payload(data)) == file.sizes.total
    assert encode_flash(sent, compress=compress) == data


def test_load_flash_returns_a_state_dict(tmp_path):
    (tmp_path / "model.flash").write_bytes(encode_flash(model(0.3)))
    assert same(load_flash(tmp_path / "model.flash"), model(0.3).tensors)


@pytest.mark.parametrize("values, error", [("fp16", 2**-11), ("bf16", 2**-8)])
def test_short_values_round_the_active_weights_only(values, error):
    sent = model(0.5)
    tensors = decode_flash(encode_flash(sent, values)).model.tensors
    for name, tensor in sent.tensors.items():
        exact = name not in sent.masks
        torch.testing.assert_close(tensors[name], tensor, rtol=0 if exact else error, atol=0 if exact else 1e-6)


def test_a_weight_too_large_for_the_type_is_refused():
    sent = model(1.0)
    sent.tensors["fc.weight"][0, 0] = 70000.0
    with pytest.raises(ConfigError, match="'fp16' .* 70000") as error:
        encode_flash(sent, "fp16")
    assert error.value.key == "values"
    assert float(decode_flash(encode_flash(sent, "bf16")).model.tensors["fc.weight"][0, 0]) == 70144.0
    with pytest.raises(ConfigError, match="'int8'") as error:
        encode_flash(sent, "int8")
    assert error.value.key == "values"


def test_masked_weights_of_float64_are_not_rounded_silently():
    mask = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"round fc.weight, which is of float64; export to .safetensors"):
        encode_flash(SparseModel({"fc.weight": torch.full((3,), 1 / 3, dtype=torch.float64)}, {"fc.weight": mask}, {}))


@pytest.mark.parametrize("masked", [True, False])
def test_a_tensor_with_too_many_dimensions_is_refused(masked):
    sent = model(0.3)
    sent.tensors["deep"] = torch.ones([1] * 9)
    if masked:
        sent.masks["deep"] = torch.ones([1] * 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"deep.: a tensor \(1, 1, 1, 1, 1, 1, 1, 1, 1\) of torch.float32 cannot"):
        encode_flash(sent)


def forged(header: object, payload: bytes = b"", tail: bytes = b"\0") -> bytes:
    """A file with a correct checksum and any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = text + payload + tail
    return b"FLPM\2\0\0\0" + len(text).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


GOOD = {"layers": [["fc", [2, 2]]], "rest": [], "payload": 0, "facts": {}}
# A header, and a part of the message.
HEADERS = [
    (b"{", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"\\ud800": 1}', "not JSON"),
    ([], "keys of the header"),
    ({}, "keys of the header"),
    (GOOD | {"more": 1}, "keys of the header"),
    (GOOD | {"layers": 5}, "not a list"),
    (GOOD | {"layers": []}, "no masked tensors"),
    (GOOD | {"layers": [["fc"]]}, "a name and a shape"),
    (GOOD | {"layers": [[5, [2]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [-1]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [True]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [2.0]]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [1] * 9]]}, "a name and a shape"),
    (GOOD | {"layers": [["fc", [2**48 + 1]]]}, "at most 281474976710656 are allowed"),
    (GOOD | {"layers": [["fc", [2**62, 2**62, 0]]]}, "at most 281474976710656 are allowed"),
    (GOOD | {"rest": [["x", [2**24, 2**24]]]}, "at most 281474976710656 are allowed"),
    (GOOD | {"rest": [["fc", [1]]]}, "two tensors"),
    (GOOD | {"payload": "0"}, "not an integer"),
    (GOOD | {"payload": -1}, "-1 bytes are needed"),
    (GOOD | {"payload": 10**30}, "bytes are needed"),
    (GOOD | {"facts": {"a": 1}}, "names and texts"),
    (GOOD, "4 bytes are needed"),
]


@pytest.mark.parametrize("header, expected", HEADERS)
def test_an_invalid_header_is_refused(header, expected):
    with pytest.raises(PayloadError, match=expected):
        decode_flash(forged(header))


def payload_of(kind: MaskKind, section: bytes, values: bytes = b"", values_type: int = 0) -> bytes:
    """A payload with a correct checksum."""
    body = b"\0" + encode_varint(len(section)) + section + values + b"\0"
    return b"FLPL" + bytes([CODEC_VERSION, values_type, kind, 0]) + zlib.crc32(body).to_bytes(4, "little") + body


def file_of(elements: int, *payload) -> bytes:
    """A file with one layer of so many weights."""
    data = payload_of(*payload)
    return forged(GOOD | {"layers": [["fc", [elements]]], "payload": len(data)}, data)


EMPTY = MaskKind.POSITIONS, b"\0"
BITMAP_OF_ZEROS = MaskKind.DEFLATED, zlib.compress(bytes(2**22), 9)


@pytest.mark.parametrize("elements, payload", [(2**28, EMPTY), (2**47, EMPTY), (2**25, BITMAP_OF_ZEROS)])
def test_a_small_file_of_a_huge_model_takes_little_memory(elements, payload):
    data = file_of(elements, *payload)
    tracemalloc.start()
    file = decode_flash(data, limit=math.inf)
    assert file.elements == file.masked["fc"].elements == elements and len(file.masked["fc"].positions) == 0
    with pytest.raises(PayloadError, match=f"{elements} elements.*limit={elements}"):
        decode_flash(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_the_default_limit_lets_honest_models_through():
    """The sparsest models that methods reach, with values of two bytes."""
    mask = torch.arange(10**7) % 10**4 == 0
    data = encode_flash(SparseModel({"fc": mask.float()}, {"fc": mask}, {}), "fp16")
    assert len(data) < 4000 and decode_flash(data).model.tensors["fc"].equal(mask.float())
    with pytest.raises(PayloadError, match="at most 1000 are allowed"):
        decode_flash(data, limit=1000)
    assert decode_flash(data, limit=10**7).elements == 10**7


BAD_PAYLOADS = {
    "a mask of another message": (MaskKind.REFERENCE, bytes(4)),
    "more weights than values": (MaskKind.BITMAP, b"\xff\xff", bytes(60)),
    "more positions than values": (MaskKind.POSITIONS, encode_positions(torch.ones(16, dtype=torch.bool), [16])),
    "a full mask without values": (MaskKind.SEED, bytes(8) + b"\x10"),
    "unused bits": (MaskKind.BITMAP, b"\0\1\1", bytes(12)),
    "a bitmap that is too short": (MaskKind.DEFLATED, zlib.compress(b"\0")),
    "a bitmap that is too long": (MaskKind.DEFLATED, zlib.compress(bytes(3))),
    "a bitmap that is cut off": (MaskKind.DEFLATED, zlib.compress(b"\1\2")[:-1]),
    "another kind": (6, b""),
    "an extra tensor": (MaskKind.BITMAP, b"\0\0", b"\1\1x\0\0\0\0\0\0"),
    "NaN": (MaskKind.BITMAP, b"\x80\0", b"\0\0\xc0\x7f"),
    "infinity": (MaskKind.BITMAP, b"\x80\0", b"\0\x7c", 1),
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_an_invalid_payload_is_refused(payload):
    assert decode_flash(file_of(16, MaskKind.BITMAP, b"\0\0")).model.active == 0
    with pytest.raises(PayloadError):
        decode_flash(file_of(16, *payload))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "fc.bias"])
def test_a_number_that_is_not_finite_is_refused(value, name):
    sent = model(1.0)
    sent.tensors[name].view(-1)[0] = value
    with pytest.raises(MessageError, match=name):
        encode_flash(sent)


def test_a_mask_as_a_seed_is_refused(monkeypatch):
    """The mask that a seed draws depends on the version of torch."""
    section = (5).to_bytes(8, "little") + b"\2"  # two of the four weights
    body = b"\0" + bytes([len(section)]) + section + bytes(8) + b"\0"
    payload = b"FLPL" + bytes([CODEC_VERSION, 0, MaskKind.SEED, 0]) + zlib.crc32(body).to_bytes(4, "little") + body
    monkeypatch.setattr("flash_pl.wire.masks.random_k", lambda *arguments: pytest.fail("drawn before it was refused"))
    with pytest.raises(PayloadError, match="seed"):
        decode_flash(forged(GOOD | {"payload": len(payload)}, payload))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(data, begun):
    with pytest.raises(PayloadError):
        decode_flash(b"FLPM\2\0\0\0" + data if begun else data)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 255), st.booleans(), st.booleans())
def test_a_changed_byte_is_noticed_and_never_breaks_the_reader(seed, place, byte, repair, compress):
    """``repair`` makes the checksums fit again, so that the code behind them reads the changed byte."""
    data = bytearray(encode_flash(model(0.3, seed), compress=compress))
    place %= len(data)
    changed = data[place] != byte
    data[place] = byte
    if repair:
        start = bytes(data).find(b"FLPL" + bytes([CODEC_VERSION]))
        if start > 0:
            length = json.loads(bytes(data[16:start]))["payload"] if place >= start else None
            if length:
                stop = start + length
                data[start + 8 : start + 12] = zlib.crc32(data[start + 12 : stop]).to_bytes(4, "little")
        data[12:16] = zlib.crc32(data[16:]).to_bytes(4, "little")
    try:
        file = decode_flash(bytes(data), limit=10**6)
    except PayloadError:
        return
    assert repair or not changed
    assert file.model.tensors.keys() >= file.model.masks.keys()


@given(st.integers(0, 10**6))
def test_an_incomplete_file_is_refused(place):
    data = encode_flash(model(0.3))
    with pytest.raises(PayloadError):
        decode_flash(data[: place % len(data)])
    with pytest.raises(PayloadError):
        decode_flash(data + b"\0")
