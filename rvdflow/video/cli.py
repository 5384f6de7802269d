"""`rvdflow convert`: one command for each kind of archive. Only typer is imported until one of them runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lbm.console import Debug, emit_json
from lbm.errors import UsageError

if TYPE_CHECKING:
    from rvdflow.video.source import Source

app = typer.Typer(
    name="convert",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Make a dataset of clips from an archive of natural video.",
)

Folder = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the unpacked archive.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The dataset.")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Pixels of a frame; default: as in the paper.")]
Resize = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="area, bilinear (the released code's), bicubic, lanczos, aliased-bilinear."),
]
Crop = Annotated[
    str | None,
    typer.Option(metavar="PART", help="centre: as large as it gets; none: stretch; Y,X,HEIGHT,WIDTH: this window."),
]
Workers = Annotated[int | None, typer.Option(help="Processes; default: one per core.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many clips of each split.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print counts, disk and time, write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def kth(
    folder: Folder,
    output: Output = Path("video.zarr"),
    split: Annotated[str, typer.Option(help="Who tests: schuldt (official), 1-16 or 1-20 (train on persons).")] = (
        "schuldt"
    ),
    sequences: Annotated[Path | None, typer.Option(help="00sequences.txt, where it is not in the folder.")] = None,
    size: Size = None,
    resize: Resize = None,
    crop: Crop = None,
    workers: Workers = None,
    limit: Limit = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """KTH Actions: persons walk, run, box, clap. 64x64 gray."""

    def source() -> Source:
        from rvdflow.video.kth import Kth

        return Kth(_folder(folder), split=split, sequences=sequences)

    _convert(source, output, size, resize, crop, workers, limit, resume, overwrite, dry_run, quiet, json)


@app.command()
def bair(
    folder: Folder,
    output: Output = Path("video.zarr"),
    camera: Annotated[str, typer.Option(help="image_aux1 (all papers) or image_main.")] = "image_aux1",
    split: Annotated[str, typer.Option(help="savp: one training file validates; none: all of them train.")] = "savp",
    verify: Annotated[str, typer.Option(help="Checksums to compare: full, length or off.")] = "full",
    size: Size = None,
    resize: Resize = None,
    crop: Crop = None,
    workers: Workers = None,
    limit: Limit = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """BAIR robot pushing, small. 64x64 in colour."""

    def source() -> Source:
        from rvdflow.video.bair import Bair

        return Bair(_folder(folder), camera=camera, split=split, verify=verify)  # type: ignore[arg-type]

    _convert(source, output, size, resize, crop, workers, limit, resume, overwrite, dry_run, quiet, json)


@app.command()
def cityscapes(
    folder: Folder,
    output: Output = Path("video.zarr"),
    size: Size = None,
    resize: Resize = None,
    crop: Crop = None,
    workers: Workers = None,
    limit: Limit = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Cityscapes: drives through cities. 128x128 in colour."""

    def source() -> Source:
        from rvdflow.video.cityscapes import Cityscapes

        return Cityscapes(_folder(folder))

    _convert(source, output, size, resize, crop, workers, limit, resume, overwrite, dry_run, quiet, json)


@app.command()
def video(
    folder: Folder,
    output: Output = Path("video.zarr"),
    gray: Annotated[bool, typer.Option("--gray", help="One channel instead of three.")] = False,
    axes: Annotated[str, typer.Option(help="Of arrays, as stored: N clip, T time, H rows, W columns, C.")] = "NTHWC",
    key: Annotated[str, typer.Option(help="Which array, where a file holds several.")] = "",
    value_range: Annotated[
        str | None, typer.Option(help="Black and white of arrays that are not 8-bit: 0..1, -1..1 or 0..255.")
    ] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between frames; default: what files say.")] = None,
    validation: Annotated[float, typer.Option(help="Share of the files, where no folders say.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the files, where no folders say.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Draws the files for validation and test.")] = 0,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Pixels of a frame; default: 64x64.")] = None,
    resize: Resize = None,
    crop: Crop = None,
    workers: Workers = None,
    limit: Limit = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Your own: video files, folders of images, arrays."""

    def source() -> Source:
        from rvdflow.video.folder import VideoFolder

        return VideoFolder(
            _folder(folder), colour=not gray, axes=axes, key=key, value_range=value_range, interval=interval,
            validation=validation, test=test, seed=seed,
        )  # fmt: skip

    _convert(source, output, size, resize, crop, workers, limit, resume, overwrite, dry_run, quiet, json)


@app.command()
def glyphs(
    output: Output = Path("video.zarr"),
    train: Annotated[int, typer.Option(help="Clips to train on.")] = 1000,
    validation: Annotated[int, typer.Option(help="Clips to validate on.")] = 100,
    test: Annotated[int, typer.Option(help="Clips to test on.")] = 100,
    size: Annotated[str, typer.Option(metavar="HxW", help="Pixels of a frame.")] = "64x64",
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 20,
    digits: Annotated[int, typer.Option("--glyphs", help="Digits in a clip.")] = 1,
    modes: Annotated[int | None, typer.Option(help="Directions after a bounce; default: any angle.")] = None,
    colour: Annotated[bool, typer.Option("--colour", help="Digits in six colours.")] = False,
    speed: Annotated[str, typer.Option(help="Slowest,fastest in pixels per frame.")] = "1.5,3",
    seed: Annotated[int, typer.Option(help="Every clip follows from it.")] = 0,
    workers: Workers = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Digits that bounce at random; nothing to download."""

    def source() -> Source:
        from rvdflow.video.glyphs import Glyphs, MovingGlyphs

        slowest, fastest = _numbers("--speed", speed, 2, float)
        settings = Glyphs(
            size=_size(size) or (64, 64), glyphs=digits, modes=modes, coloured=colour, frames=frames,
            speed=(slowest, fastest),
        )  # fmt: skip
        return MovingGlyphs(settings, {"train": train, "validation": validation, "test": test}, seed=seed)

    _convert(source, output, None, None, None, workers, None, resume, overwrite, dry_run, quiet, json)


def _convert(
    source: Callable[[], Source],
    output: Path,
    size: str | None,
    resize: str | None,
    crop: str | None,
    workers: int | None,
    limit: int | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    json: bool,
) -> None:
    """What all commands have in common."""
    from rvdflow.video.convert import convert, estimate, summary

    options: dict[str, Any] = {
        "size": _size(size), "resize": resize, "crop": _window(crop), "workers": workers, "limit": limit,
    }  # fmt: skip
    if dry_run:
        emit_json(estimate(source(), **options))
        return
    convert(source(), output, **options, resume=resume, overwrite=overwrite, quiet=quiet or json)
    if json:
        emit_json(summary(output))


def _folder(path: Path) -> Path:
    """The folder of an archive. UsageError when it is none."""
    if not path.is_dir():
        what = "is a file, a folder is wanted: unpack the archive" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}")
    return path


def _size(text: str | None) -> tuple[int, int] | None:
    """`64x80` as (height, width)."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit()) or len(text) > 11:
        raise UsageError(f"--size wants height and width as 64x64, got {text[:40]!r}")
    return int(height), int(width)


def _window(text: str | None) -> str | tuple[int, int, int, int] | None:
    """The word of --crop as that of `rvdflow.video.resize`."""
    if text is None or text in ("centre", "none"):
        return {None: None, "centre": "crop", "none": "stretch"}[text]
    y, x, height, width = _numbers("--crop", text, 4, int)
    return y, x, height, width


def _numbers(option: str, text: str, count: int, kind: type) -> list[Any]:
    """Some numbers with commas between them."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        words = " or centre or none" if option == "--crop" else ""
        raise UsageError(f"{option} wants {count} numbers with commas between them{words}, got {text[:40]!r}")
    return numbers
