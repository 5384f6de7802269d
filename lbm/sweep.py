"""What a sweep means: the list of runs it stands for, each with its parameters, its noise and its split.

Runs are the product of all swept lists, the first one varying slowest, times the trajectories of each combination,
which vary fastest. Nothing here grows with the number of runs until somebody asks for all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm.errors import UsageError

if TYPE_CHECKING:
    from lbm.config import SimulateConfig

SWEEPABLE = (
    "viscosity", "bulk_viscosity", "inflow_velocity", "reynolds", "length", "diameter", "angle", "spin",
    "noise_streamwise", "noise_transverse", "noise_time", "startup", "sponge_length", "magic", "seed",
)  # fmt: skip
SCALES = ("viscosity", "inflow_velocity", "reynolds", "length", "diameter")  # what Re = U L / nu is made of
MAX_RUNS = 1_000_000


class Runs(Sequence["SimulateConfig"]):
    """The runs of a resolved configuration, made when asked for: `runs[k]` is that of trajectory k alone."""

    def __init__(self, config: SimulateConfig) -> None:
        self.config = config
        self._names = list(config.sweep)
        self._lists = list(config.sweep.values())
        self._each = config.trajectories or 1
        self._combination = lru_cache(maxsize=4)(self._resolve)

    def __len__(self) -> int:
        return combinations(self.config) * self._each

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        run = self._combination(k // self._each).model_copy()
        run._stream = self.stream(k)
        return run

    def __reduce__(self) -> tuple[type[Runs], tuple[SimulateConfig]]:
        return Runs, (self.config,)  # the cache stays here

    def __iter__(self) -> Iterator[SimulateConfig]:
        return (self[k] for k in range(len(self)))

    def values(self, k: int) -> dict[str, float]:
        """What the sweep sets in run k."""
        result, place = {}, k // self._each
        for name, numbers in zip(reversed(self._names), reversed(self._lists), strict=True):
            place, digit = divmod(place, len(numbers))
            result[name] = numbers[digit]
        return dict(reversed(result.items()))

    def stream(self, k: int) -> int:
        """Number of run k among the runs of its seed: (seed, number) is the key of its random numbers.

        No two runs share it, and a run of a swept seed has the noise of a run of that seed alone.
        """
        place, number = divmod(k, self._each)
        stride = self._each
        for name, numbers in zip(reversed(self._names), reversed(self._lists), strict=True):
            place, digit = divmod(place, len(numbers))
            if name != "seed":
                number += digit * stride
                stride *= len(numbers)
        return number

    def _resolve(self, combination: int) -> SimulateConfig:
        values = self.values(combination * self._each)
        alone = {"sweep": {}, "held_out": {}, "trajectories": 1, "split": (1.0, 0.0, 0.0)}
        try:
            return self.config.model_copy(update={**values, **alone}).resolved()
        except UsageError as error:
            raise UsageError(f"{label(values)}: {error}" if values else str(error)) from None


def runs(config: SimulateConfig) -> Runs:
    """One resolved configuration for each trajectory of a resolved configuration, in the order of the dataset."""
    return Runs(config)


def label(values: Mapping[str, float]) -> str:
    """A combination for people: `viscosity 0.005, seed 3`."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def combinations(config: SimulateConfig) -> int:
    """Number of combinations of the swept parameters; 1 without a sweep."""
    return math.prod(len(numbers) for numbers in config.sweep.values())


def column(config: SimulateConfig, name: str) -> np.ndarray:
    """The value of a numeric parameter in every run, (runs,) float64 (int64 for a seed); NaN where it has none."""
    kind = np.int64 if name == "seed" else np.float64
    if name in config.sweep:
        each = digits(config)[list(config.sweep).index(name)]
        numbers = np.array(config.sweep[name], kind)[each]
    elif name in SCALES[:4] and (part := {key: values for key, values in config.sweep.items() if key in SCALES}):
        products = itertools.product(*part.values())
        few = np.array([scales(config, dict(zip(part, one, strict=True)))[name] for one in products], kind)
        where = [digit for key, digit in zip(config.sweep, digits(config), strict=True) if key in part]
        numbers = few[np.ravel_multi_index(where, [len(values) for values in part.values()])]
    else:
        value = getattr(config, name)
        numbers = np.full(combinations(config), np.nan if value is None else value, kind)
    return np.repeat(numbers, config.trajectories or 1)


def digits(config: SimulateConfig) -> list[np.ndarray]:
    """For each swept parameter, the index of its value in every combination."""
    shape = [len(numbers) for numbers in config.sweep.values()]
    return list(np.unravel_index(np.arange(math.prod(shape)), shape))


def scales(config: SimulateConfig, values: Mapping[str, float]) -> dict[str, float]:
    """viscosity, inflow_velocity, reynolds and length of one combination; NaN for a length that there is not."""
    length = values.get("length", config.length)
    if length is None:
        sizes = [one.size if one.size is not None else values.get("diameter") for one in config.obstacles or ()]
        length = max((size for size in sizes if size is not None), default=None)
    nu, velocity, reynolds = similarity(
        values.get("viscosity", config.viscosity),
        values.get("inflow_velocity", config.inflow_velocity),
        values.get("reynolds", config.reynolds),
        length,
        label(values),
    )
    nan = math.nan
    return {
        "viscosity": nu,
        "inflow_velocity": velocity,
        "reynolds": nan if reynolds is None else reynolds,
        "length": nan if length is None else length,
    }


def similarity(
    nu: float | None, velocity: float | None, reynolds: float | None, length: float | None, which: str = ""
) -> tuple[float, float, float | None]:
    """(viscosity, inflow velocity, Reynolds number) from two of them: Re = U L / nu. Re is None without a length."""
    at = f"{which}: " if which else ""
    if reynolds is not None and length is None:
        raise UsageError(f"{at}--reynolds needs an obstacle or --length: give --viscosity instead")
    if nu is not None and velocity is not None and reynolds is not None and length is not None:
        implied = velocity * length / nu
        if not math.isclose(implied, reynolds, rel_tol=1e-3):
            raise UsageError(
                f"{at}--reynolds {reynolds:g} contradicts viscosity {nu:g}, inflow velocity {velocity:g} and "
                f"length {length:g}, which give {implied:.4g}: leave one of them out"
            )
    elif length is not None and reynolds is not None and nu is not None:
        velocity = reynolds * nu / length
    elif length is not None and reynolds is not None and velocity is not None:
        nu = velocity * length / reynolds
    elif length is not None and nu is not None and velocity is not None:
        reynolds = velocity * length / nu
    if nu is None or velocity is None:
        raise ValueError("similarity needs two of its three numbers")
    if not all(0 < number < math.inf for number in (nu, velocity, reynolds or 1.0)):
        raise UsageError(f"{at}viscosity {nu:g}, inflow velocity {velocity:g} and Re {reynolds:g} make no flow")
    return nu, velocity, reynolds
