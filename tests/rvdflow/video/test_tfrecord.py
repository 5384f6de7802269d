"""TFRecord files: the published format, what other programs make of it, and every kind of damage."""

import contextlib
import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video import tfrecord
from rvdflow.video.tfrecord import crc32c, crc32c_by_table, masked, places, read_record, records, write_records

RECORDS = [b"first", b"", bytes(range(60)), b"last"]
OFFSETS = [0, 21, 37, 113]  # each record takes 16 bytes more than its data
SIZE = 133


@pytest.fixture
def path(tmp_path):
    assert write_records(tmp_path / "some.tfrecords", RECORDS) == 4
    return tmp_path / "some.tfrecords"


@pytest.fixture
def packed(tmp_path):
    assert write_records(tmp_path / "some.tfrecords.gz", RECORDS, compress=True) == 4
    return tmp_path / "some.tfrecords.gz"


def data_of(path, **options):
    return [data for _, data in records(path, **options)]


def header(length):
    """A header that declares any length, its checksum right."""
    return struct.pack("<QI", length, masked(struct.pack("<Q", length)))


@pytest.mark.parametrize("function", [crc32c, crc32c_by_table])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of the catalogue of CRCs; the others: RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksum_has_its_published_values(function, data, expected):
    assert function(data) == expected


def test_checksum_by_table_equals_the_library():
    library = pytest.importorskip("google_crc32c")
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 7, 8, 9, 63, 1000, 4097):
        data = rng.bytes(size)
        assert crc32c_by_table(data) == library.value(data)


def test_without_the_library_files_are_the_same(path, monkeypatch):
    written = path.read_bytes()
    monkeypatch.setattr(tfrecord, "google_crc32c", None)
    assert data_of(path) == RECORDS
    write_records(path, RECORDS)
    assert path.read_bytes() == written


def test_a_record_has_the_published_layout(path):
    # crc32c(9 as u64) is not published; that of the data is, and its mask is worked out here by rotation to the right.
    write_records(path, [b"123456789"])
    file = path.read_bytes()
    assert len(file) == 8 + 4 + 9 + 4
    assert file[:8] == b"\x09" + bytes(7)
    bits = f"{0xE3069283:032b}"
    rotated = int(bits[-15:] + bits[:-15], 2)
    assert int.from_bytes(file[-4:], "little") == (rotated + 0xA282EAD8) % 2**32


def test_records_come_back_in_order_with_their_places(path, packed):
    for file in (path, packed):
        assert data_of(file) == RECORDS
        found = list(places(file))
        assert [(p.number, p.offset, p.length) for p in found] == [
            (k, offset, len(data)) for k, (offset, data) in enumerate(zip(OFFSETS, RECORDS, strict=True))
        ]
        assert [place for place, _ in records(file)] == found
        for k in (2, 0, 3, 1):
            assert read_record(file, k, OFFSETS[k]) == (found[k], RECORDS[k])


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_without_records_is_whole(tmp_path, compress):
    assert write_records(tmp_path / "none", [], compress=compress) == 0
    assert data_of(tmp_path / "none") == list(places(tmp_path / "none")) == []


def test_a_length_that_looks_like_gzip_is_a_length(tmp_path):
    data = bytes(0x088B1F)  # little-endian: 1f 8b 08
    write_records(tmp_path / "file", [data])
    assert (tmp_path / "file").read_bytes()[:3] == gzip.compress(b"")[:3]
    assert data_of(tmp_path / "file") == [data]


def test_records_before_the_damage_are_given_first(path):
    path.write_bytes(path.read_bytes()[:-1])
    stream = records(path)
    assert [next(stream)[1] for _ in range(3)] == RECORDS[:3]
    with pytest.raises(DataError, match=r"some\.tfrecords: record 3 at byte 113: declares 4 bytes"):
        next(stream)


@pytest.mark.parametrize("read", [records, places])
@pytest.mark.parametrize("verify", ["full", "length", "off"])
def test_a_file_cut_short_anywhere_is_refused_except_between_records(path, read, verify):
    whole = path.read_bytes()
    assert len(whole) == SIZE
    for size in range(SIZE):
        path.write_bytes(whole[:size])
        if size in OFFSETS:
            assert len(list(read(path, verify=verify))) == OFFSETS.index(size)
            continue
        number = sum(offset <= size for offset in OFFSETS) - 1
        with pytest.raises(DataError) as caught:
            list(read(path, verify=verify))
        assert str(caught.value).startswith(f"{path}: record {number} at byte {OFFSETS[number]}: ")


@pytest.mark.parametrize("read", [records, places])
def test_a_gzipped_file_cut_short_anywhere_is_refused(packed, read):
    whole = packed.read_bytes()
    for size in range(1, len(whole)):
        packed.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"some\.tfrecords\.gz: record \d at byte \d+: "):
            list(read(packed))


def test_every_byte_that_changes_is_noticed(path):
    whole = path.read_bytes()
    for at in range(SIZE):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        number = sum(offset <= at for offset in OFFSETS) - 1
        with pytest.raises(DataError) as caught:
            list(records(path))
        assert str(caught.value).startswith(f"{path}: record {number} at byte {OFFSETS[number]}: checksum of its ")


def test_every_byte_that_changes_in_a_gzipped_file_is_noticed_or_changes_nothing(packed):
    whole = packed.read_bytes()
    refused = []
    for at in range(len(whole)):
        packed.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
        try:
            assert data_of(packed) == RECORDS
        except DataError as error:
            refused.append(str(error))
    assert all(message.startswith(f"{packed}: record ") for message in refused)
    # Nothing hangs on the date (4 bytes), the level and the system in gzip's header, and the bits that fill the last.
    assert len(refused) >= len(whole) - 7


def test_verify_says_which_checksums_are_compared(path):
    whole = path.read_bytes()
    data_changed = whole[:12] + b"F" + whole[13:]
    path.write_bytes(data_changed)
    with pytest.raises(DataError, match="record 0 at byte 0: checksum of its 5 bytes is 0x"):
        data_of(path)
    for verify in ("length", "off"):
        assert data_of(path, verify=verify) == [b"First", *RECORDS[1:]]
    path.write_bytes(whole[:8] + b"\0\0\0\0" + whole[12:])
    for verify in ("full", "length"):
        with pytest.raises(DataError, match="record 0 at byte 0: checksum of its length is 0x00000000, not 0x"):
            data_of(path, verify=verify)
    assert data_of(path, verify="off") == RECORDS
    with pytest.raises(UsageError, match="not 'half'"):
        data_of(path, verify="half")


@pytest.mark.parametrize("length", [10**9, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("read", [records, places])
@pytest.mark.parametrize("compress", [False, True])
def test_a_declared_length_is_not_believed(tmp_path, length, read, compress):
    path = tmp_path / "file"
    content = header(length) + bytes(1_100_000)
    path.write_bytes(gzip.compress(content) if compress else content)
    why = "" if compress or length > tfrecord.LIMIT else ", the file has room for 1099996: cut short?"
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=rf"file: record 0 at byte 0: declares {length} bytes of data{re.escape(why)}"
        ):
            list(read(path))
        assert tracemalloc.get_traced_memory()[1] < 8e6  # twice the content, and gzip's buffers
    finally:
        tracemalloc.stop()


def test_records_longer_than_the_limit_are_refused(path, packed):
    for file in (path, packed):
        assert len(list(places(file, limit=60))) == 4
        with pytest.raises(DataError, match="record 2 at byte 37: declares 60 bytes of data, at most 59"):
            list(records(file, limit=59))


def test_one_record_is_read_without_those_before_it(path):
    whole = path.read_bytes()
    path.write_bytes(b"?" * OFFSETS[2] + whole[OFFSETS[2] :])
    assert read_record(path, 2, OFFSETS[2])[1] == RECORDS[2]
    for offset in (OFFSETS[2] + 1, 1):
        with pytest.raises(DataError, match=rf"record 2 at byte {offset}: checksum of its length"):
            read_record(path, 2, offset)
    for offset in (SIZE, 10**6, 2**64, -1):
        with pytest.raises(DataError, match=rf"record 2 at byte {offset}: the file ends before it"):
            read_record(path, 2, offset)


def test_what_is_no_file_is_a_data_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="no file of that name"):
            list(records(path))


def test_another_program_reads_what_is_written_here(path, packed):
    other = pytest.importorskip("tfrecord.reader", exc_type=ImportError)
    assert [bytes(data) for data in other.tfrecord_iterator(str(path))] == RECORDS
    assert [bytes(data) for data in other.tfrecord_iterator(str(packed), compression_type="gzip")] == RECORDS


def test_what_another_program_writes_is_read_here(tmp_path):
    other = pytest.importorskip("tfrecord.writer", exc_type=ImportError)
    writer = other.TFRecordWriter(str(tmp_path / "file"))
    for k in range(3):
        writer.write({"k": (k, "int")})
    writer.close()
    expected = [writer.serialize_tf_example({"k": (k, "int")}) for k in range(3)]
    assert data_of(tmp_path / "file", verify="full") == expected
    write_records(tmp_path / "again", expected)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()


def test_any_records_come_back(tmp_path_factory):
    hypothesis = pytest.importorskip("hypothesis")
    some = hypothesis.strategies.lists(hypothesis.strategies.binary(max_size=300), max_size=6)
    path = tmp_path_factory.mktemp("any") / "file"

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(some, hypothesis.strategies.booleans())
    def law(data, compress):
        write_records(path, data, compress=compress)
        assert data_of(path) == data
        assert [place.length for place in places(path)] == [len(part) for part in data]

    law()


def test_any_bytes_are_records_or_a_data_error(tmp_path_factory):
    hypothesis = pytest.importorskip("hypothesis")
    path = tmp_path_factory.mktemp("any") / "file"

    @hypothesis.settings(max_examples=150, deadline=None)
    @hypothesis.given(
        hypothesis.strategies.sampled_from([b"", b"\x1f\x8b\x08", gzip.compress(b"abc")[:10], header(5), header(0)]),
        hypothesis.strategies.binary(max_size=60),
        hypothesis.strategies.sampled_from(["full", "length", "off"]),
    )
    def law(head, rest, verify):
        path.write_bytes(head + rest)
        for read in (records, places):
            with contextlib.suppress(DataError):
                list(read(path, verify=verify))

    law()
