"""Score any number of forecast methods against one truth in a single streamed pass.

    truth    (trajectory, time, [channel,] y, x)                          + solid (trajectory, y, x)
    forecast (trajectory, init_time, member, lead_time, [channel,] y, x)  one dataset per method
    scores   (method, trajectory, init_time, lead_time, ...)       statistics over fluid cells, see `evaluation.layout`

What is stored are *statistics*: quantities whose average means something (CRPS, variance, squared error, counts,
power). Metrics (RMSE, CRPSS, spread-skill ratio, intervals) are functions of averages and are derived from the
result afterwards, by `evaluation.summary`: aggregate first, divide last.

The work is cut into portions, some leads of one case of one method; a case is a pair (trajectory, init_time). Few
portions are in memory at a time, here or on the workers of a dask cluster, and they are added up in the order of the
cases, so that neither threads nor workers nor portions change a number. A case is scored only if every method has
it, so that all methods answer the same questions.

A variable with channels is natural video. Points (CRPS, errors, spread, ranks) are then all pixels of all channels, in
the variable's own unit (grey levels 0 ... 255 for 8 bits); what needs one picture sees the luma, and networks see the
colours: `evaluation.colour`, `evaluation.scoring.form_of`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation import layout, protocols, scoring
from evaluation.alignment import align, lighter
from evaluation.background import Background, background
from evaluation.colour import DIM, Channels
from evaluation.errors import EvaluationError
from evaluation.foreign import conform
from evaluation.pointwise import threads_available
from evaluation.scoring import Case, Portion, Recipe
from evaluation.sums import Sums

SCHEMA_VERSION = 1
MEMORY = 2**30  # bytes that the portions under way may take together
COPIES = 4  # of a portion, at most, while it is scored
NOT_PROTOCOL = (  # attributes of a forecast that say nothing about how it was made, or say it at length
    *("title", "source", "history", "config", "schema_version", "complete", "manifest", "coordinates"),
    *("frame_interval", "frame_interval_units"),
)


@dataclass
class _Method:
    """A forecast and the truth it is for, aligned, lazy."""

    name: str
    values: xr.DataArray  # (trajectory, init_time, member, lead_time, [channel,] y, x), lazy
    truth: xr.DataArray  # (trajectory, init_time, lead_time, [channel,] y, x), lazy
    attrs: dict[str, Any]

    @property
    def members(self) -> int:
        return int(self.values.sizes["member"])

    @property
    def deterministic(self) -> bool:
        return self.members == 1


class Verification:
    """A verification that is planned: `cases`, `leads`, `template` say what it will hold, `runs` does it.

    Arguments as of `verify`.
    """

    def __init__(
        self,
        truth: xr.Dataset,
        forecasts: Mapping[str, xr.Dataset],
        *,
        variable: str | None = None,
        reference: str | None = None,
        mask_walls: bool = True,
        families: Iterable[str] | None = None,
        thresholds: Sequence[float] | None = None,
        probes: Sequence[tuple[int, int]] | None = None,
        protocol: str | None = None,
        value_range: tuple[float, float] | None = None,
        lpips: Any = None,
        fvd: Any = None,
        memory: int = MEMORY,
        seed: int = 0,
        replicates: int = 200,
    ):
        if not forecasts:
            raise EvaluationError("no forecast to verify: give at least one")
        truth, forecasts = conform(truth, forecasts)
        if protocol:
            forecasts = protocols.chosen(protocol).cases(protocol, forecasts)
        self.truth, self.forecasts, self.memory, self.protocol = truth, forecasts, memory, protocol or ""
        self.variable = _choose_variable(truth, forecasts, variable)
        self.channels = Channels.of(truth[self.variable])
        if reference is not None and reference not in forecasts:
            raise EvaluationError(f"reference {reference!r} is not among the forecasts ({', '.join(forecasts)})")
        self.reference = reference or default_reference(forecasts)
        self.cases, self.leads = common_cases(forecasts)
        self.left_out = len(set().union(*map(_written, forecasts.values()))) - len(self.cases)
        if self.protocol:
            self.leads = protocols.chosen(self.protocol).kept(self.protocol, self.leads)
        self.methods = [self._method(name, forecast) for name, forecast in forecasts.items()]
        self.solid = truth["solid"] if mask_walls and "solid" in truth else None
        frames = truth[self.variable]
        self.background = background(
            truth, frames, thresholds=thresholds, probes=probes, mask_walls=mask_walls, value_range=value_range,
            grey=bool(self.protocol),
        )  # fmt: skip
        shape = (self.methods[0].values.sizes["y"], self.methods[0].values.sizes["x"])
        self.recipe = Recipe(
            background=self.background,
            families=_families(families, shape, len(self.leads), self.background, lpips, fvd),
            ranks=max(m.members for m in self.methods) + 1,
            replicates=replicates,
            seed=seed,
            lpips=lpips,
            fvd=fvd,
            channels=self.channels,
        )
        self.sums = Sums(self._sizes(shape), self.recipe.families, len(self.methods))

    def _method(self, name: str, forecast: xr.Dataset) -> _Method:
        if forecast["lead_time"].values.tolist() != self.leads:  # a selection copies: not without need
            forecast = forecast.sel(lead_time=self.leads)
        values, aligned = align(forecast, self.truth, self.variable, mask_walls=False)
        frame = ("y", "x") if self.channels is None else (DIM, "y", "x")
        order = ("trajectory", "init_time", "lead_time", *frame)
        wanted = ("trajectory", "init_time", "member", "lead_time", *frame)
        if set(values.dims) != set(wanted):
            raise EvaluationError(
                f"{self.variable} of {name} is on ({', '.join(map(str, values.dims))}), wanted {', '.join(wanted)}: "
                "select along other dimensions, or rename them (--rename theirs=ours)"
            )
        values = values.transpose(*wanted)
        aligned = aligned.transpose(*order)
        if self.channels is not None:
            values, aligned = lighter(values), lighter(aligned)
        return _Method(name, values, aligned, dict(forecast.attrs))

    def _sizes(self, shape: tuple[int, int]) -> dict[str, int]:
        b, leads = self.background, len(self.leads)
        runs = sorted({run for run, _ in self.cases})
        sizes = {"method": len(self.methods), "init_time": len({init for _, init in self.cases}), "lead_time": leads}
        sizes |= {"y": shape[0], "x": shape[1], "rank": self.recipe.ranks, "replicate": self.recipe.replicates}
        sizes |= {"threshold": len(b.thresholds), "exceeding": self.recipe.ranks, "bin": len(b.edges) - 1}
        sizes |= {"window": len(scoring.windows(shape)), "scale": len(scoring.scales(shape))}
        sizes |= {"probe": len(b.probes), "frequency": leads // 2}
        sizes["mode"] = 0 if b.pod is None else len(b.pod.fraction)  # type: ignore[attr-defined]
        sizes["wavenumber"] = len(self._wavenumbers(shape))
        sizes["block"] = _blocks(len(runs), sizes)
        return sizes | {"trajectory": len(runs)}

    def _wavenumbers(self, shape: tuple[int, int]) -> np.ndarray:
        from evaluation.spectra import wavenumbers

        return wavenumbers(shape) if "spectra" in self.recipe.families else np.zeros(0)

    # -------------------------------------------------------------- the pass

    def runs(
        self,
        *,
        client: Any = None,
        threads: int | None = None,
        on_case: Callable[[int, int], None] | None = None,
    ) -> Iterator[xr.Dataset]:
        """The statistics of one run (trajectory) after another; once, then `totals` has what is summed over all.

        client: a `distributed.Client` whose workers score the portions; else `threads` of this process do.
        """
        import dask

        done = 0
        with dask.config.set(scheduler="synchronous"), _executor(client, threads) as (pool, width):
            results = _in_order(pool, width, self._portions(width), self.recipe, client)
            for run in self.template["trajectory"].values:
                self.sums.begin_run()
                for case in (c for c in self.cases if c[0] == run):
                    self._add_case(case, results, width)
                    done += 1
                    if on_case is not None:
                        on_case(done, len(self.cases))
                yield self._run_dataset(int(run))

    def _add_case(self, case: Case, results: Iterator[tuple[Portion, dict[str, np.ndarray]]], width: int) -> None:
        where = {
            "init_time": self.template.indexes["init_time"].get_loc(case[1]),
            "block": int(self.template["block"].sel(trajectory=case[0])),
        }
        for m, method in enumerate(self.methods):
            for _ in self._lead_blocks(method, width):
                portion, found = next(results)
                self.sums.add(found, {**where, "method": m, "lead_time": portion.leads})
            self.sums.end_case(m, case[0])

    def _portions(self, width: int) -> Iterator[Portion]:
        for case in self.cases:
            pick = {"trajectory": case[0], "init_time": case[1]}
            fluid = self._fluid(case)
            for m, method in enumerate(self.methods):
                values, truth = method.values.sel(pick), method.truth.sel(pick)
                for leads in self._lead_blocks(method, width):
                    part = {"lead_time": leads}
                    yield Portion(m, method.name, case, leads, values.isel(part), truth.isel(part), fluid)

    def _lead_blocks(self, method: _Method, width: int) -> list[slice]:
        """The leads of a case, cut so that the portions under way keep within the memory."""
        per_cell = method.values.dtype.itemsize * (method.members + 1)
        if self.channels is not None:  # and one picture in floats
            per_cell = per_cell * len(self.channels.names) + 4 * (method.members + 1)
        per_lead = per_cell * int(np.prod(method.values.shape[-2:]))
        most = max(1, int(self.memory / (COPIES * (width + 1) * per_lead)))
        count = -(-len(self.leads) // most)
        edges = [len(self.leads) * k // count for k in range(count + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    def _fluid(self, case: Case) -> np.ndarray:
        if self.solid is None:
            return np.ones((self.sums.sizes["y"], self.sums.sizes["x"]), bool)
        walls = self.solid.sel(trajectory=case[0]) if "trajectory" in self.solid.dims else self.solid
        fluid = ~walls.transpose("y", "x").values.astype(bool)
        if not fluid.any():
            raise EvaluationError(f"trajectory {case[0]} has no fluid cell: nothing to verify")
        return fluid

    # -------------------------------------------------------------- what comes out

    @property
    def template(self) -> xr.Dataset:
        """The coordinates of the scores, and `members`, `deterministic`, `pod_fraction`: known before the pass."""
        b, sizes = self.background, self.sums.sizes
        runs = sorted({run for run, _ in self.cases})
        like = self.methods[0].values
        coords: dict[str, Any] = {
            "method": np.array([m.name for m in self.methods], object),
            "trajectory": runs,
            "init_time": sorted({init for _, init in self.cases}),
            "lead_time": list(self.leads),
            "y": like["y"].values,
            "x": like["x"].values,
            "rank": np.arange(sizes["rank"]),
            "block": ("trajectory", np.arange(len(runs)) * sizes["block"] // len(runs)),
        }
        shape = (sizes["y"], sizes["x"])
        more = {
            "exceeding": np.arange(sizes["exceeding"]),
            "threshold": np.array(b.thresholds),
            "window": np.array(scoring.windows(shape)),
            "scale": np.array(scoring.scales(shape)),
            "wavenumber": self._wavenumbers(shape),
            "mode": np.arange(1, sizes["mode"] + 1),
            "bin": (b.edges[1:] + b.edges[:-1]) / 2,
            "frequency": np.arange(1, sizes["frequency"] + 1) / len(self.leads),
            "probe_y": ("probe", np.array([p[0] for p in b.probes], int)),
            "probe_x": ("probe", np.array([p[1] for p in b.probes], int)),
        }
        used = {d for name in self.sums.names for d in layout.LAYOUT[name]}
        coords |= {n: c for n, c in more.items() if (c[0] if isinstance(c, tuple) else n) in used}
        data: dict[str, Any] = {
            "members": (("method",), np.array([m.members for m in self.methods])),
            "deterministic": (("method",), np.array([int(m.deterministic) for m in self.methods], np.int8)),
        }
        if "mode" in used:
            data["pod_fraction"] = (("mode",), np.asarray(b.pod.fraction))  # type: ignore[union-attr]
        return xr.Dataset(data, coords=coords)

    def _run_dataset(self, run: int) -> xr.Dataset:
        parts = self.sums.end_run(sum(case[0] == run for case in self.cases))
        found = {name: (layout.LAYOUT[name], values) for name, values in parts.items()}
        coords = {"trajectory": [run], **{c: self.template[c] for c in ("method", "init_time", "lead_time")}}
        return xr.Dataset(found, coords=coords)

    def totals(self) -> xr.Dataset:
        """What is summed over all runs, once `runs` is exhausted: maps, the band of flatness, Fréchet distances."""
        found = {name: (layout.LAYOUT[name], values) for name, values in self.sums.totals().items()}
        found |= {name: (("method",), values) for name, values in self.sums.distances().items()}
        return xr.Dataset(found)

    @property
    def statistics(self) -> dict[str, tuple[tuple[str, ...], np.dtype, dict[str, str]]]:
        """Dimensions, type and attributes of every statistic that `runs` and `totals` bring."""
        found = {}
        for name in self.sums.names:
            attrs = {"units": layout.units_of(name, self.units), "long_name": layout.LONG_NAMES[name]}
            if self.protocol and name in ("crps", "crps_map"):
                attrs["long_name"] = layout.LONG_NAMES["crps_classical"]
            found[name] = (layout.LAYOUT[name], self.sums.dtype(name), attrs)
        for name in self.sums.distance_names:
            long_name = layout.LONG_NAMES[name]
            if self.channels is not None:
                long_name = long_name.replace("physics features", "features of motion and texture")
            found[name] = (("method",), np.dtype(float), {"units": "1", "long_name": long_name})
        return found

    @property
    def units(self) -> str:
        """The unit of the variable as it is scored."""
        frames = self.truth[self.variable]
        own = str(frames.attrs.get("units", "1"))
        eight_bit_video = self.channels is not None and frames.dtype == np.uint8 and own in ("", "1")
        return "grey levels" if self.protocol or eight_bit_video else own

    @property
    def attributes(self) -> dict[str, Any]:
        """Sample, protocol, units, software: the attributes of the scores."""
        about, b = self.truth[self.variable].attrs, self.background
        interval = self.truth.attrs.get("frame_interval")
        protocol = {
            m.name: {k: _plain(v) for k, v in m.attrs.items() if k not in NOT_PROTOCOL and v is not None and str(v)}
            for m in self.methods
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "title": "Verification statistics of ensemble forecasts",
            "variable": self.variable,
            "variable_long_name": str(about.get("long_name", self.variable)),
            "units": self.units,
            "lead_unit": f"frames of {interval} {self.truth.attrs.get('frame_interval_units', '')}".strip()
            if interval
            else "frames",
            "cases": len(self.cases),
            "cases_left_out": self.left_out,
            "runs": len({run for run, _ in self.cases}),
            "reference": self.reference,
            "estimator": "classical" if self.protocol else "fair",
            "verification_protocol": self.protocol,
            "value_range": list(b.value_range),
            "data_range": b.data_range,
            "event_absolute": int(b.absolute),
            "background": self._background_words(),
            **self._channel_words(),
            "seed": self.recipe.seed,
            "protocol": json.dumps(protocol, sort_keys=True),
            "software": json.dumps(_software()),
        }

    def _background_words(self) -> str:
        b = self.background
        words = f"{b.frames} frames of {'the training runs' if b.runs == 'train' else b.runs}"
        words = f"{words} ({b.sampled})" if b.sampled else words
        return words if self.channels is None else words.replace("runs", "clips")

    def _channel_words(self) -> dict[str, str]:
        """Of a video: its channels, and which families saw what of them."""
        if self.channels is None:
            return {}

        def families(form: str) -> str:
            return ", ".join(f for f in layout.FAMILIES if f in self.recipe.families and scoring.form_of(f) == form)

        colours = "red, green, blue" if self.channels.rgb else f"{self.channels.described}, repeated three times"
        return {
            "channels": ", ".join(self.channels.names),
            "picture": self.channels.title,
            "points_of": "all channels and pixels; maps are means over channels",
            "picture_of": f"{self.channels.described}: {families('picture') or 'no family'}",
            "colours_of": f"{colours}: {families('colours') or 'no family'}",
        }

    def joined(self, runs: Iterable[xr.Dataset]) -> xr.Dataset:
        """The scores in memory, from all of `runs`."""
        parts = list(runs)
        together = xr.concat(parts, "trajectory", data_vars="all", join="exact") if len(parts) > 1 else parts[0]
        scores = self.template.merge(together).merge(self.totals())
        for name, (_, _, attrs) in self.statistics.items():
            scores[name].attrs.update(attrs)
        return scores.assign_attrs(self.attributes)


def verify(
    truth: xr.Dataset,
    forecasts: Mapping[str, xr.Dataset],
    *,
    variable: str | None = None,
    reference: str | None = None,
    mask_walls: bool = True,
    families: Iterable[str] | None = None,
    thresholds: Sequence[float] | None = None,
    probes: Sequence[tuple[int, int]] | None = None,
    protocol: str | None = None,
    value_range: tuple[float, float] | None = None,
    lpips: Any = None,
    fvd: Any = None,
    memory: int = MEMORY,
    client: Any = None,
    threads: int | None = None,
    seed: int = 0,
    replicates: int = 200,
    on_case: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Statistics of every method at every case and lead, as an in-memory Dataset (the content of `scores.zarr`).

    forecasts    name of a method -> its forecast. Lazy data stay lazy: a few portions are in memory at a time.
    variable     needed only where truth and forecasts share more than one.
    reference    the method that skill is measured against (default: `default_reference`).
    mask_walls   leave out the cells that `truth.solid` marks.
    families     which groups of statistics (`evaluation.layout.FAMILIES`); default: all that the data allow.
    thresholds   of events, in the variable's unit; default: quantiles .8 and .95 of its magnitude in training runs.
    probes       (y, x) cells whose time series are compared; default: in the wake of the obstacle.
    protocol     "rvd": classical CRPS in grey levels; "rvd-kth", "rvd-bair", "rvd-cityscapes": the same, on the cases
                 and leads of these datasets (`evaluation.protocols`).
    value_range  (low, high) that stands for black and white, of the protocol and the networks; default: the smallest
                 and largest value of the training runs, 0 and 255 for 8-bit frames.
    lpips, fvd   networks (`evaluation.lpips.Lpips`, `evaluation.fvd.FvdNetwork`); without them these are left out.
    memory       bytes that the portions under way may take together; a case larger than that is cut along its leads.
    client       a `distributed.Client` whose workers do the scoring; else `threads` (default: all cores) do it here.
    seed         drives the only random part, the `replicates` of the flatness band of rank histograms.
    on_case      on_case(done, total) is called after each case.

    The result is described in `evaluation.layout`; NaN where a case was not scored or a statistic does not apply. A
    method with a single member is `deterministic`: its CRPS is the absolute error (the CRPS of a step function), and
    variance and ranks do not exist. Anomalies, thresholds, modes and ranges come from the runs of split "train" of
    the truth (all of its runs where it names none), never from the forecasts.

    Raises `EvaluationError` when the methods have no case, lead or variable in common, when `reference` is not
    among them, when a forecast contains NaN in a fluid cell, has other channels than the truth, or holds a case that
    goes beyond the `length` of its clip.
    """
    planned = Verification(
        truth, forecasts, variable=variable, reference=reference, mask_walls=mask_walls, families=families,
        thresholds=thresholds, probes=probes, protocol=protocol, value_range=value_range, lpips=lpips, fvd=fvd,
        memory=memory, seed=seed, replicates=replicates,
    )  # fmt: skip
    return planned.joined(planned.runs(client=client, threads=threads, on_case=on_case))


# ------------------------------------------------------------------ portions, here or on a cluster


@contextlib.contextmanager
def _executor(client: Any, threads: int | None) -> Iterator[tuple[Executor, int]]:
    """Something with `submit(function, portion, recipe) -> future`, and how many portions it works on at once."""
    if client is not None:
        yield client, max(1, sum(client.nthreads().values()))
        return
    width = threads or threads_available()
    with ThreadPoolExecutor(width) as pool:
        try:
            yield pool, width
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: Any, width: int, portions: Iterator[Portion], recipe: Recipe, client: Any
) -> Iterator[tuple[Portion, dict[str, np.ndarray]]]:
    """Portions and their statistics in the order given; `width` are scored and one more waits."""
    shared = client.scatter(recipe, broadcast=True) if client is not None else recipe
    options = {"pure": False} if client is not None else {}
    waiting: deque[tuple[Portion, Any]] = deque()
    for portion in portions:
        waiting.append((portion, pool.submit(_score, portion, shared, **options)))
        if len(waiting) > width:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _score(portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    import dask

    with dask.config.set(scheduler="synchronous"):  # on a worker: no pool within the pool
        return scoring.score(portion, recipe)


# ------------------------------------------------------------------ what there is to score


def default_reference(methods: Iterable[str]) -> str:
    """The method that skill is measured against when nobody says: climatology, else persistence, else none ("")."""
    names = list(methods)
    return next((name for name in ("climatology", "persistence") if name in names and len(names) > 1), "")


def common_cases(forecasts: Mapping[str, xr.Dataset]) -> tuple[list[Case], list[int]]:
    """The cases (trajectory, init_time) that every method has written, in order, and the leads all of them have."""
    written = [_written(forecast) for forecast in forecasts.values()]
    cases = sorted(set.intersection(*written))
    leads = sorted(set.intersection(*(set(f["lead_time"].values.tolist()) for f in forecasts.values())))
    if not cases or not leads:
        counts = ", ".join(f"{name} {len(w)}" for name, w in zip(forecasts, written, strict=True))
        what = "lead time" if cases else f"case (trajectory, init_time; cases written: {counts})"
        raise EvaluationError(
            f"the forecasts have no {what} in common: make them for the same trajectories, init times and leads"
        )
    return cases, leads


def _written(forecast: xr.Dataset) -> set[Case]:
    grid = np.ones((forecast.sizes["trajectory"], forecast.sizes["init_time"]), bool)
    if "cases_written" in forecast:
        grid = forecast["cases_written"].transpose("trajectory", "init_time").values > 0
    runs, inits = forecast["trajectory"].values, forecast["init_time"].values
    return {(int(runs[i]), int(inits[j])) for i, j in np.argwhere(grid)}


def _choose_variable(truth: xr.Dataset, forecasts: Mapping[str, xr.Dataset], wanted: str | None) -> str:
    shared = {str(n) for n in truth.data_vars if "time" in truth[n].dims and "y" in truth[n].dims}
    for forecast in forecasts.values():
        shared &= {str(n) for n in forecast.data_vars if "lead_time" in forecast[n].dims}
    names = ", ".join(sorted(shared)) or "none"
    if wanted is not None and wanted not in shared:
        raise EvaluationError(f"variable {wanted!r} is not in the truth and every forecast; in all of them: {names}")
    if wanted is None and len(shared) != 1 and "vorticity" not in shared:
        raise EvaluationError(f"which variable is to be verified? In the truth and every forecast: {names}")
    return wanted or (shared.pop() if len(shared) == 1 else "vorticity")


def _families(
    wanted: Iterable[str] | None, shape: tuple[int, int], leads: int, known: Background, lpips: Any, fvd: Any
) -> frozenset[str]:
    possible = scoring.applicable(shape, leads, known)
    if wanted is not None:
        unknown = sorted(set(wanted) - set(layout.FAMILIES))
        if unknown:
            raise EvaluationError(f"family {unknown[0]!r} is not known; known: {', '.join(layout.FAMILIES)}")
        possible = possible & (set(wanted) | {"points", "lpips", "fvd"})
    absent = {name for name, network in (("lpips", lpips), ("fvd", fvd)) if network is None}
    return possible - absent


def _blocks(runs: int, sizes: Mapping[str, int]) -> int:
    """Into how many groups of runs the maps are kept apart: enough for significance, few enough for memory."""
    one = 8 * sizes["method"] * sizes["lead_time"] * sizes["y"] * sizes["x"]
    return min(runs, max(3, min(16, 2**28 // one)))


def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("rvdflow", "numpy", "numba", "xarray"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | float | bool | dict | list | None) else str(value)
