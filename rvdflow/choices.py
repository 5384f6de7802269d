"""What a command line means: the configuration of a run, a forecaster, init times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbm.console import say
from lbm.errors import UsageError

if TYPE_CHECKING:
    from rvdflow.forecaster import Forecaster


def run_config(
    data: Path,
    file: Path | None,
    sets: list[str],
    flags: dict[str, Any],
    device: str,
    resumed: Path | None,
    quiet: bool,
) -> Any:
    """The run's configuration; the preset is chosen when none is given. None: a resume that names no settings."""
    from lbm.dataset import open_dataset
    from lbm.settings import load_toml, parse_assignment, resolve
    from rvdflow.device import choose_device
    from rvdflow.run_folder import read_config
    from rvdflow.train_config import SYSTEMS, RunConfig, choose_preset

    stored = read_config(resumed) if resumed and (resumed / "config.json").is_file() else None
    if stored and file is None and not sets and all(value is None for value in flags.values()):
        return None
    # Settings are checked against their preset: what that is must be known before any of them is.
    given = load_toml(file) if file else {}
    given |= dict(parse_assignment(text) for text in sets)
    given |= {name: value for name, value in flags.items() if value is not None}
    if given.get("preset") is None:
        if stored:
            flags = {**flags, "preset": stored.preset, "system": given.get("system") or stored.system}
        elif given.get("system", "rvd") in SYSTEMS:
            frames = open_dataset(data, chunks=None).sizes
            pixels = max(frames.get("y", 0), frames.get("x", 0))
            name = choose_preset(choose_device(device).type, given.get("system", "rvd"), pixels)
            say(f"preset: {name} ({frames.get('y')} x {frames.get('x')} frames)", quiet=quiet)
            flags = {**flags, "preset": name}
    return resolve(RunConfig, file=file, sets=sets, flags=flags)


def chosen_forecaster(
    method: str | None, data: Path, context: int, lead: int, dress: bool, options: dict[str, Any], quiet: bool
) -> Any:
    """The method called `method`: a trained run, the mean of one, or a reference fitted on the spot."""
    from lbm.dataset import open_dataset
    from rvdflow import baselines
    from rvdflow.checkpoint import find, newest_run
    from rvdflow.network_forecaster import ResidualDiffusionForecaster, load
    from rvdflow.pooled import Pooled
    from rvdflow.train_config import SYSTEMS

    plain = None if method is None else method.removesuffix("-dressed")
    dress = dress or plain != method
    of_run = [name for name in ("sampler", "steps") if options[name] is not None]
    of_networks = of_run or options["compile"] or options["precision"] != "float32"
    if plain is not None and plain not in (*SYSTEMS, "mean"):
        if plain not in baselines.names():
            known = ", ".join([*SYSTEMS, "mean", "mean-dressed", *baselines.names()])
            raise UsageError(f"method {method!r} is not known: use {known}")
        if of_networks or options["checkpoint"]:
            wrong = "--checkpoint, --sampler, --steps, --precision and --compile"
            raise UsageError(f"{wrong} mean nothing to --method {method}: leave them out")
        return baselines.fit(plain, open_dataset(data, chunks=None), context=context, lead=lead, dress=dress)
    if plain == "rvd" and dress:
        raise UsageError("--dress is for a deterministic --method; rvd is an ensemble already")
    if plain == "mean" and of_run:
        raise UsageError("--sampler and --steps mean nothing to the mean, which draws nothing: leave them out")
    runs = options.pop("checkpoint")
    if not runs:
        runs = [newest_run()]
        say(f"checkpoint: {find(runs[0])} (the newest)", quiet=quiet)

    def one(run: Path) -> Forecaster:
        part = load(run, **options)
        if plain == "mean" and isinstance(part, ResidualDiffusionForecaster):
            return part.mean()
        if plain == "mean":
            raise UsageError(f"{run} is a run of {part.method}, which has no mean of its own: leave out --method")
        if plain not in (None, part.method):
            raise UsageError(f"{run} is a run of {part.method}, not of {plain}: leave out --method")
        return part

    parts = [one(run) for run in runs]
    made = parts[0] if len(parts) == 1 else Pooled(parts)
    if not dress:
        return made
    if not made.deterministic:
        raise UsageError(f"--dress is for a deterministic method; {made.method} is an ensemble already")
    return baselines.dress(made, open_dataset(data, chunks=None), context=context, lead=lead)


def integers(text: str | None) -> list[int] | None:
    """`3,19,35` or `3:200:16` (stop excluded) as numbers."""
    if text is None:
        return None
    try:
        if ":" in text:
            return list(range(*(int(part) for part in text.split(":"))))
        return [int(part) for part in text.split(",")]
    except (TypeError, ValueError):
        raise UsageError(f"--init-times wants numbers as 20,60 or 20:200:16, got {text[:60]!r}") from None
