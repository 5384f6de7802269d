"""TFRecord files, read and written without TensorFlow.

A file is a row of records, plain or the whole of it gzipped; all numbers are little-endian:

    u64 length | u32 masked CRC-32C of those 8 bytes | data | u32 masked CRC-32C of the data
    mask(c) = (c >> 15 | c << 17) + 0xA282EAD8  (mod 2^32)

Nothing is believed before it is checked against the file: a damaged one is a DataError that names the file, the
record and the byte its header begins at. What the data mean is example.py's.

Format: tensorflow/core/lib/io/record_writer.h; CRC-32C: RFC 3720, appendix B.4.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast, get_args

from lbm.errors import DataError, UsageError

try:
    import google_crc32c
except ImportError:
    google_crc32c = None  # type: ignore[assignment, unused-ignore]

Verify = Literal["full", "length", "off"]

LIMIT = 2**31 - 1  # bytes of data; no protobuf message may be longer
PIECE = 2**20  # bytes asked for at once, so that memory follows what a file holds and not what it declares


def _table() -> tuple[int, ...]:
    entries = list(range(256))
    for _ in range(8):
        entries = [(c >> 1) ^ 0x82F63B78 if c & 1 else c >> 1 for c in entries]  # Castagnoli, bits reversed
    return tuple(entries)


_TABLE = _table()


def crc32c_by_table(data: bytes) -> int:
    """CRC-32C of `data`, byte by byte in Python: slow, for where google_crc32c is not installed."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _TABLE[(crc ^ octet) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`: crc32c(b"123456789") = 0xE3069283."""
    return crc32c_by_table(data) if google_crc32c is None else google_crc32c.value(data)


def masked(data: bytes) -> int:
    """The checksum of `data` as records carry it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def checked(verify: Verify) -> Verify:
    """`verify` itself. UsageError when it is none of its values."""
    if verify not in get_args(Verify):
        raise UsageError(f"checksums can be verified 'full', 'length' or 'off', not {verify!r}")
    return verify


@dataclass(frozen=True)
class Place:
    """Where a record is: its number, the byte its header begins at (in the unpacked stream), its bytes of data."""

    path: Path
    number: int
    offset: int
    length: int

    @property
    def stop(self) -> int:
        """The byte after the record."""
        return self.offset + 12 + self.length + 4

    def __str__(self) -> str:
        return f"{self.path}: record {self.number} at byte {self.offset}"


def places(path: Path, *, verify: Verify = "length", limit: int = LIMIT) -> Iterator[Place]:
    """Where the records of a file are, by their headers alone: no data are read (a gzipped file is unpacked).

    DataError where a header is damaged, or a record is cut short or longer than `limit` bytes.
    """
    with _Stream(path, verify, limit) as stream:
        place = stream.place(0, 0)
        while place is not None:
            stream.pass_over(place)
            yield place
            place = stream.place(place.number + 1, place.stop)


def records(path: Path, *, verify: Verify = "full", limit: int = LIMIT) -> Iterator[tuple[Place, bytes]]:
    """The records of a file one after the other, with their places.

    `verify` says which checksums are compared: of lengths and data ("full"), of lengths ("length"), none ("off").
    DataError where one is wrong, or a record is cut short or longer than `limit` bytes. A file that ends where a
    record ends cannot be told from a whole one.
    """
    with _Stream(path, verify, limit) as stream:
        place = stream.place(0, 0)
        while place is not None:
            yield place, stream.data(place)
            place = stream.place(place.number + 1, place.stop)


def read_record(
    path: Path, number: int, offset: int, *, verify: Verify = "full", limit: int = LIMIT
) -> tuple[Place, bytes]:
    """Record `number`, whose header begins at byte `offset` (see `places`), without those before it.

    A gzipped file is unpacked up to it. DataError as for `records`.
    """
    with _Stream(path, verify, limit) as stream:
        place = stream.place(number, offset) if 0 <= offset < 2**62 else None
        if place is None:
            raise DataError(f"{path}: record {number} at byte {offset}: the file ends before it")
        return place, stream.data(place)


def write_records(path: Path, data: Iterable[bytes], *, compress: bool = False) -> int:
    """Write records to a file, gzipped with `compress`; returns how many."""
    count = 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if compress else raw as file:
        for part in data:
            length = struct.pack("<Q", len(part))
            file.write(length + struct.pack("<I", masked(length)) + part + struct.pack("<I", masked(part)))
            count += 1
    return count


class _Stream:
    """An open file of records. What it cannot read is a DataError that names the record."""

    def __init__(self, path: Path, verify: Verify, limit: int) -> None:
        checked(verify)
        if not path.is_file():
            raise DataError(f"{path}: no file of that name")
        self.path, self.verify, self.limit = path, verify, limit
        self._raw = path.open("rb")
        self._size = os.fstat(self._raw.fileno()).st_size
        head = self._raw.read(12)
        # A length may begin with gzip's three bytes; then its checksum fits.
        fits = len(head) == 12 and masked(head[:8]) == int.from_bytes(head[8:], "little")
        self._raw.seek(0)
        self._gzipped = head[:3] == b"\x1f\x8b\x08" and not fits
        self._file = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if self._gzipped else self._raw

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    def place(self, number: int, offset: int) -> Place | None:
        """The record whose header begins at `offset`; None at the end of the file."""
        place = Place(self.path, number, offset, 0)
        head = self._read(place, offset, 12)
        if not head:
            return None
        if len(head) < 12:
            raise DataError(f"{place}: the file ends after {len(head)} of the 12 bytes of its header")
        length, checksum = struct.unpack("<QI", head)
        if self.verify != "off" and masked(head[:8]) != checksum:
            raise DataError(f"{place}: checksum of its length is 0x{checksum:08x}, not 0x{masked(head[:8]):08x}")
        if length > self.limit:
            raise DataError(f"{place}: declares {length} bytes of data, at most {self.limit} are accepted")
        left = self._size - offset - 16
        if length > left and not self._gzipped:
            raise DataError(
                f"{place}: declares {length} bytes of data, the file has room for {max(left, 0)}: cut short?"
            )
        return Place(self.path, number, offset, length)

    def data(self, place: Place) -> bytes:
        """The data of a record, its checksum compared if so wanted."""
        data = self._read(place, place.offset + 12, place.length)
        checksum = self._footer(place, len(data) == place.length)
        if self.verify == "full" and masked(data) != checksum:
            raise DataError(f"{place}: checksum of its {len(data)} bytes is 0x{checksum:08x}, not 0x{masked(data):08x}")
        return data

    def pass_over(self, place: Place) -> None:
        """Make sure that the record is there to its end."""
        self._footer(place, True)

    def _footer(self, place: Place, whole: bool) -> int:
        footer = self._read(place, place.stop - 4, 4) if whole else b""
        if len(footer) < 4:
            raise DataError(f"{place}: declares {place.length} bytes of data, the file ends before: cut short?")
        return int.from_bytes(footer, "little")

    def _read(self, place: Place, offset: int, count: int) -> bytes:
        """Bytes offset..offset+count-1, fewer where the file ends."""
        parts, left = [], count
        try:
            self._file.seek(offset)
            while left and (part := self._file.read(min(left, PIECE))):
                parts.append(part)
                left -= len(part)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{place}: the gzip stream is damaged: {error}") from None
        return b"".join(parts)
