"""The command `lbm`: options in, one function call out. Only typer is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lbm import console
from lbm.cli_simulate import Json, Overwrite, Quiet, option, simulate
from lbm.parsing import grids, integers, names

app = typer.Typer(
    name="lbm",
    help="Two-dimensional flow by the lattice-Boltzmann method, written to documented Zarr datasets.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Threads = Annotated[int | None, option("--threads", help="Cores to use [all].")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped, to the same bits.")]


@app.callback()
def _main() -> None:
    """Needed so that a single command would still be named on the command line."""


def _prepare() -> None:
    """The widest vectors: a setting of the whole process, made by this program before anything imports numba."""
    from lbm.vectors import prefer_wide_vectors

    prefer_wide_vectors()


app.command()(simulate)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A dataset (flow.zarr, forecast.zarr, ...).")],
    check: Annotated[bool, typer.Option("--check", help="Read every chunk and compare checksums.")] = False,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Say what a dataset holds, where it comes from, and whether it is complete."""
    from lbm.info import describe, text

    report = describe(path, check=check)
    console.emit_json(report) if as_json else console.say(text(report))


@app.command()
def animate(
    path: Annotated[Path, typer.Argument(help="A simulation, clips, or a forecast of either.")],
    output: Annotated[
        Path | None, option("--output", "-o", help="File to write: .webp or .gif [name of the dataset.webp].")
    ] = None,
    variable: Annotated[
        str | None, option("--variable", help="Field to show, or speed [vorticity, or the only one].")
    ] = None,
    trajectory: Annotated[int, typer.Option("--trajectory", help="Which run.")] = 0,
    member: Annotated[int, typer.Option("--member", help="Which member of a forecast.")] = 0,
    init_time: Annotated[int | None, option("--init-time", help="Start of a forecast [the first].")] = None,
    start: Annotated[int, typer.Option("--start", help="First frame.")] = 0,
    frames: Annotated[int | None, option("--frames", help="Number of frames [200 at most].")] = None,
    scale: Annotated[int | None, option("--scale", help="Screen pixels per pixel [about 512 wide].")] = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 20.0,
    limit: Annotated[
        float | None, option("--limit", help="Value at the ends of the colour scale [99.5th percentile].")
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option("--allow-incomplete", help="Accept an unfinished dataset.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: console.Debug = False,
) -> None:
    """Make a WebP or GIF film of one trajectory or clip, or of one member of a forecast; obstacles are grey."""
    from lbm.animation import animate as make

    made = make(
        path,
        output,
        variable=variable,
        trajectory=trajectory,
        member=member,
        init_time=init_time,
        start=start,
        frames=frames,
        scale=scale,
        fps=fps,
        limit=limit,
        allow_incomplete=allow_incomplete,
        overwrite=overwrite,
    )
    console.say(f"{made}: {console.size(made.stat().st_size)}", quiet=quiet)


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A dataset (flow.zarr, forecast.zarr, scores.zarr).")],
    output: Annotated[
        Path | None, option("--output", "-o", help="netCDF-4 file to write [name of the dataset.nc].")
    ] = None,
    variables: Annotated[str | None, option("--variables", metavar="A,B,..", help="Which ones [all].")] = None,
    trajectories: Annotated[
        str | None, option("--trajectories", metavar="A,B,..", help="Which runs: 0,3 or 0:8 [all].")
    ] = None,
    compress: Annotated[bool, typer.Option("--compress/--no-compress", help="Deflate the data.")] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Write a dataset as netCDF-4 with CF attributes."""
    from lbm.export import export as make

    made = make(
        path,
        output,
        variables=names(variables) if variables else None,
        trajectories=integers(trajectories, "--trajectories"),
        overwrite=overwrite,
        compress=compress,
    )
    octets = made.stat().st_size
    console.say(f"{made}: {console.size(octets)}", quiet=quiet or as_json)
    if as_json:
        console.emit_json({"path": str(made), "bytes": octets})


@app.command()
def ensemble(
    data: Annotated[Path, typer.Option("--from", help="Dataset with saved states (lbm simulate --save-states 16).")],
    members: Annotated[int, typer.Option("--members", help="Members of the ensemble.")] = 32,
    lead: Annotated[int, typer.Option("--lead", help="Frames to forecast.")] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Forecast to write.")] = Path("ensemble.zarr"),
    init_times: Annotated[
        str | None, option("--init-times", help="Frames to start from: 20,60 or 20:200:20 [every one with a state].")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which runs: test, validation, train or all.")] = "test",
    perturb: Annotated[
        float, typer.Option("--perturb", help="Perturb the velocity of each member's start by this share of U.")
    ] = 0.0,
    noise: Annotated[
        bool, typer.Option("--noise/--same-noise", help="Other inflow noise for each member, or the noise of the run.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the members' noise and perturbations.")] = 0,
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Forecast with the solver itself, restarted from saved states: the ceiling of predictability."""
    _prepare()
    from lbm.ensemble import ensemble as make

    made = make(
        data,
        output,
        members=members,
        lead=lead,
        init_times=integers(init_times, "--init-times"),
        split=split,
        perturb=perturb,
        noise=noise,
        seed=seed,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet or as_json,
    )
    if as_json:
        from lbm.info import describe

        console.emit_json(describe(made))


@app.command()
def validate(
    full: Annotated[bool, typer.Option("--full", help="Every case (long), not the quick set.")] = False,
    only: Annotated[list[str] | None, option("--only", metavar="CASE", help="One case; may be repeated.")] = None,
    threads: Threads = None,
    page: Annotated[
        Path | None, option("--page", help="Markdown page whose tables and figures are made anew (with --full).")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Run published cases and compare: exit code 3 when one is missed."""
    _prepare()
    from lbm.validate import table
    from lbm.validate import validate as run

    results = run(full=full, only=tuple(only or ()), threads=threads, page=page, quiet=quiet or as_json)
    console.emit_json([result.as_dict() for result in results]) if as_json else console.say(table(results), quiet=quiet)
    if not all(result.passed for result in results):
        raise typer.Exit(3)


@app.command()
def benchmark(
    sizes: Annotated[
        str | None, option("--sizes", metavar="NYxNX,..", help="Grids, height first [128x128,256x512,1024x2048].")
    ] = None,
    dtypes: Annotated[str, typer.Option("--dtypes", help="Precisions.")] = "float32,float64",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time spent on each figure.")] = 2.0,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Measure speed (MLUPS), memory bandwidth, and how much of the bound it sets is reached."""
    _prepare()
    from lbm.benchmark import SIZES, table
    from lbm.benchmark import benchmark as run

    chosen = grids(sizes, "--sizes") if sizes else SIZES
    report = run(sizes=chosen, dtypes=names(dtypes), threads=threads, seconds=seconds)
    console.emit_json(report) if as_json else console.say(table(report))


def main() -> None:
    """Entry point of the script `lbm`."""
    console.run(app)
