"""What portions add up to: arrays of the run at hand, and of the whole verification."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evaluation.layout import FAMILIES, LAYOUT, MEANS

INTEGERS = ("rank_null", "fluid_cases")


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
        self.clips: dict[str, list[Any]] = {}
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

    def end_case(self, method: int) -> None:
        """All leads of a case of a method are there: what needs them together."""
        parts, self.series = self.series, []
        if not parts:
            return
        if "_series" in parts[0]:
            self._probes(method, parts)
        for kind in ("features", "fvd"):
            for suffix, owner in (("", method), ("_truth", -1)):
                for part in parts:
                    if f"_{kind}{suffix}" in part:
                        self._clips(kind, owner, part[f"_{kind}{suffix}"])

    def _probes(self, method: int, parts: list[dict[str, np.ndarray]]) -> None:
        from evaluation.flow_physics import temporal_power

        series = np.concatenate([p["_series"] for p in parts], axis=1)  # (member, lead_time, probe)
        self.run["probe_power"][method] += temporal_power(np.moveaxis(series, 1, -1)).mean(0)
        if "_series_truth" in parts[0]:
            series = np.concatenate([p["_series_truth"] for p in parts])
            self.run["probe_power_truth"] += temporal_power(series.T)

    def _clips(self, kind: str, owner: int, features: np.ndarray) -> None:
        """Features of clips (clip, feature) of a method, or of the truth (owner -1; its halves apart)."""
        from evaluation.frechet import FrechetSums

        if kind not in self.clips:
            self.clips[kind] = [FrechetSums(features.shape[1]) for _ in range(self.methods + 2)]
        sums = self.clips[kind]
        if owner >= 0:
            sums[owner].add(features)
        else:
            first, second = sums[self.methods :]
            (first if first.count <= second.count else second).add(features)

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
        kinds = {"features": "frechet_physics", "fvd": "fvd"}
        return [name for kind, stem in kinds.items() if kind in self.families for name in (stem, f"{stem}_floor")]

    def distances(self) -> dict[str, np.ndarray]:
        return {}

    def dtype(self, name: str) -> np.dtype:
        """The type of a statistic."""
        return np.dtype(np.int64 if name in INTEGERS else np.float64)
