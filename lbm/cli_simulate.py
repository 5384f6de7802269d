"""The command `lbm simulate`: one option for each setting of `lbm.config.SimulateConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lbm import console
from lbm.parsing import tables

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def option(*names: str, help: str, metavar: str | None = None) -> Any:
    """An option whose default, if it has one, stands in [brackets] at the end of its help."""
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


def simulate(
    viscosity: Annotated[float | None, option("--viscosity", help="Shear viscosity nu, cells^2/tick [0.01].")] = None,
    bulk_viscosity: Annotated[
        float | None,
        option(
            "--bulk-viscosity",
            help="Bulk viscosity nu_b, cells^2/tick, two-dimensional convention: sound decays as "
            "exp(-(nu + nu_b) k^2 t / 2) [0.1].",
        ),
    ] = None,
    inflow_velocity: Annotated[
        float | None, option("--inflow-velocity", help="Mean inflow U, cells/tick [0.1].")
    ] = None,
    reynolds: Annotated[
        float | None,
        option("--reynolds", help="Reynolds number U L / nu; derives the viscosity, or U when nu is given."),
    ] = None,
    length: Annotated[
        float | None,
        option("--length", help="Reference length L of Re and coefficients, cells [size of the largest obstacle]."),
    ] = None,
    obstacle: Annotated[
        list[str] | None,
        option(
            "--obstacle",
            metavar="SHAPE[:KEY=VALUE,..]",
            help="cylinder, ellipse, square, polygon, naca, image or none, with centre=X,Y size= angle= aspect= "
            "corners= vertices=X,Y,.. profile= file= spin=; may be repeated [cylinder].",
        ),
    ] = None,
    diameter: Annotated[
        float | None, option("--diameter", help="Size of the obstacle, cells [an eighth of the height, at least 8].")
    ] = None,
    centre: Annotated[
        str | None,
        option("--centre", metavar="X,Y", help="Centre of the obstacle, cells [a quarter of the length, middle]."),
    ] = None,
    angle: Annotated[
        float | None,
        option("--angle", help="Angle of the obstacle, degrees counter-clockwise: minus the angle of attack [0]."),
    ] = None,
    spin: Annotated[
        float | None, option("--spin", help="Rotation of a cylinder, rad/tick counter-clockwise [0].")
    ] = None,
    size: Annotated[
        str | None, option("--size", metavar="NYxNX", help="Cells, height first: 64x128 [128x128].")
    ] = None,
    frame_size: Annotated[
        str | None,
        option("--frame-size", metavar="NYxNX", help="Pixels of a frame, box-filtered: 32x64 [--size]."),
    ] = None,
    frames: Annotated[int | None, option("--frames", help="Frames of each trajectory [1000].")] = None,
    every: Annotated[int | None, option("--every", help="Ticks between frames [128].")] = None,
    warmup: Annotated[int | None, option("--warmup", help="Frames left out before the first one [75 L/U].")] = None,
    trajectories: Annotated[
        int | None,
        option("--trajectories", help="Independent runs [10]; with --sweep, of each combination [1]."),
    ] = None,
    split: Annotated[
        str | None,
        option(
            "--split",
            metavar="A,B,C",
            help="Runs for train,validation,test: shares (0.8,0.1,0.1) or counts (12,2,2) [0.8,0.1,0.1].",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option(
            "--sweep",
            metavar="NAME=A,B,..",
            help="Runs for each of these values: viscosity=0.005,0.01 or reynolds=80:400:20 (the end left out); "
            "repeated, for each combination.",
        ),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        option("--held-out", metavar="NAME=LOW:HIGH", help="Runs of a sweep that are for testing only."),
    ] = None,
    seed: Annotated[int | None, option("--seed", help="Seed of start and inflow noise [0].")] = None,
    fields: Annotated[
        str | None,
        option(
            "--fields",
            metavar="A,B,..",
            help="Any of vorticity,velocity_x,velocity_y,density [vorticity].",
        ),
    ] = None,
    sides: Annotated[
        str | None, option("--sides", help="Lower and upper boundary: periodic, free-slip or no-slip [periodic].")
    ] = None,
    side_velocity: Annotated[
        str | None,
        option("--side-velocity", metavar="A,B", help="Velocity of no-slip sides, lower,upper, cells/tick [0,0]."),
    ] = None,
    ends: Annotated[
        str | None, option("--ends", help="Left and right: open (inlet, outlet), periodic or walls [open].")
    ] = None,
    inlet: Annotated[
        str | None, option("--inlet", help="Profile of the inflow: uniform or parabolic [uniform].")
    ] = None,
    startup: Annotated[
        int | None, option("--startup", help="Ticks in which the inflow rises from rest; 0 starts moving [0].")
    ] = None,
    body_force: Annotated[
        str | None,
        option("--body-force", metavar="X,Y", help="Acceleration of the fluid, cells/tick^2 [0,0]."),
    ] = None,
    collision: Annotated[
        str | None, option("--collision", help="Relaxation rates: mrt, trt, bgk or regularised [mrt].")
    ] = None,
    magic: Annotated[
        float | None,
        option("--magic", help="Magic parameter Lambda of mrt and trt; 0.1875 puts half-way walls in place."),
    ] = None,
    walls: Annotated[
        str | None, option("--walls", help="Walls of obstacles: interpolated or half-way [interpolated].")
    ] = None,
    outlet: Annotated[str | None, option("--outlet", help="Outlet: convective or sponge [convective].")] = None,
    sponge_length: Annotated[
        int | None, option("--sponge-length", help="Cells of the sponge [an eighth of the length].")
    ] = None,
    noise_streamwise: Annotated[
        float | None,
        option("--noise-streamwise", help="Unsteady inflow: standard deviation of u, in units of U [0]."),
    ] = None,
    noise_transverse: Annotated[
        float | None,
        option("--noise-transverse", help="Unsteady inflow: standard deviation of v, in units of U [0]."),
    ] = None,
    noise_time: Annotated[
        float | None, option("--noise-time", help="Correlation time of the inflow noise, ticks [300].")
    ] = None,
    forces_every: Annotated[
        int | None,
        option("--forces-every", help="Ticks between records of drag and lift; 0: none [1, more for tiny frames]."),
    ] = None,
    save_states: Annotated[
        int | None, option("--save-states", help="Frames between saved states, for lbm ensemble; 0: none [0].")
    ] = None,
    dtype: Annotated[
        str | None, option("--dtype", help="Precision of the solver: float32 or float64 [float32].")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset to write.")] = Path("flow.zarr"),
    config: Annotated[
        Path | None, option("--config", help="TOML file with any of these settings (underscores for dashes).")
    ] = None,
    sets: Annotated[
        list[str] | None, option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    threads: Annotated[int | None, option("--threads", help="Trajectories at the same time [one per core].")] = None,
    scheduler: Annotated[
        str,
        typer.Option("--scheduler", help="Who runs them: threads, processes, or a dask cluster at tcp://host:port."),
    ] = "threads",
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

    flags |= {"obstacle": obstacle or None, "sweep": tables(sweep, "--sweep")}
    flags["held_out"] = tables(held_out, "--held-out")
    settings = resolve(
        SimulateConfig,
        file=config,
        sets=sets or [],
        flags={name: flags[name] for name in SimulateConfig.model_fields if name in flags},
    )
    from lbm.vectors import prefer_wide_vectors

    prefer_wide_vectors()  # a setting of the whole process, made by this program before anything imports numba
    from lbm import runner

    if dry_run:
        report = runner.dry_run(settings, output, threads=threads, overwrite=overwrite, resume=resume)
        console.emit_json(report) if as_json else console.say(runner.dry_run_text(report))
        return
    silent = quiet or as_json
    path = runner.simulate(
        settings,
        output=output,
        threads=threads,
        scheduler=scheduler,
        resume=resume,
        overwrite=overwrite,
        quiet=silent,
    )
    if as_json:
        from lbm.info import describe

        console.emit_json(describe(path))
