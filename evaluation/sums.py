"""What portions add up to: arrays of the run at hand, and of the whole verification."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.layout import FAMILIES, LAYOUT, MEANS

INTEGERS = ("rank_null", "fluid_cases")
DISTANCES = {"features": "frechet_physics", "fvd": "fvd"}  # family of features of clips -> name of the distance


class Sums:
    """Sums over the cases of a run (`end_run`) and over all of them (`totals`, `distances`).

    `sizes` are those of the dimensions of the scores. Only one run is held at a time.
    """

    def __init__(self, sizes: Mapping[str, int], families: Iterable[str], methods: int):
        self.sizes, self.families = sizes, frozenset(families)
        self.names = [name for family in FAMILIES if family in self.families for name in FAMILIES[family]]
        self.run: dict[str, np.ndarray] = {}
        self.whole = {name: self._room(name) for name in self.names if "trajectory" not in LAYOUT[name]}
        self.series: list[dict[str, np.ndarray]] = []  # the probes of the leads of a case
        self.clips: dict[str, list[list[np.ndarray]]] = {}  # of each method, and of the truth
        self.groups: dict[str, list[int]] = {}  # the run of each clip of the truth
        self.methods = methods

    def _room(self, name: str) -> np.ndarray:
        shape = tuple(self.sizes[d] for d in LAYOUT[name] if d != "trajectory")
        if "init_time" in LAYOUT[name]:
            return np.full(shape, np.nan)
        return np.zeros(shape, self.dtype(name))

    def begin_run(self) -> None:
        """Forget the last run."""
        self.run = {name: self._room(name) for name in self.names if "trajectory" in LAYOUT[name]}

    def add(self, found: Mapping[str, np.ndarray], where: Mapping[str, int | slice]) -> None:
        """Add the statistics of a portion at the positions `where` (method, init_time, block, lead_time)."""
        raw = {name: values for name, values in found.items() if name.startswith("_")}
        if raw:
            self.series.append(raw)
        for name, values in found.items():
            if name in raw:
                continue
            dims = LAYOUT[name]
            target = self.run[name] if "trajectory" in dims else self.whole[name]
            place = tuple(where.get(d, slice(None)) for d in dims if d != "trajectory")
            if "init_time" in dims:
                target[place] = values
            else:
                target[place] += values

    def end_case(self, method: int, run: int) -> None:
        """All leads of a case of a method are there: what needs them together. `run` is its trajectory."""
        parts, self.series = self.series, []
        if not parts:
            return
        if "_series" in parts[0]:
            self._probes(method, parts)
        for kind in ("features", "fvd"):
            for suffix, owner in (("", method), ("_truth", -1)):
                for part in parts:
                    if f"_{kind}{suffix}" in part:
                        self._clips(kind, owner, run, part[f"_{kind}{suffix}"])

    def _probes(self, method: int, parts: list[dict[str, np.ndarray]]) -> None:
        from evaluation.temporal import temporal_power

        series = np.concatenate([p["_series"] for p in parts], axis=1)  # (member, lead_time, probe)
        self.run["probe_power"][method] += temporal_power(np.moveaxis(series, 1, -1)).mean(0)
        if "_series_truth" in parts[0]:
            series = np.concatenate([p["_series_truth"] for p in parts])
            self.run["probe_power_truth"] += temporal_power(series.T)

    def _clips(self, kind: str, owner: int, run: int, features: np.ndarray) -> None:
        """Features (clip, feature) of a case of a method, or of the truth (owner -1)."""
        clips = self.clips.setdefault(kind, [[] for _ in range(self.methods + 1)])
        clips[owner].append(features)
        if owner < 0:
            self.groups.setdefault(kind, []).append(run)

    def end_run(self, cases: int) -> dict[str, np.ndarray]:
        """The statistics of the run at hand, with a dimension trajectory of one."""
        found = {}
        for name, values in self.run.items():
            mean = values / cases if name in MEANS else values
            found[name] = np.expand_dims(mean, LAYOUT[name].index("trajectory"))
        return found

    def totals(self) -> dict[str, np.ndarray]:
        """What is not kept by run: maps become means over the cases in which a cell is fluid (NaN where never)."""
        found = dict(self.whole)
        cases = found["fluid_cases"].astype(float)  # (block, y, x)
        with np.errstate(invalid="ignore", divide="ignore"):
            found["crps_map"] = np.where(cases[:, None] > 0, found["crps_map"] / cases[:, None], np.nan)
            total = cases.sum(0)
            for name in ("variance_map", "squared_error_map"):
                found[name] = np.where(total > 0, found[name] / total, np.nan)
        return found

    @property
    def distance_names(self) -> list[str]:
        """The Fréchet distances that `distances` brings."""
        return [name for kind, stem in DISTANCES.items() if kind in self.families for name in (stem, f"{stem}_floor")]

    def distances(self) -> dict[str, np.ndarray]:
        """Fréchet distances of the clips of each method to those of the truth, and their floors; NaN for too few."""
        from evaluation.frechet import clip_distance

        found = {name: np.full(self.methods, np.nan) for name in self.distance_names}
        for kind, clips in self.clips.items():
            *forecasts, truth = clips
            for m, members in enumerate(forecasts):
                with contextlib.suppress(EvaluationError):  # too few cases or runs
                    distance = clip_distance(
                        np.stack(members), np.concatenate(truth), np.array(self.groups[kind]),
                        standardise=kind == "features",
                    )  # fmt: skip
                    found[DISTANCES[kind]][m] = distance.distance
                    found[f"{DISTANCES[kind]}_floor"][m] = distance.floor
        return found

    def dtype(self, name: str) -> np.dtype:
        """The type of a statistic."""
        return np.dtype(np.int64 if name in INTEGERS else np.float64)
