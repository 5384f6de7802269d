"""tf.train.Example messages: bytes worked out by hand, protobuf's own, and hostile ones."""

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video.example import encode_example, parse_example

FEATURES = {
    "image": [b"\x00\xff\x10", b""],
    "action": np.array([0.5, -1.25, 3e-8], dtype=np.float32),
    "größe": np.array([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]),
}


def field(number, content):
    """A field of less than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def example(feature, name=b"a"):
    """An Example of one feature, given by its bytes."""
    return field(1, field(1, field(1, name) + field(2, feature)))


def plain(features):
    return {k: [bytes(v) for v in f] if isinstance(f, list) else (f.dtype, f.tolist()) for k, f in features.items()}


def test_bytes_worked_out_by_hand():
    # The list [150] is 96 01 packed (protobuf's encoding guide), then name "a" and four messages around it.
    by_hand = bytes.fromhex("0a0d 0a0b 0a0161 1206 1a04 0a029601")
    assert encode_example({"a": [150]}) == by_hand
    assert plain(parse_example(by_hand)) == {"a": (np.int64, [150])}
    one_by_one = bytes.fromhex("0a0f 0a0d 0a0161 1208 1a06 089601 08ac02".replace(" ", ""))
    assert encode_example({"a": [150, 300]}, packed=False) == one_by_one
    assert plain(parse_example(one_by_one)) == {"a": (np.int64, [150, 300])}


@pytest.mark.parametrize("packed", [True, False])
def test_features_come_back(packed):
    encoded = encode_example(FEATURES, packed=packed)
    for data in (encoded, bytearray(encoded), memoryview(encoded)):
        features = parse_example(data)
        assert list(features) == list(FEATURES)
        assert plain(features) == plain(FEATURES)
    assert all(isinstance(value, memoryview) for value in features["image"])


def test_values_packed_in_pieces_and_one_by_one_are_put_together():
    floats = field(2, field(1, np.float32([1, 2]).tobytes()) + b"\x0d" + np.float32(3).tobytes())
    assert parse_example(example(floats))["a"].tolist() == [1, 2, 3]
    integers = field(3, field(1, b"\x01\x02") + b"\x08\x03") + field(3, field(1, b"\x04"))
    assert parse_example(example(integers))["a"].tolist() == [1, 2, 3, 4]


def test_unknown_fields_are_skipped_and_absent_ones_are_empty():
    unknown = b"\x78\x96\x01" + b"\x79" + bytes(8) + field(15, b"later") + b"\x7d" + bytes(4)
    known = example(field(3, field(1, b"\x07")) + unknown)
    assert plain(parse_example(unknown + known + unknown)) == {"a": (np.int64, [7])}
    assert parse_example(b"") == {}
    assert parse_example(example(b"")) == {"a": []}
    assert parse_example(field(1, field(1, b""))) == {"": []}
    assert plain(parse_example(example(field(2, b"")))) == {"a": (np.float32, [])}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x80", "a number that is cut short, at byte 0"),
        (b"\x80" * 50, "a number of more than 64 bits, at byte 0"),
        (b"\xff" * 9 + b"\x02", "a number of more than 64 bits, at byte 0"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", f"a field of {2**64 - 1} bytes where 0 are left, at byte 0"),
        (b"\x0a\x05abc", "a field of 5 bytes where 3 are left, at byte 0"),
        (b"\x02\x00", "a field of number 0, at byte 0"),
        (b"\x82\x80\x80\x80\x10\x00", f"a field of number {2**29}, at byte 0"),
        (b"\x08\x01", "field 1 of wire type 0, at byte 0"),
        (b"\x7b\x7c", "field 15 of wire type 3, at byte 0"),
        (b"\x7e", "field 15 of wire type 6, at byte 0"),
        (b"\x7d\x00\x00\x00", "a field of 4 bytes where 3 are left, at byte 0"),
        (b"\x79\x00", "a field of 8 bytes where 1 are left, at byte 0"),
        (example(b"", b"\xff\xfe"), "a name that is not UTF-8, at byte 6"),
        (example(b"\x08\x01"), "field 1 of wire type 0, at byte 9"),
        (example(field(1, b"\x08\x01")), "field 1 of wire type 0, at byte 11"),
        (example(field(2, b"\x08\x01")), "field 1 of wire type 0, at byte 11"),
        (example(field(2, field(1, b"12345"))), "5 bytes of floats of 4 bytes each, at byte 13"),
        (example(field(3, b"\x0d1234")), "field 1 of wire type 5, at byte 11"),
        (example(field(3, field(1, b"\x01\x80"))), "a number that is cut short, at byte 14"),
        (example(field(3, field(1, b"\x80" * 20))), "a number of more than 64 bits, at byte 13"),
        (example(field(1, b"") + field(3, b"")), "a feature with values of two kinds, at byte 13"),
        (example(b"") + example(b""), "a second feature named 'a', at byte 13"),
        (field(1, field(1, field(1, b"a") + field(1, b"b"))), "a feature with two names or two values, at byte 9"),
    ],
)
def test_hostile_bytes_are_refused_with_their_place(data, what):
    with pytest.raises(DataError) as caught:
        parse_example(data, "some.tfrecords: record 3 at byte 44")
    assert str(caught.value) == f"some.tfrecords: record 3 at byte 44: no tf.train.Example: {what} of its {len(data)}"


def test_a_message_cut_short_is_refused():
    whole = encode_example(FEATURES)
    for size in range(1, len(whole)):
        with pytest.raises(DataError):
            parse_example(whole[:size])


@pytest.mark.parametrize("values", ["text", [b"a", 1], [2**64], [2**63], [1j], [None]])
def test_what_an_example_cannot_hold_is_refused(values):
    with pytest.raises(UsageError, match="feature 'x': bytes, floats and 64-bit integers can be written"):
        encode_example({"x": values})


@pytest.mark.parametrize("packed", [True, False])
def test_protobuf_reads_what_is_written_here(packed):
    messages = pytest.importorskip("tfrecord.example_pb2", exc_type=ImportError)
    read = messages.Example.FromString(encode_example(FEATURES, packed=packed)).features.feature
    assert set(read) == set(FEATURES)
    assert list(read["image"].bytes_list.value) == FEATURES["image"]
    assert list(read["action"].float_list.value) == FEATURES["action"].tolist()
    assert list(read["größe"].int64_list.value) == FEATURES["größe"].tolist()


def test_what_protobuf_writes_is_read_here():
    writer = pytest.importorskip("tfrecord.writer", exc_type=ImportError).TFRecordWriter
    typed = {"image": (FEATURES["image"], "byte"), "action": (FEATURES["action"], "float")}
    typed["größe"] = (FEATURES["größe"].tolist(), "int")
    assert plain(parse_example(writer.serialize_tf_example(typed))) == plain(FEATURES)
    # The context of a SequenceExample is field 1 as well; its lists are skipped.
    sequence = writer.serialize_tf_sequence_example(typed, {"more": ([[1], [2]], "int")})
    assert plain(parse_example(sequence)) == plain(FEATURES)


def test_any_features_come_back():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    values = st.one_of(
        st.lists(st.binary(max_size=200), max_size=5),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda v: np.array(v, dtype=np.int64)),
        st.lists(st.floats(width=32, allow_nan=False), max_size=40).map(lambda v: np.array(v, dtype=np.float32)),
    )

    @hypothesis.settings(max_examples=100, deadline=None)
    @hypothesis.given(st.dictionaries(st.text(max_size=20), values, max_size=6), st.booleans())
    def law(features, packed):
        back = parse_example(encode_example(features, packed=packed))
        assert list(back) == list(features)
        assert plain(back) == plain(features)

    law()


def test_any_bytes_mean_what_they_mean_to_protobuf_or_are_a_data_error():
    hypothesis = pytest.importorskip("hypothesis")
    messages = pytest.importorskip("tfrecord.example_pb2", exc_type=ImportError)
    from google.protobuf.message import DecodeError

    st = hypothesis.strategies
    whole = [encode_example(FEATURES), encode_example(FEATURES, packed=False), example(field(3, field(1, b"\x07")))]
    outcomes = set()

    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(st.sampled_from(whole), st.integers(0, 200), st.binary(max_size=4), st.integers(0, 4))
    def law(data, at, new, gone):
        changed = data[:at] + new + data[at + gone :]
        try:
            mine = parse_example(changed)
        except DataError:
            outcomes.add("refused")
            return
        try:
            theirs = messages.Example.FromString(changed).features.feature
        except DecodeError:
            return
        outcomes.add("read")
        # Protobuf's upb drops a map entry that has an unknown field; here the field alone is skipped.
        assert set(mine) >= set(theirs)
        for name, feature in theirs.items():
            kind = feature.WhichOneof("kind")
            expected = list(getattr(feature, kind).value) if kind else []
            got = [bytes(v) for v in mine[name]] if isinstance(mine[name], list) else mine[name].tolist()
            np.testing.assert_array_equal(got, expected)  # equal where both are NaN

    law()
    assert outcomes == {"read", "refused"}
