"""The command `rvdflow`. Each command is a thin wrapper of one documented function; only typer is imported here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lbm.console import Debug, emit_json, run, say
from lbm.errors import UsageError
from rvdflow.video.cli import app as convert

app = typer.Typer(
    name="rvdflow",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Learn from flow or video, forecast ensembles, verify them. Data: `lbm simulate`, `rvdflow convert`.",
)
app.add_typer(convert)

DataPath = Annotated[Path, typer.Option("--data", help="Dataset of flow, such as flow.zarr.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings in a TOML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One setting, as model.width=24; repeatable.")]
Seed = Annotated[int | None, typer.Option(help="Every random number follows from it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: the cores there are.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print settings and estimates, do nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def train(
    data: DataPath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder; default: runs/PRESET-N.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="rvd, or another system: svg-lp, ivrnn, convgru, retrogan, futuregan, dvd-gan, timegrad.",
            show_default="rvd",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="small, modern, one-step, modern-one-step, paper-64, released-64, ..., or MODEL-small, MODEL-64, "
            "MODEL-128; default: by device."
        ),
    ] = None,
    config: Config = None,
    sets: Sets = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time to train instead, in minutes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a forecaster on the training runs of a dataset."""
    flags = {
        "system": model,
        "preset": preset,
        "train.steps": steps,
        "train.minutes": minutes,
        "train.batch_size": batch_size,
        "train.learning_rate": learning_rate,
        "train.seed": seed,
    }
    from rvdflow import checkpoint
    from rvdflow.choices import run_config
    from rvdflow.estimate import estimate
    from rvdflow.run_folder import next_run_folder
    from rvdflow.train import train

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, the one that speaks
    quiet = quiet or json or not first
    if output is None and "RANK" in os.environ:
        raise UsageError("processes started by torchrun share a run folder: name it with -o")
    if resume and output is None:
        output = checkpoint.newest_run()
    settings = run_config(data, config, sets or [], flags, device, output if resume else None, quiet or dry_run)
    if dry_run:
        if settings is None:
            raise UsageError("--dry-run shows what a new run would do: leave out --resume")
        emit_json({"config": settings.model_dump(mode="json"), "estimate": estimate(data, settings)})
        return
    if output is None:
        output = next_run_folder((settings.preset if settings else None) or "run")
    kept = train(
        data, output, settings, device=device, threads=threads, resume=resume, overwrite=overwrite, quiet=quiet
    )
    say(f"trained: {output}\nnext: rvdflow forecast --checkpoint {output} --data {data}", quiet=quiet)
    if json and first:
        meta = checkpoint.read(kept).meta
        result = {"run": str(output), "checkpoint": str(kept), **meta["optimiser"]}
        emit_json(result | {name: meta.get(name) for name in ("validation_crps", "validation_loss", "elapsed")})


@app.command()
def forecast(
    data: DataPath,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run folder or checkpoint file; default: the newest under runs/. Repeat it for an ensemble of runs."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: forecast.zarr, or METHOD.zarr.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="mean (that of a trained residual diffusion alone), or a reference: persistence, climatology, "
            "damped-persistence, linear-extrapolation, analog, linear-inverse, dmd, advection; default: a trained "
            "network, that of --checkpoint."
        ),
    ] = None,
    dress: Annotated[
        bool, typer.Option("--dress", help="Make an ensemble of a deterministic --method by its validation residuals.")
    ] = False,
    ensemble: Annotated[int, typer.Option(help="Members of the ensemble.")] = 32,
    context: Annotated[
        int | None, typer.Option(help="Frames seen before the forecast starts.", show_default="4")
    ] = None,
    lead: Annotated[int | None, typer.Option(help="Frames to forecast.", show_default="16")] = None,
    split: Annotated[str, typer.Option(help="Which runs: test, validation, train or all.")] = "test",
    stride: Annotated[
        int | None, typer.Option("--stride", "--every", help="Frames between init times; default: --lead.")
    ] = None,
    init_times: Annotated[str | None, typer.Option(help="Init times instead: 20,60 or 20:200:16.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Published cases of natural video instead: rvd-kth, rvd-bair, rvd-cityscapes.")
    ] = None,
    cases: Annotated[int | None, typer.Option(help="At most so many cases, spread evenly.")] = None,
    beyond: Annotated[bool, typer.Option("--beyond", help="Forecast past the end of the data, too.")] = False,
    sampler: Annotated[
        str | None, typer.Option(help="How residuals are drawn: ancestral, ddim, heun, dpmpp, truncated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Network calls per frame.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = None,
    precision: Annotated[str, typer.Option(help="Of the networks: float32, or bfloat16 (for GPUs).")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Have torch compile the networks first.")] = False,
    members_per_batch: Annotated[int | None, typer.Option(help="Members drawn at once (and per chunk).")] = None,
    cases_per_batch: Annotated[int | None, typer.Option(help="Cases drawn at once.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Forecast an ensemble of continuations of each test run."""
    from datetime import timedelta

    from rvdflow import ranks
    from rvdflow.choices import chosen_forecaster, integers
    from rvdflow.device import choose_device
    from rvdflow.forecast import estimate, forecast, open_truth
    from rvdflow.plan import plan, published_cases

    quiet = quiet or json
    wanted: dict[str, Any] = {"context": context, "lead": lead, "init_times": integers(init_times)}
    if protocol is not None:
        given = [name for name, value in {**wanted, "stride": stride}.items() if value is not None]
        if given:
            raise UsageError(f"--protocol {protocol} says which cases: leave out --{given[0].replace('_', '-')}")
        wanted = published_cases(protocol)
    seen: int = 4 if wanted["context"] is None else wanted["context"]
    ahead: int = 16 if wanted["lead"] is None else wanted["lead"]
    if split not in ("test", "validation", "train", "all"):
        raise UsageError(f"--split {split}: wanted test, validation, train or all")
    job = ranks.start(choose_device(device), patience=timedelta(days=7))  # a chunk of leads may take hours
    options = {
        "checkpoint": checkpoint, "sampler": sampler, "steps": steps, "device": device, "threads": threads,
        "precision": precision, "compile": compile,
    }  # fmt: skip
    forecaster = chosen_forecaster(method, data, seen, ahead, dress, options, quiet or not job.first)
    chosen: dict[str, Any] = {
        "members": ensemble, "lead": ahead, "context": seen, "split": None if split == "all" else split,
        "stride": stride, "init_times": wanted["init_times"], "cases": cases, "beyond": beyond, "seed": seed or 0,
        "members_per_batch": members_per_batch, "cases_per_batch": cases_per_batch,
    }  # fmt: skip
    if dry_run:
        opened, frames = open_truth(data, forecaster, seen)
        chosen |= {"members": forecaster.size(ensemble), "processes": job.size}
        if job.first:
            emit_json(estimate(forecaster, opened, frames, plan(opened, frames, **chosen), job.size))
        return
    output = output or Path("forecast.zarr" if method in (None, "rvd") else f"{forecaster.method}.zarr")
    forecast(forecaster, data, output, **chosen, resume=resume, overwrite=overwrite, quiet=quiet, ranks=job)
    job.stop()
    if job.first:
        say(f"wrote {output}\nnext: rvdflow verify {output} --truth {data}", quiet=quiet)
        if json:
            from rvdflow.info import describe

            emit_json(describe(output))


@app.command()
def verify(
    forecasts: Annotated[list[str], typer.Argument(help="Forecasts of the same truth; NAME=PATH names a method.")],
    truth: Annotated[Path, typer.Option(help="The dataset they forecast, such as flow.zarr.")],
    reference: Annotated[
        str | None, typer.Option(help="Method that skill is relative to; default: climatology, else persistence.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Scores.")] = Path("scores.zarr"),
    report: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    variable: Annotated[str | None, typer.Option(help="Which variable; default: vorticity, or the only one.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", help="A name in files from elsewhere, as theirs=ours; repeatable.")
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Thresholds of events, as 0.01,0.02; default: quantiles .8 and .95.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="A published way of scoring: rvd, rvd-kth, rvd-bair or rvd-cityscapes.")
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            help="Values of black and white, as -0.05,0.05; default: 0,255 of 8 bits, else extremes of training."
        ),
    ] = None,
    scores: Annotated[
        str | None, typer.Option("--scores", help="Only some families, as events,spectra; points: the CRPS alone.")
    ] = None,
    lpips_weights: Annotated[
        str, typer.Option(help="Weights for LPIPS: a file, auto (where torchvision keeps them) or none.")
    ] = "auto",
    lpips_trunk: Annotated[str, typer.Option(help="Network of LPIPS that they are of: alex or vgg.")] = "alex",
    fvd_weights: Annotated[Path | None, typer.Option(help="Weights of the network of FVD: a file, or auto.")] = None,
    scheduler: Annotated[str, typer.Option(help="threads, or a dask cluster as tcp://host:8786.")] = "threads",
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Score unfinished forecasts as far as they go.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Score forecasts against the truth and write a report."""
    from rvdflow.verify import print_skill_table, summary_json, verify

    found = verify(
        forecasts, truth, reference=reference, output=output, report=report, variable=variable,
        rename=_pairs(rename), thresholds=_numbers("--threshold", threshold), protocol=protocol,
        value_range=_two(_numbers("--value-range", value_range)),
        families=scores.split(",") if scores else None,
        lpips_weights=None if lpips_weights == "none" else lpips_weights, lpips_trunk=lpips_trunk,
        fvd_weights=fvd_weights,
        scheduler=scheduler, allow_incomplete=allow_incomplete, overwrite=overwrite, quiet=quiet or json,
    )  # fmt: skip
    page = report / "index.html"
    if json:
        emit_json({"scores": str(output), "report": str(page), **summary_json(found)})
        return
    print_skill_table(found, quiet=quiet)
    say(f"report: {page}", quiet=quiet)


def _pairs(given: list[str] | None) -> dict[str, str]:
    """`theirs=ours` as a mapping."""
    pairs = [text.partition("=") for text in given or []]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise UsageError(f"--rename wants names as number=member, got {(old + equals + new)[:60]!r}")
    return {old: new for old, _, new in pairs}


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [float("nan")]
    if not all(abs(n) < float("inf") for n in numbers):
        raise UsageError(f"{option} wants numbers as 0.01,0.02, got {text[:60]!r}")
    return numbers


def _two(numbers: list[float] | None) -> tuple[float, float] | None:
    if numbers is None:
        return None
    if len(numbers) != 2:
        raise UsageError(f"--value-range wants two numbers, got {len(numbers)}")
    return numbers[0], numbers[1]


@app.command()
def info(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, checkpoint files, exported models or stores.")],
    curves: Annotated[
        Path | None, typer.Option("--curves", help="Draw the training curves of the runs: a PNG or SVG.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Axis of the curves: steps or minutes.")] = "steps",
    check: Annotated[bool, typer.Option("--check", help="Read every byte and compare checksums.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run folder or a store holds; draw training curves, of several runs for comparison."""
    from rvdflow.info import describe
    from rvdflow.info_words import lines

    found = [describe(path, check=check) for path in paths]
    if json:
        emit_json(found[0] if len(found) == 1 else found)
    else:
        say("\n\n".join("\n".join(lines(one)) for one in found))
    if curves is not None:
        from rvdflow.curves import draw_curves

        draw_curves(paths, curves, by=by, overwrite=overwrite)  # type: ignore[arg-type]
        say(f"wrote {curves}", quiet=json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder or checkpoint file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the weights and what goes with them.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a run's weights for other programs: model.safetensors and model.json."""
    from rvdflow.export_weights import export

    say(f"wrote {export(run, output, overwrite=overwrite)}", quiet=quiet)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="Cells, budget and protocol, such as configs/study/quick.toml.")],
    data: Annotated[Path | None, typer.Option("--data", help="Dataset of flow; --table needs none.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the study; default: studies/NAME.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="Only these cells: NAME,NAME.")] = None,
    part: Annotated[str | None, typer.Option("--part", help="Only every N-th training: K/N, for N machines.")] = None,
    join: Annotated[
        list[Path] | None, typer.Option("--join", help="Another folder of this study for the table; repeatable.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print what there is so far; with --data make its report, too.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print the cells and what is done, do nothing.")] = False,
    dry_run: DryRun = False,
    retry: Annotated[bool, typer.Option("--retry", help="Do failed cells again.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train and score a list of configurations alike, and print how they compare. To resume, run it again."""
    from rvdflow.study_config import read_study
    from rvdflow.study_jobs import chosen, parse_part
    from rvdflow.study_table import table as tabulate
    from rvdflow.study_text import markdown, write

    output = output or Path("studies") / config.stem
    names = [name for name in (only or "").split(",") if name]
    if table:
        found = tabulate(read_study(config), [output, *(join or [])])
        write(found, output)
        if data is not None:
            from rvdflow.study import prepare
            from rvdflow.study_jobs import Folder
            from rvdflow.study_report import report

            place = prepare(read_study(config), data, output, threads=threads, quiet=quiet or json, write=False)
            report(place, [Folder(folder) for folder in (output, *(join or []))])
    elif data is None:
        raise UsageError("which dataset? Give it with --data (only --table needs none)")
    elif listed or dry_run:
        from rvdflow.study import prepare
        from rvdflow.study_estimate import listing, text

        read = read_study(config)
        place = prepare(read, data, output, device=device, threads=threads, quiet=True, write=False)
        plan = listing(place, chosen(read, names, parse_part(part)), times=dry_run)
        emit_json(plan) if json else say(text(plan))
        return
    else:
        from rvdflow.study import study

        found = study(
            config, data, output, only=names, part=parse_part(part), joined=join or [], retry=retry, device=device,
            threads=threads, quiet=quiet or json,
        )  # fmt: skip
    emit_json(found.json()) if json else say(markdown(found))
    say(f"wrote {output}/table.md, .tex, .json, .png, .svg", quiet=quiet or json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything it makes.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A minute: all steps, too little training.")] = False,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Simulate a vortex street, learn it, forecast it, verify the forecast: the whole pipeline in minutes."""
    from rvdflow.demo import demo

    demo(output, quick=quick, overwrite=overwrite)


def main() -> NoReturn:
    # Waiting OpenMP threads that spin without end starve each other on a machine with other work (with 4 busy processes
    # on 2 cores training ran 8 times slower); threads that do not spin at all cost a third of the speed of an idle one.
    # A short spin avoids most of both: of two trainings at once, each takes 2.6 times as long for a step as alone.
    # Read once, when torch is loaded; what is set already is respected.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    run(app)
