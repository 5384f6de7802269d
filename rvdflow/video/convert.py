"""Archives of natural video -> one store of clips: what `rvdflow convert` does.

    source -> list of clips -> [worker: read, crop, resize, write chunks] -> length, digests -> manifest

The list of clips is fixed when the store is allocated. A conversion that was stopped, by a signal or otherwise, goes on
with the clips that are not acknowledged and ends with the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lbm import dataset
from lbm.console import Stop, duration, progress, say, warn
from lbm.console import size as in_bytes
from lbm.errors import DataError, UsageError
from rvdflow.video.decode import MAX_PIXELS
from rvdflow.video.source import Clip, Source
from rvdflow.video.store import Columns, Preparation, Shape, attributes, configuration, create, require_agreement
from rvdflow.video.workers import Job, Row, results

SPLITS = ("train", "validation", "test")
EXAMPLES = 3  # of damaged clips that are named
TRIED = 3  # clips decoded for an estimate
UNREADABLE = 0.5  # share of clips above which this is not the archive that was meant


def convert(
    source: Source,
    output: Path,
    *,
    size: tuple[int, int] | None = None,
    resize: str | None = None,
    crop: str | tuple[int, int, int, int] | None = None,
    workers: int | None = None,
    limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> Path:
    """Write the clips of `source` to a store; returns its path.

    `size` is (height, width) in pixels; `resize` and `crop` are those of `rvdflow.video.resize`; what is None is as
    usual for the source. `limit` takes the first so many clips of each split, in the archive's order. `workers`
    processes read and write (default: one per core; 1: this process); a script that asks for several must guard
    its main part by `if __name__ == "__main__"`, as multiprocessing wants it.

    With `resume` an unfinished store of the same clips and settings is completed, a finished one is left alone and a
    missing one is begun. Raises UsageError, ResourceError (disk; a worker died), DataError (no such archive; more than
    half of the clips cannot be read), SystemExit 130 or 143 after SIGINT or SIGTERM, once the clips at hand are done.
    """
    workers = _workers(workers)
    if resume and overwrite:
        raise UsageError("--resume goes on with a store, --overwrite replaces it: give one of them")
    if not (resume and output.exists()):
        dataset.check_output(output, overwrite=overwrite)
    preparation = _preparation(source, size, resize, crop)
    clips = chosen(source, limit)
    shape = Shape.of(clips, len(source.channels), preparation.size)
    attrs = attributes(source, configuration(source, preparation, limit))
    for text in [*source.notes, *_differences(source, clips, limit)]:
        warn(text, quiet=quiet)
    if limit is not None:
        say(f"--limit {limit}: the first clips of each split: {_counts(clips)}", quiet=quiet)
    if resume and output.exists():
        require_agreement(output, source, clips, attrs)
        stored = dataset.read_attributes(output)
        if stored.get("complete") is True:
            say(f"{output} is already complete", quiet=quiet)
            return output
        if stored.get("versions") != attrs["versions"]:
            warn(f"{output} was begun with other software versions: pixels may differ by rounding", quiet=quiet)
        writer = dataset.resume(output)
    else:
        _try(source, clips, preparation)
        room = shutil.disk_usage(output.parent).free
        if (needed := octets(clips, shape)) > room:
            warn(f"up to {in_bytes(needed)} will be written, {in_bytes(room)} are free", quiet=quiet)
        writer = create(output, source, clips, shape, attrs, overwrite)
    began = time.monotonic()
    with writer:
        _fill(Job(source, output, preparation, shape), writer, clips, workers, quiet)
    say(f"{_words(output, clips, source)}, took {duration(time.monotonic() - began)}", quiet=quiet)
    return output


def chosen(source: Source, limit: int | None) -> list[Clip]:
    """The clips of a source, or the first `limit` of each split, in the archive's order."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least one clip of each split is needed")
    clips, taken = source.clips(), Counter[str]()
    if not clips:
        raise UsageError("no clips: ask for at least one")
    if limit is None:
        return clips
    few = []
    for clip in clips:
        if taken[clip.split] < limit:
            taken[clip.split] += 1
            few.append(clip)
    return few


def estimate(
    source: Source,
    *,
    size: tuple[int, int] | None = None,
    resize: str | None = None,
    crop: str | tuple[int, int, int, int] | None = None,
    workers: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """What `convert` would do and take, for --dry-run; reads a few clips to know."""
    preparation, clips = _preparation(source, size, resize, crop), chosen(source, limit)
    shape = Shape.of(clips, len(source.channels), preparation.size)
    workers = _workers(workers)
    seconds, damaged = [], []
    for k in sorted({len(clips) * n // TRIED for n in range(TRIED)}):
        began = time.perf_counter()
        try:
            source.read(clips[k], preparation)
        except DataError as error:
            damaged.append(str(error))
        else:
            seconds.append(time.perf_counter() - began)
    return {
        "config": configuration(source, preparation, limit),
        "clips": _split_counts(clips),
        "published": dict(source.published),
        "frames": sum(clip.stop - clip.first for clip in clips),
        "largest_disk_bytes": octets(clips, shape),
        "chunk": [shape.row, shape.part, shape.channels, *shape.size],
        "workers": workers,
        "seconds": float(f"{np.mean(seconds) * len(clips) / workers:.3g}") if seconds else None,
        "warnings": [*source.notes, *_differences(source, clips, limit), *damaged],
    }


def summary(path: Path) -> dict[str, Any]:
    """What a finished store of clips holds, for --json."""
    opened = dataset.open_dataset(path, chunks=None)
    length, listed = opened["length"].values, opened["listed"].values
    counts = Counter(opened["split"].values.tolist())
    return {
        "output": str(path),
        "clips": {split: counts[split] for split in SPLITS},
        "frames": int(length.sum()),
        "size": [opened.sizes["y"], opened.sizes["x"]],
        "channels": opened["channel"].values.tolist(),
        "short": int(((length > 0) & (length < listed)).sum()),
        "unreadable": int((length == 0).sum()),
        "bytes": _bytes(path),
        "source_sha256": opened.attrs.get("source_sha256"),
        "sha256": dataset.digest(path),
    }


def octets(clips: Sequence[Clip], shape: Shape) -> int:
    """Bytes of the frames of clips, not compressed."""
    return sum(clip.stop - clip.first for clip in clips) * shape.channels * shape.size[0] * shape.size[1]


def _fill(job: Job, writer: dataset.Writer, clips: Sequence[Clip], workers: int, quiet: bool) -> None:
    """Convert what is left and finish the store."""
    columns = Columns(writer, job.source, clips)
    rows = _rows(columns, clips, job.shape.row)
    remarks: dict[int, str] = {}
    done = int((columns.written == 1).sum())
    _require_readable(columns, clips, remarks)
    with Stop() as stop, progress(len(clips), "convert", unit="clips", quiet=quiet, done=done) as bar:
        try:
            for result in results(job, rows, workers, stop):
                columns.add(result)
                remarks |= result.remarks
                bar.advance(len(result.lengths))
                _require_readable(columns, clips, remarks)
        finally:
            columns.flush()
        if stop.requested:
            stop.exit()
    _warn_damaged(columns, clips, remarks, quiet)
    if any(columns.digests):
        writer.update_attributes({"source_sha256": columns.source_digest()})
    writer.finish()


def _rows(columns: Columns, clips: Sequence[Clip], size: int) -> list[Row]:
    """Chunk rows that are not acknowledged; the first one with clips of a file hashes it."""
    rows, hashed = [], set[str]()
    for first in range(0, len(clips), size):
        part = clips[first : first + size]
        if (columns.written[first : first + size] == 1).all():
            continue
        new = {clip.source_file: clip for clip in part if not columns.known(clip.source_file)}
        rows.append(Row(first, part, [clip for file, clip in new.items() if file not in hashed]))
        hashed |= set(new)
    return rows


def _require_readable(columns: Columns, clips: Sequence[Clip], remarks: dict[int, str]) -> None:
    if columns.unreadable > UNREADABLE * len(clips):
        first = int(np.flatnonzero((columns.written == 1) & (columns.length == 0))[0])
        raise DataError(
            f"{columns.unreadable} of {len(clips)} clips cannot be read, too many to go on (mend "
            f"the archive and begin anew with --overwrite); the first: {remarks.get(first, clips[first].clip_id)}"
        )


def _warn_damaged(columns: Columns, clips: Sequence[Clip], remarks: dict[int, str], quiet: bool) -> None:
    """One warning for all clips that are shorter than listed."""
    damaged = [k for k, clip in enumerate(clips) if columns.length[k] < clip.stop - clip.first]
    if damaged:
        shown = [
            f"{clips[k].clip_id} has {columns.length[k]} of {clips[k].stop - clips[k].first} frames"
            + (f" ({remarks[k]})" if k in remarks else "")
            for k in damaged[:EXAMPLES]
        ]
        more = f" and {len(damaged) - EXAMPLES} more" if len(damaged) > EXAMPLES else ""
        warn(f"damaged clips: {len(damaged)} of {len(clips)}: {'; '.join(shown)}{more}", quiet=quiet)
    odd = [k for k in sorted(remarks) if k not in damaged]
    if odd:
        warn(f"{len(odd)} of {len(clips)} clips: {clips[odd[0]].clip_id}: {remarks[odd[0]]}", quiet=quiet)


def _differences(source: Source, clips: Sequence[Clip], limit: int | None) -> list[str]:
    """Where the numbers of clips are not those published."""
    counts = _split_counts(clips)
    return [
        f"clips of split {split}: {counts[split]:,}, published are {number:,}"
        for split, number in source.published.items()
        if limit is None and counts[split] != number
    ]


def _try(source: Source, clips: Sequence[Clip], preparation: Preparation) -> None:
    """Read a clip, so that settings that cannot work are refused before anything is written. UsageError."""
    with contextlib.suppress(DataError):  # damaged: counted later
        source.read(clips[0], preparation)


def _preparation(
    source: Source,
    size: tuple[int, int] | None,
    resize: str | None,
    crop: str | tuple[int, int, int, int] | None,
) -> Preparation:
    if size is not None and not (min(size) > 0 and size[0] * size[1] <= MAX_PIXELS):
        raise UsageError(f"frames of {size[0]} x {size[1]} pixels: at least 1 x 1, at most {MAX_PIXELS} pixels wanted")
    return Preparation(size or source.size, resize or source.resize, source.crop if crop is None else crop)


def _workers(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"--workers {asked}: at least one is needed")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or there


def _split_counts(clips: Sequence[Clip]) -> dict[str, int]:
    counts = Counter(clip.split for clip in clips)
    return {split: counts[split] for split in SPLITS}


def _counts(clips: Sequence[Clip]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in _split_counts(clips).items())


def _words(path: Path, clips: Sequence[Clip], source: Source) -> str:
    """One line about a finished store."""
    found = summary(path)
    rows, columns = found["size"]
    colour = "gray" if len(source.channels) == 1 else "colour"
    return (
        f"{path}: {len(clips):,} clips ({_counts(clips)}), {found['frames']:,} frames of {rows} x {columns} pixels in "
        f"{colour}, {in_bytes(found['bytes'])}"
    )


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
