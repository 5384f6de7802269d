"""The command `lbm`: options in, one function call out. Only typer is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lbm import console

app = typer.Typer(
    name="lbm",
    help="Two-dimensional flow by the lattice-Boltzmann method, written to documented Zarr datasets.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


@app.callback()
def _main() -> None:
    """Needed so that a single command would still be named on the command line."""


@app.command()
def simulate(
    viscosity: Annotated[float | None, _option("--viscosity", help="Shear viscosity nu, cells^2/tick [0.01].")] = None,
    bulk_viscosity: Annotated[
        float | None,
        _option(
            "--bulk-viscosity",
            help="Bulk viscosity nu_b, cells^2/tick, two-dimensional convention: sound decays as "
            "exp(-(nu + nu_b) k^2 t / 2) [0.1].",
        ),
    ] = None,
    inflow_velocity: Annotated[
        float | None, _option("--inflow-velocity", help="Mean inflow U, cells/tick [0.1].")
    ] = None,
    reynolds: Annotated[
        float | None,
        _option("--reynolds", help="Reynolds number U D / nu; derives the viscosity, or U when nu is given."),
    ] = None,
    obstacle: Annotated[str | None, _option("--obstacle", help="cylinder or none [cylinder].")] = None,
    diameter: Annotated[
        float | None, _option("--diameter", help="Diameter D, cells [an eighth of the height, at least 8].")
    ] = None,
    centre: Annotated[
        str | None,
        _option("--centre", metavar="X,Y", help="Centre of the obstacle, cells [a quarter of the length, middle]."),
    ] = None,
    size: Annotated[
        str | None, _option("--size", metavar="NYxNX", help="Cells, height first: 64x128 [128x128].")
    ] = None,
    frame_size: Annotated[
        str | None,
        _option("--frame-size", metavar="NYxNX", help="Pixels of a frame, box-filtered: 32x64 [--size]."),
    ] = None,
    frames: Annotated[int | None, _option("--frames", help="Frames of each trajectory [1000].")] = None,
    every: Annotated[int | None, _option("--every", help="Ticks between frames [128].")] = None,
    warmup: Annotated[int | None, _option("--warmup", help="Frames left out before the first one [75 D/U].")] = None,
    trajectories: Annotated[int | None, _option("--trajectories", help="Independent runs [10].")] = None,
    split: Annotated[
        str | None,
        _option(
            "--split",
            metavar="A,B,C",
            help="Runs for train,validation,test: shares (0.8,0.1,0.1) or counts (12,2,2) [0.8,0.1,0.1].",
        ),
    ] = None,
    seed: Annotated[int | None, _option("--seed", help="Seed of start and inflow noise [0].")] = None,
    fields: Annotated[
        str | None,
        _option(
            "--fields",
            metavar="A,B,..",
            help="Any of vorticity,velocity_x,velocity_y,density [vorticity].",
        ),
    ] = None,
    sides: Annotated[
        str | None, _option("--sides", help="Upper and lower boundary: periodic or free-slip [periodic].")
    ] = None,
    noise_streamwise: Annotated[
        float | None,
        _option("--noise-streamwise", help="Unsteady inflow: standard deviation of u, in units of U [0]."),
    ] = None,
    noise_transverse: Annotated[
        float | None,
        _option("--noise-transverse", help="Unsteady inflow: standard deviation of v, in units of U [0]."),
    ] = None,
    noise_time: Annotated[
        float | None, _option("--noise-time", help="Correlation time of the inflow noise, ticks [300].")
    ] = None,
    dtype: Annotated[
        str | None, _option("--dtype", help="Precision of the solver: float32 or float64 [float32].")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset to write.")] = Path("flow.zarr"),
    config: Annotated[
        Path | None, _option("--config", help="TOML file with any of these settings (underscores for dashes).")
    ] = None,
    sets: Annotated[
        list[str] | None, _option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    threads: Annotated[int | None, _option("--threads", help="Trajectories at the same time [one per core].")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished dataset, to the same bits.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what they cost; simulate nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: console.Debug = False,
) -> None:
    """Simulate trajectories of a flow and write them to a dataset."""
    flags = dict(locals())
    from lbm.config import SimulateConfig
    from lbm.settings import resolve

    settings = resolve(
        SimulateConfig,
        file=config,
        sets=sets or [],
        flags={name: flags[name] for name in SimulateConfig.model_fields},
    )
    from lbm import runner
    from lbm.vectors import prefer_wide_vectors

    prefer_wide_vectors()  # a setting of the whole process: made by this program, not by an import

    if dry_run:
        report = runner.dry_run(settings, output, threads=threads, overwrite=overwrite, resume=resume)
        console.emit_json(report) if as_json else console.say(runner.dry_run_text(report))
        return
    silent = quiet or as_json
    path = runner.simulate(settings, output=output, threads=threads, resume=resume, overwrite=overwrite, quiet=silent)
    if as_json:
        from lbm.info import describe

        console.emit_json(describe(path))


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
    path: Annotated[Path, typer.Argument(help="A dataset of frames (trajectory, time, y, x).")],
    output: Annotated[
        Path | None, _option("--output", "-o", help="File to write: .webp or .gif [name of the dataset.webp].")
    ] = None,
    variable: Annotated[str, typer.Option("--variable", help="Field to show.", show_default=True)] = "vorticity",
    trajectory: Annotated[int, typer.Option("--trajectory", help="Which run.")] = 0,
    start: Annotated[int, typer.Option("--start", help="First frame.")] = 0,
    frames: Annotated[int | None, _option("--frames", help="Number of frames [200 at most].")] = None,
    scale: Annotated[int | None, _option("--scale", help="Screen pixels per pixel [about 512 wide].")] = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 20.0,
    limit: Annotated[
        float | None, _option("--limit", help="Value at the ends of the colour scale [99.5th percentile].")
    ] = None,
    allow_incomplete: Annotated[bool, typer.Option("--allow-incomplete", help="Accept an unfinished dataset.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: console.Debug = False,
) -> None:
    """Make a WebP or GIF film of one trajectory; colours diverge about zero, the obstacle is grey."""
    from lbm.animation import animate as make

    made = make(
        path,
        output,
        variable=variable,
        trajectory=trajectory,
        start=start,
        frames=frames,
        scale=scale,
        fps=fps,
        limit=limit,
        allow_incomplete=allow_incomplete,
        overwrite=overwrite,
    )
    console.say(f"{made}: {console.size(made.stat().st_size)}", quiet=quiet)


def main() -> None:
    """Entry point of the script `lbm`."""
    console.run(app)
