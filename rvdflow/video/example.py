"""tf.train.Example messages, read and written without TensorFlow or protobuf.

In protobuf's wire format a message is a row of fields, each a tag (number << 3 | wire type) and a value:

    Example.1 = Features; Features.1 = entries {1: name, 2: Feature}
    Feature = one of {1: BytesList, 2: FloatList, 3: Int64List}, whose field 1 is the values

The context of a SequenceExample has the same bytes, so it is read too. What is no such message is a DataError that
names the byte.

Formats: tensorflow/core/example/{example,feature}.proto, https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from lbm.errors import DataError, UsageError

Feature = list[memoryview] | np.ndarray  # bytes, or float32 or int64 (k,)

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5  # wire types
BYTES, FLOATS, INTEGERS = 1, 2, 3  # fields of a Feature
# The wire types of their values; numbers come packed or one by one.
KINDS = {BYTES: (LENGTH,), FLOATS: (LENGTH,), INTEGERS: (LENGTH,)}
VALUES: dict[int, dict[int, tuple[int, ...]]] = {
    BYTES: {1: (LENGTH,)},
    FLOATS: {1: (LENGTH, FOUR)},
    INTEGERS: {1: (LENGTH, VARINT)},
}


class _Damage(Exception):
    """Bytes that are no Example: which byte, and what is wrong with it."""


def parse_example(data: bytes | memoryview, where: object = "example") -> dict[str, Feature]:
    """The features of an Example by name: bytes as list of memoryviews into `data`, numbers as float32 or int64 (k,).

    A feature without values is an empty list where it does not say of what. Unknown fields are skipped. DataError
    begins with `where` (a `Place`) and names the byte of `data`.
    """
    view = memoryview(data).cast("B")
    features: dict[str, Feature] = {}
    try:
        for _, at, stop in _fields(view, 0, len(view), {1: (LENGTH,)}):
            for _, begin, end in _fields(view, at, stop, {1: (LENGTH,)}):
                name, feature = _entry(view, begin, end)
                if name in features:
                    raise _Damage(begin, f"a second feature named {name!r}")
                features[name] = feature
    except _Damage as damage:
        at, what = damage.args
        raise DataError(f"{where}: no tf.train.Example: {what}, at byte {at} of its {len(view)}") from None
    return features


def _entry(view: memoryview, at: int, stop: int) -> tuple[str, Feature]:
    name, feature, seen = "", cast(Feature, []), set()
    for field, begin, end in _fields(view, at, stop, {1: (LENGTH,), 2: (LENGTH,)}):
        if field in seen:
            raise _Damage(begin, "a feature with two names or two values")
        seen.add(field)
        if field == 2:
            feature = _feature(view, begin, end)
            continue
        try:
            name = str(view[begin:end], "utf-8")
        except UnicodeDecodeError:
            raise _Damage(begin, "a name that is not UTF-8") from None
    return name, feature


def _feature(view: memoryview, at: int, stop: int) -> Feature:
    kind, spans = 0, []
    for found, begin, end in _fields(view, at, stop, KINDS):
        if kind not in (0, found):
            raise _Damage(begin, "a feature with values of two kinds")
        kind = found
        spans += [(a, b) for _, a, b in _fields(view, begin, end, VALUES[kind])]
    if kind == FLOATS:
        for a, b in spans:
            if (b - a) % 4:
                raise _Damage(a, f"{b - a} bytes of floats of 4 bytes each")
        return np.frombuffer(b"".join(view[a:b] for a, b in spans), "<f4").astype(np.float32)
    if kind == INTEGERS:
        integers = array("q")
        for a, b in spans:
            while a < b:
                value, a = _varint(view, a, b)
                integers.append(value - 2**64 if value >= 2**63 else value)
        return np.array(integers, dtype=np.int64)
    return [view[a:b] for a, b in spans]


def _fields(view: memoryview, at: int, stop: int, known: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, int, int]]:
    """The known fields of the message in bytes at..stop-1, and which bytes their values take; others are skipped."""
    while at < stop:
        begin = at
        tag, at = _varint(view, at, stop)
        field, wire = tag >> 3, tag & 7
        if not 0 < field < 2**29:
            raise _Damage(begin, f"a field of number {field}")
        if wire not in known.get(field, (VARINT, EIGHT, LENGTH, FOUR)):
            raise _Damage(begin, f"field {field} of wire type {wire}")
        if wire == VARINT:
            end = _varint(view, at, stop)[1]
        elif wire == LENGTH:
            size, at = _varint(view, at, stop)
            end = at + size
        else:
            end = at + (8 if wire == EIGHT else 4)
        if end > stop:
            raise _Damage(begin, f"a field of {end - at} bytes where {stop - at} are left")
        if field in known:
            yield field, at, end
        at = end


def _varint(view: memoryview, at: int, stop: int) -> tuple[int, int]:
    """The unsigned number that begins at byte `at`, seven bits a byte, lowest first; and the byte after it."""
    value, begin = 0, at
    for shift in range(0, 70, 7):
        if at == stop:
            raise _Damage(begin, "a number that is cut short")
        octet = view[at]
        at += 1
        value |= (octet & 127) << shift
        if octet < 128:
            if value >= 2**64:
                break
            return value, at
    raise _Damage(begin, "a number of more than 64 bits")


def encode_example(features: Mapping[str, Any], *, packed: bool = True) -> bytes:
    """An Example of features: each bytes or a list of them, or integers or floats; numbers packed or one by one."""
    entries = []
    for name, values in features.items():
        feature = _encode_feature(name, values, packed)
        entries.append(_message(1, _message(1, name.encode()) + _message(2, feature)))
    return _message(1, b"".join(entries))


def _encode_feature(name: str, values: Any, packed: bool) -> bytes:
    if isinstance(values, bytes | bytearray | memoryview):
        values = [values]
    if isinstance(values, list | tuple) and all(isinstance(v, bytes | bytearray | memoryview) for v in values):
        return _message(BYTES, b"".join(_message(1, bytes(value)) for value in values))
    numbers = np.atleast_1d(np.asarray(values)).ravel()
    if numbers.dtype.kind == "f":
        parts = [struct.pack("<f", value) for value in numbers.astype(np.float32)]
        kind, wire = FLOATS, FOUR
    elif numbers.dtype.kind in "biu" and numbers.dtype != np.uint64:
        parts = [_number(int(value) % 2**64) for value in numbers]  # negative ones in two's complement
        kind, wire = INTEGERS, VARINT
    else:
        raise UsageError(f"feature {name!r}: bytes, floats and 64-bit integers can be written, not {numbers.dtype}")
    return _message(kind, _message(1, b"".join(parts)) if packed else b"".join(_number(8 | wire) + p for p in parts))


def _message(field: int, content: bytes) -> bytes:
    return _number(field << 3 | LENGTH) + _number(len(content)) + content


def _number(value: int) -> bytes:
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)
