"""Hostile and damaged files: each refused in one line that names file and tensor."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES
from steelyard.weights.header import Header, read_header

FILE = "model-00001-of-00002.safetensors"


def read(image: bytes) -> Header:
    return read_header(lambda begin, end: image[begin:end], len(image), FILE)


def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def deep(depth: int) -> bytes:
    return b'{"w":' + b"[" * depth + b"]" * depth + b"}"


HOSTILE: dict[str, tuple[bytes, list[str]]] = {
    "empty file": (b"", ["too short", "download"]),
    "seven bytes": (b"\x01" * 7, ["too short"]),
    "length beyond the limit": (struct.pack("<Q", 100_000_001) + b"{}", ["100,000,001", "limit"]),
    "length of all ones": (b"\xff" * 64, ["limit"]),
    "length beyond the file": (file({}, length=3), ["truncated inside its header", "download"]),
    "empty header": (file(b""), ["does not start"]),
    "leading space": (file(b" {}"), ["does not start"]),
    "not JSON": (file(b"{]"), ["not valid JSON"]),
    "text after the JSON": (file(b"{}x"), ["not valid JSON"]),
    "not UTF-8": (file(b'{"\xff": 1}'), ["UTF-8"]),
    "lone surrogate": (file(b'{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), ["UTF-8"]),
    "an array": (file(b"[]"), ["does not start"]),
    "too deep": (file(deep(200_000)), ["too deep"]),
    "number too long": (
        file(b'{"w":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
        ["not valid JSON"],
    ),
    "NaN": (file(b'{"w":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'), ["NaN"]),
    "name twice": (
        file(b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],'
             b'"data_offsets":[0,1]}}', b"x"),
        ["'w' twice"],
    ),
    "field twice": (
        file(b'{"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"), ["'dtype' twice"]
    ),
    "entry not an object": (file({"w": 3}), ["'w'", "exactly"]),
    "field missing": (file({"w": {"dtype": "U8", "shape": [0]}}), ["'w'", "exactly"]),
    "field unknown": (file({"w": {**entry(), "stride": 1}}, b"ab"), ["'w'", "exactly"]),
    "dtype unknown": (file({"w": entry("F5")}, b"ab"), ["'w'", "'F5'", "known: BOOL"]),
    "dtype a number": (file({"w": entry(8)}, b"ab"), ["'w'", "unknown dtype"]),
    "shape not a list": (file({"w": entry(shape="2")}, b"ab"), ["'w'", "shape"]),
    "negative size": (file({"w": entry(shape=[-1, -2])}, b"ab"), ["'w'", "shape"]),
    "fractional size": (file({"w": entry(shape=[2.0])}, b"ab"), ["'w'", "shape"]),
    "true as a size": (file({"w": entry(shape=[True, 2])}, b"ab"), ["'w'", "shape"]),
    "65 dimensions": (file({"w": entry(shape=[1] * 64 + [2])}, b"ab"), ["'w'", "65 dimensions"]),
    "beyond memory": (file({"w": entry(shape=[2**62, 4])}, b"ab"), ["'w'", "addressed"]),
    "beyond memory but empty": (file({"w": entry(shape=[2**62, 4, 0], offsets=[0, 0])}), ["addressed"]),
    "three offsets": (file({"w": entry(offsets=[0, 1, 2])}, b"ab"), ["'w'", "data_offsets"]),
    "negative offset": (file({"w": entry(offsets=[-2, 0])}, b"ab"), ["'w'", "data_offsets"]),
    "offsets reversed": (file({"w": entry(offsets=[2, 0])}, b"ab"), ["'w'", "before it begins"]),
    "shape at odds with the bytes": (
        file({"w": entry("F32", [2], [0, 4])}, b"abcd"), ["'w'", "8 bytes", "data_offsets give it 4"]
    ),
    "half a byte": (file({"w": entry("F4", [3], [0, 2])}, b"ab"), ["'w'", "12 bits"]),
    "hole at the start": (file({"w": entry(offsets=[1, 3])}, b"abc"), ["'w'", "hole after the header"]),
    "hole between": (
        file({"v": entry(), "w": entry(offsets=[3, 5])}, b"abcde"), ["'w'", "hole after tensor 'v'"]
    ),
    "overlap": (file({"v": entry(), "w": entry(offsets=[1, 3])}, b"abc"), ["'w'", "overlaps tensor 'v'"]),
    "the same bytes twice": (file({"v": entry(), "w": entry()}, b"ab"), ["'w'", "overlaps tensor 'v'"]),
    "truncated data": (file({"v": entry(), "w": entry(offsets=[2, 4])}, b"abc"), ["'w'", "truncated", "1 bytes"]),
    "truncated before the last tensors": (
        file({"v": entry(), "w": entry(offsets=[2, 4])}, b"a"), ["'v'", "truncated", "3 bytes"]
    ),
    "bytes after the data": (file({"w": entry()}, b"abc"), ["1 bytes follow"]),
    "metadata not strings": (file({"__metadata__": {"n": 1}}), ["__metadata__"]),
    "metadata not an object": (file({"__metadata__": "pt"}), ["__metadata__"]),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case: str) -> None:
    image, said = HOSTILE[case]
    with pytest.raises(UserError) as caught:
        read(image)
    message = str(caught.value)
    assert message.startswith(FILE) and "\n" not in message and len(message) < 1000
    for part in said:
        assert part in message


def test_a_hostile_name_stays_on_one_line() -> None:
    name = "w\n" * 10_000
    with pytest.raises(UserError) as caught:
        read(file({name: entry(offsets=[2, 0])}, b"ab"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_accepted() -> None:
    image = file(b'{"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[],"data_offsets":[3,7]},'
                 b'"e":{"dtype":"F64","shape":[0,5],"data_offsets":[3,3]},'
                 b'"f":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}}  \n ', b"abcdefg")  # fmt: skip
    header = read(image)
    assert header.metadata == {"format": "pt"}
    assert list(header.tensors) == ["f", "e", "s"]
    scalar = header.tensors["s"]
    assert (scalar.shape, scalar.nbytes, image[scalar.begin : scalar.end]) == ((), 4, b"defg")


def test_a_header_longer_than_the_first_read() -> None:
    count = 3000
    fields = {f"layer.{k}": entry(offsets=[2 * k, 2 * k + 2]) for k in range(count)}
    image = file(fields, b"ab" * count)
    reads: list[tuple[int, int]] = []

    def counted(begin: int, end: int) -> bytes:
        reads.append((begin, end))
        return image[begin:end]

    header = read_header(counted, len(image), FILE)
    assert len(header.tensors) == count
    assert len(reads) == 2 and reads[0][1] == reads[1][0]  # nothing is fetched twice


# Valid files, then damaged: by bytes, and by values of the header.
small = st.integers(-1, 9)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F4", "BF16", "F32", "F6_E2M3", "f32"]),
        "shape": st.lists(small, max_size=3),
        "data_offsets": st.lists(small, min_size=2, max_size=2).map(sorted),
    }
)


def agrees_with_the_reference(image: bytes) -> None:
    """Whatever we accept, the reference accepts, and reads as we do."""
    try:
        header = read(image)
    except UserError:
        return
    reference = dict(safetensors.deserialize(image))
    assert reference.keys() == header.tensors.keys()
    for name, info in header.tensors.items():
        assert reference[name]["dtype"] == info.dtype
        assert tuple(reference[name]["shape"]) == info.shape
        assert bytes(reference[name]["data"]) == image[info.begin : info.end]


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), entries, max_size=3), st.integers(0, 12))
def test_never_laxer_than_the_reference_on_values(fields: dict[str, Any], nbytes: int) -> None:
    agrees_with_the_reference(file(fields, b"x" * nbytes))


VALID = file(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [1, 2], [0, 8]),
        "b": entry("BF16", [3], [8, 14]),
        "c": entry("F4", [4], [14, 16]),
    },
    bytes(range(16)),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_never_laxer_than_the_reference_on_bytes(changes: list[tuple[int, int]]) -> None:
    image = bytearray(VALID)
    for place, value in changes:
        image[place] = value
    agrees_with_the_reference(bytes(image))


@pytest.mark.parametrize("size", range(len(VALID)))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"download|save"):
        read(VALID[:size])


def test_every_type_round_trips_through_its_numpy_type() -> None:
    for dtype in DTYPES.values():
        if dtype.numpy is not None:
            assert dtype.numpy.itemsize * 8 == dtype.bits
            assert dtype.nbytes((3, 5)) == 15 * dtype.numpy.itemsize
