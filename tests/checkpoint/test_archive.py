"""Archives of torch.save come back as they were; those that would fill the memory are refused before they are read."""

import collections
import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_pl.archive import _PLAIN, load_archive
from flash_pl.checkpoint import DIGEST, _digest, read_checkpoint
from flash_pl.errors import ConfigError
from flash_pl.plain_pickle import load_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda values: st.lists(values) | st.dictionaries(st.text() | st.integers(), values) | st.tuples(values, values),
    max_leaves=30,
)


def saved(value) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file)
    return file


def entries(file: io.BytesIO) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, content in parts.items():
            out.writestr(name, content)
    return file


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        bits = [x.contiguous().view(-1).view(torch.uint8) if x.numel() else x for x in (a, b)]
        return a.dtype == b.dtype and a.stride() == b.stride() and a.shape == b.shape and torch.equal(*bits)
    return a == b


@settings(max_examples=200)
@given(PLAIN, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_back(value, protocol):
    assert same(load_pickle(pickle.dumps(value, protocol), _PLAIN), value)
    assert same(load_archive(saved(value)), value)


def test_what_torch_reads_comes_back():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    arena = torch.arange(100.0)
    value = {
        "state_dict": network.state_dict(),
        "parameter": network[0].weight,
        "views": [arena[3:7], arena.view(10, 10).t(), arena[::2], arena[:0]],
        "expanded": torch.zeros(1).expand(1000),
        "numbers": [torch.tensor(3), torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.complex64)],
        "short": [torch.arange(5).to(torch.uint16), torch.ones(3).to(torch.float8_e4m3fn), torch.tensor([True, False])],
        "generator": torch.get_rng_state(),
        "plain": [{1, 2, (3, 4)}, b"\xff", bytearray(b"\xff"), 1 + 2j, torch.Size([2, 3]), torch.float16],
        "more": [torch.device("cpu"), collections.Counter("abca"), collections.OrderedDict(a=1)],
    }
    back, expected = load_archive(saved(value)), torch.load(saved_at_start(value), weights_only=True)
    assert same(back, expected) and back["state_dict"]._metadata == network.state_dict()._metadata
    back["views"][0].fill_(-1)  # views of one storage stay views of one storage
    assert float(back["views"][2][2]) == -1


def saved_at_start(value) -> io.BytesIO:
    file = saved(value)
    file.seek(0)
    return file


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


def doubled(times: int) -> bytes:
    """A tuple of two equal tuples of two equal tuples ..."""
    return b")" + b"q\0h\0\x86" * times


HOSTILE = {
    "a function": pickle.dumps(print, 2),
    "a tuple that doubles 60 times": pickled(doubled(60)),
    "such a tuple as a key": pickled(b"}", doubled(60), b"Ns"),
    "a list that doubles 60 times": pickled(b"]" + b"q\0]h\0ah\0a" * 60),
    "lists that are filled after they were used": pickled(
        b"".join(b"]q" + bytes([i]) for i in range(61)),
        b"".join(b"h" + bytes([i]) + b"(h" + bytes([i + 1]) + b"h" + bytes([i + 1]) + b"e" for i in range(60)),
        b"h\0",
    ),
    "a list in itself": pickled(b"]q\0h\0a"),
    "deep lists": pickled(b"]" * 10_000, b"a" * 9_999),
    "deep tuples as a key": pickled(b"}", b")", b"\x85" * 100_000, b"Ns"),
    "a large integer": pickled(b"\x8a\x80" + b"\1" * 128),
    "a huge index of the memo": pickled(b"N", b"r\xff\xff\xff\x7f" * 2, b"0"),
    "a huge byte array": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "a huge byte array by its length": pickled(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"),
    "a call of what it made": pickled(b"N)R"),
    "a state of a list": pickled(b"]}b"),
    "no end": b"\x80\x02N",
    "no value": pickled(),
    "a mark too much": pickled(b"(N"),
    "an unhashable key": pickled(b"}]Ns"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(data):
    parts = entries(saved(3)) | {"archive/data.pkl": data}
    with pytest.raises(ValueError):
        load_archive(archive(parts))


def tensor(*opcodes: str | int, count: int = 4, dtype: str = "Float", rebuild: str = "_rebuild_tensor_v2") -> bytes:
    """The pickle of a tensor on storage 0, given its offset, shape and stride."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", STORAGES[dtype], "0", "cpu", count) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            return getattr(torch._utils, rebuild), (Storage(), *opcodes, False, collections.OrderedDict())

    file = io.BytesIO()
    Pickler(file, 2).dump(Tensor())
    return file.getvalue()


STORAGES = {"Float": torch.FloatStorage, "Bool": torch.BoolStorage, "QInt8": torch.QInt8Storage}


@pytest.mark.parametrize(
    "data",
    [
        tensor(0, (5,), (1,)),
        tensor(1, (4,), (1,)),
        tensor(0, (2**40,), (0,)),
        tensor(0, (2**40, 2**40), (0, 0)),
        tensor(0, (2**62, 0), (1, 1)),
        tensor(0, (2,), (2**62,)),
        tensor(-1, (1,), (1,)),
        tensor(0, (-1,), (1,)),
        tensor(0, (2, 2), (2,)),
        tensor(0, (1,), (1,), count=2**40),
        tensor(0, (16,), (1,), count=16, dtype="QInt8"),
        tensor(0, (16,), (1,), count=16, dtype="Bool"),
    ],
)
def test_tensors_outside_of_their_storage_are_refused(data):
    parts = entries(saved(torch.full((4,), 0.3))) | {"archive/data.pkl": data}
    with pytest.raises(ValueError):
        load_archive(archive(parts))


def test_many_names_for_one_tensor_are_refused():
    one = torch.zeros(1 << 20)
    assert len(load_archive(saved([one, one]))) == 2
    for many in ([one] * 1000, [one.view(2, -1) for _ in range(1000)]):
        with pytest.raises(ValueError):
            load_archive(saved(many))


def test_compressed_doubled_and_foreign_archives_are_refused():
    parts = entries(saved(torch.zeros(1000)))
    assert load_archive(archive(parts)).shape == (1000,)
    with pytest.raises(ValueError, match="compressed"):
        load_archive(archive(parts, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError):
        load_archive(archive({name: content for name, content in parts.items() if "data.pkl" not in name}))
    with pytest.raises(ValueError):
        load_archive(archive(parts | {"archive/byteorder": b"big"}))
    with pytest.raises(ValueError):
        load_archive(archive({name: content for name, content in parts.items() if name != "archive/data/0"}))
    data = bytearray(archive(parts).getvalue())
    start = data.index(b"PK\1\2")
    data[start + 20 : start + 28] = (10**9).to_bytes(4, "little") * 2  # compressed and uncompressed length of an entry
    with pytest.raises(ValueError, match="overlap"):
        load_archive(io.BytesIO(data))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_changed_bytes_end_in_a_value_or_a_refusal(place, patch):
    parts = entries(saved({"a": torch.ones(3), "b": [1, "x", (2.0, None)], "c": torch.nn.Linear(2, 2).state_dict()}))
    data = bytearray(parts["archive/data.pkl"])
    place %= len(data)
    data[place : place + len(patch)] = patch
    try:
        load_archive(archive(parts | {"archive/data.pkl": bytes(data)}))
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("own", [None, [], {"schema": "8"}])
def test_a_checkpoint_with_a_digest_that_fits_is_still_checked(own, tmp_path):
    content = saved({"flash_pl": own}).getvalue()[:-2]
    (tmp_path / "a.ckpt").write_bytes(content + DIGEST.to_bytes(2, "little") + _digest(content))
    with pytest.raises(ConfigError) as error:
        read_checkpoint(tmp_path / "a.ckpt")
    assert error.value.key == "ckpt_path" and "\n" not in str(error.value)


def test_bytes_that_are_made_again_and_again_are_counted():
    """A reference to a text and a call take three bytes of the pickle, and make as many bytes as the text has."""
    text, calls = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000 + b"q\x00", 50_000
    call = b"c_codecs\nencode\nq\x02(h\x00X\x06\x00\x00\x00latin1tq\x01"
    pickled = b"\x80\x02](" + text + call + b"h\x02h\x01R" * calls + b"e."
    with pytest.raises(ValueError, match="too often"):
        load_pickle(pickled, {"_codecs encode": lambda text, encoding: text.encode(encoding)})
