"""Distances between two sets of clips, through features of each clip: Fréchet and MMD.

Each clip becomes a vector of features; the two sets of vectors are compared as if both were Gaussian,

    FD = |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2),

the squared 2-Wasserstein distance of N(mu_a, C_a) and N(mu_b, C_b): Dowson and Landau (1982),
doi:10.1016/0047-259X(82)90077-X; as a score of generated pictures: Heusel et al. (2017), arXiv:1706.08500. Or they are
compared by the maximum mean discrepancy with a polynomial kernel, which assumes no shape and is unbiased: Gretton et
al. (2012), jmlr.org/papers/v13/gretton12a.html; Binkowski et al. (2018), arXiv:1801.01401.

Two samples of one law are not at Fréchet distance 0, and the fewer clips the farther apart. So a distance is reported
beside its *floor*: the truth's clips are split in two, run by run, many times; the floor is the mean distance of the
halves, and the distance of a forecast is that of one half of the truth to one member in each case of the other half:
the same number of clips, so that a forecast that cannot be told from the truth scores its floor.

Features that depend on the flow alone are those of `evaluation.flow_features`; their distance is no FVD
(`evaluation.fvd`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from .dims import Dims, over, pair
from .errors import DimensionError, EvaluationError, MissingValueError
from .flow_features import physics_feature_names, physics_features
from .statistics import NanPolicy

LEAST_DEVIATION = 0.02  # features are standardised by at least this
SPLITS = 20
_ROWS = 1024


class FrechetSums:
    """Number, mean and scatter of feature vectors, built up batch by batch and merged across workers.

    The result does not depend on how vectors were cut into batches (to rounding; Chan et al. 1983,
    doi:10.1080/00031305.1983.10483115).
    """

    def __init__(self, features: int):
        self.n = 0
        self.mean = np.zeros(features)
        self.scatter = np.zeros((features, features))

    def add(self, vectors: np.ndarray) -> FrechetSums:
        """Add vectors (n, features). EvaluationError for another number of features, or values that are not finite."""
        vectors = _checked(vectors, len(self.mean))
        if len(vectors):
            mean = vectors.mean(0)
            deviations = vectors - mean
            self._combine(len(vectors), mean, deviations.T @ deviations)
        return self

    def merge(self, other: FrechetSums) -> FrechetSums:
        """Add what another has seen."""
        if len(other.mean) != len(self.mean):
            raise EvaluationError(f"cannot merge sums of {len(other.mean)} features into those of {len(self.mean)}")
        if other.n:
            self._combine(other.n, other.mean, other.scatter)
        return self

    def _combine(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total, step = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance. EvaluationError for fewer than two vectors."""
        _need_two(self.n)
        return self.scatter / (self.n - 1)


def _checked(vectors: np.ndarray, features: int) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != features:
        raise EvaluationError(f"features have shape {vectors.shape}, wanted (n, {features})")
    if not np.isfinite(vectors).all():
        raise EvaluationError("features hold values that are not finite: leave such clips out")
    return vectors


def _need_two(clips: int) -> None:
    if clips < 2:
        raise EvaluationError(f"a covariance needs at least 2 clips, got {clips}")


def frechet_distance(a: FrechetSums | np.ndarray, b: FrechetSums | np.ndarray) -> float:
    """Fréchet distance of two sets of feature vectors, (n, features) or their sums; unit of the features squared.

    >= 0 up to rounding, 0 for equal mean and covariance. It falls with the number of clips even if the law is one and
    the same: compare it only at equal numbers, beside `frechet_floor`. Symmetric eigenvalues serve for both roots, so
    that singular covariances (fewer clips than features) do no harm. For fewer clips than features the last term is
    found from the vectors themselves: tr (C_a^1/2 C_b C_a^1/2)^1/2 is the sum of singular values of A B^T, with A and
    B the centred vectors over sqrt(n - 1).
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and min(len(a), len(b)) < a.shape[-1]:
        return _distance_of_few(a, b)
    a, b = (s if isinstance(s, FrechetSums) else FrechetSums(np.shape(s)[-1]).add(s) for s in (a, b))
    if len(a.mean) != len(b.mean):
        raise EvaluationError(f"the two sets have {len(a.mean)} and {len(b.mean)} features")
    step = a.mean - b.mean
    values, vectors = np.linalg.eigh(a.cov)
    root = vectors * np.sqrt(np.maximum(values, 0))
    cross = np.linalg.eigvalsh(root.T @ b.cov @ root)
    return float(step @ step + np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(np.maximum(cross, 0)).sum())


def _distance_of_few(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (_checked(v, a.shape[-1]) for v in (a, b))
    _need_two(min(len(a), len(b)))
    step = a.mean(0) - b.mean(0)
    left, right = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (a, b))
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(step @ step + np.square(left).sum() + np.square(right).sum() - 2 * cross)


def mmd(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups_a: np.ndarray | None = None,
    groups_b: np.ndarray | None = None,
    degree: int = 3,
) -> float:
    """Squared maximum mean discrepancy of feature vectors (n, d), (m, d), kernel (<x, y> / d + 1)^degree.

        mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

    Unbiased: 0 in expectation for one law, and then as often negative. Members of one case resemble each other and
    their truth: given groups (a label for each vector, such as its case or run), pairs of one group are left out of all
    three means. EvaluationError if no pairs remain.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise EvaluationError(f"features have shapes {a.shape} and {b.shape}, wanted (n, d) and (m, d)")
    if (groups_a is None) != (groups_b is None):
        raise EvaluationError("groups are needed for both sets of features or for neither")
    if groups_a is None or groups_b is None:
        own_a, own_b = np.arange(len(a)), np.arange(len(a), len(a) + len(b))
    else:
        own_a, own_b = np.asarray(groups_a), np.asarray(groups_b)
    within = _mean_kernel(a, a, own_a, own_a, degree) + _mean_kernel(b, b, own_b, own_b, degree)
    return within - 2 * _mean_kernel(a, b, own_a, own_b, degree)


def _mean_kernel(a: np.ndarray, b: np.ndarray, groups_a: np.ndarray, groups_b: np.ndarray, degree: int) -> float:
    """Mean kernel over pairs of different groups, a block of rows at a time."""
    total, pairs = 0.0, 0
    for start in range(0, len(a), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = groups_a[rows, None] != groups_b[None]
        total += float((((a[rows] @ b.T) / a.shape[1] + 1) ** degree)[apart].sum())
        pairs += int(apart.sum())
    if not pairs:
        raise EvaluationError("MMD needs clips of at least two groups (cases, runs) in each set")
    return total / pairs


class ClipDistance(NamedTuple):
    """Distances of a forecast's clips to the truth's, see `clip_distance`."""

    distance: float
    floor: float
    distance_all: float
    mmd: float
    clips: int


def clip_distance(
    forecast: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    standardise: bool = False,
    splits: int = SPLITS,
    seed: int = 0,
) -> ClipDistance:
    """Fréchet distance of a forecast to the truth beside its floor, and others, from features of clips.

    `forecast` (case, member, features), `truth` (case, features), `groups` (case): the run of each case, since windows
    of one run overlap or resemble each other (default: each case by itself). NaN members are left out.

    distance      mean over `splits` random halvings of the groups: one half of the truth to one random member in each
                  case of the other half
    floor         the same with the truth in place of the member: what a perfect forecast scores at this number of clips
    distance_all  all clips of the truth to all members, smaller by its larger number of clips: not for the floor
    mmd           squared maximum mean discrepancy of all clips, pairs of one group left out
    clips         clips in the smaller half, on average

    `standardise`: features are first scaled to the truth's mean 0 and deviation 1 (at least `LEAST_DEVIATION`).
    EvaluationError for fewer than 4 cases or 2 groups.
    """
    if forecast.ndim != 3 or truth.shape != (forecast.shape[0], forecast.shape[2]):
        raise EvaluationError(f"features have shapes {forecast.shape} and {truth.shape}: cases do not fit together")
    groups = np.arange(len(truth)) if groups is None else np.asarray(groups)
    kept = np.isfinite(truth).all(-1) & np.isfinite(forecast).all(-1).any(-1)
    forecast, truth, groups = forecast[kept], truth[kept], np.unique(groups[kept], return_inverse=True)[1]
    runs = int(groups.max(initial=-1)) + 1
    if len(truth) < 4 or runs < 2:
        raise EvaluationError(
            f"a Fréchet distance needs at least 4 cases in 2 groups (runs), got {len(truth)} cases in {runs}"
        )
    if standardise:
        centre, width = truth.mean(0), np.maximum(truth.std(0, ddof=1), LEAST_DEVIATION)
        forecast, truth = (forecast - centre) / width, (truth - centre) / width
    present = np.isfinite(forecast).all(-1)
    members, cases = forecast[present], groups[np.nonzero(present)[0]]
    rng = np.random.default_rng(seed)
    found, sizes = [], []
    for _ in range(splits):
        first = halved(groups, runs, rng)
        order = np.where(present, rng.random(present.shape), -1).argmax(-1)
        drawn = np.take_along_axis(forecast, order[:, None, None], 1)[:, 0]
        found.append([frechet_distance(truth[first], other[~first]) for other in (drawn, truth)])
        sizes.append(min(first.sum(), (~first).sum()))
    distance, floor = np.mean(found, 0)
    whole = frechet_distance(truth, members)
    discrepancy = mmd(truth, members, groups_a=groups, groups_b=cases)
    return ClipDistance(float(distance), float(floor), whole, discrepancy, round(float(np.mean(sizes))))


def halved(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A random half of the groups (0 .. count - 1), as a mask over cases; at least 2 cases on each side."""
    for _ in range(100):
        chosen = rng.permutation(count)[: count // 2 + (count % 2) * int(rng.integers(2))]
        first = np.isin(groups, chosen)
        if 2 <= first.sum() <= len(groups) - 2:
            return first
    raise EvaluationError("the groups (runs) cannot be split into halves of at least 2 cases: use smaller groups")


Extract = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(clips (n, time, y, x[, channel]), fluid (y, x), scale) -> features (n, d)"""


def frechet_physics_distance(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    time_dim: str = "lead_time",
    dim: Dims = None,
    group_dim: str = "trajectory",
    scale: float | xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
    space: tuple[str, str] = ("y", "x"),
    splits: int = SPLITS,
    seed: int = 0,
) -> xr.Dataset:
    """Fréchet distance of forecast clips to true ones, on the features of flows of `physics_features`; no unit.

    Returns a Dataset of `distance` and `floor` (what a perfect forecast scores at this number of clips: the best
    value), `distance_all`, `mmd`, `clips`, as in `clip_distance`, with features in standard deviations of the truth's.
    It rewards forecasts whose members, as clips, are distributed like the truth: energy by scale, gradients, speed of
    change, direction, place. It does not ask whether the right clip was forecast in the right case: climatology that
    draws true clips is perfect. Never to be called FVD.

    A clip is one member of one case over all of `time_dim`; `dim` names the dimensions whose cases are pooled (None:
    all that remain), the others are kept. Cases are split by `group_dim` (runs) where it is pooled and has at least 4
    labels, else one by one, which makes the floor too low where windows overlap. `scale` defaults to the truth's
    standard deviation. Under nan_policy "omit" cells where a truth is ever NaN are walls, and members with a NaN
    elsewhere are left out; under "propagate" a NaN makes the result NaN. There are no weights.
    """
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    check_clip_dims(truth, time_dim, space)
    scale = truth.std() if scale is None else scale
    frame = (time_dim, *space)
    names = physics_feature_names(*(truth.sizes[d] for d in frame))
    vectors = clip_features(
        forecast,
        truth,
        _scaled_features,
        len(names),
        member_dim=member_dim,
        frame=frame,
        nan_policy=nan_policy,
        scale=scale,
    )
    found = clip_distances(*vectors, dim, group_dim, nan_policy, member_dim, standardise=True, splits=splits, seed=seed)
    return found.assign_attrs(long_name="Fréchet distance on physics features", features=len(names))


def _scaled_features(clips: np.ndarray, fluid: np.ndarray, scale: float) -> np.ndarray:
    return physics_features(clips, fluid, scale or 1.0)


def clip_features(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    extract: Extract,
    features: int,
    *,
    member_dim: str,
    frame: Sequence[str],
    nan_policy: str,
    scale: float | xr.DataArray = 1.0,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Features (case dims, member, feature) and (case dims, feature) of paired data, a case at a time, lazy if lazy.

    `extract(clips (n, time, y, x[, c]), fluid (y, x), scale)` -> (n, features).
    """
    if nan_policy not in ("propagate", "omit", "raise"):
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of propagate, omit, raise")
    if forecast.chunks is not None:
        forecast = forecast.chunk(dict.fromkeys((member_dim, *frame), -1))
    if truth.chunks is not None:
        truth = truth.chunk(dict.fromkeys(frame, -1))
    found = xr.apply_ufunc(
        _case_features,
        forecast,
        truth,
        scale,
        input_core_dims=[[member_dim, *frame], list(frame), []],
        output_core_dims=[[member_dim, "feature"], ["feature"]],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64, np.float64],
        dask_gufunc_kwargs={"output_sizes": {"feature": features}},
        kwargs={"extract": extract, "features": features, "nan_policy": nan_policy, "depth": len(frame)},
    )
    return found[0], found[1]


def _case_features(
    forecast: np.ndarray,
    truth: np.ndarray,
    scale: np.ndarray | float,
    *,
    extract: Extract,
    features: int,
    nan_policy: str,
    depth: int,
) -> tuple[np.ndarray, np.ndarray]:
    points, members = truth.shape[: truth.ndim - depth], forecast.shape[-depth - 1]
    out = np.full((*points, members, features), np.nan), np.full((*points, features), np.nan)
    size = float(np.asarray(scale).flat[0])
    for k in np.ndindex(*points):
        clips, clip = forecast[k], truth[k]
        fluid = np.ones(clip.shape[1:3], bool)
        if clip.dtype.kind == "f":
            bad = np.isnan(clip).reshape(*clip.shape[:3], -1).any((0, 3))
            if nan_policy == "raise" and (bad.any() or np.isnan(clips).any()):
                raise MissingValueError('the data holds NaN: mask walls and use nan_policy="omit", or use "propagate"')
            if nan_policy == "omit":
                fluid = ~bad
        if fluid.any() and np.isfinite(size):
            out[0][k], out[1][k] = extract(clips, fluid, size), extract(clip[None], fluid, size)[0]
    return out


def clip_distances(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims,
    group_dim: str,
    nan_policy: str,
    member_dim: str,
    *,
    standardise: bool,
    splits: int,
    seed: int,
) -> xr.Dataset:
    """`clip_distance` of features over the case dims named, the others kept; a Dataset of its five numbers."""
    cases = truth.isel(feature=0, drop=True)
    pooled = over(cases, dim)
    if not pooled:
        raise DimensionError("a distance between sets of clips needs dimensions to pool: dim=() leaves one clip each")
    groups = _groups(cases, pooled, group_dim)
    found = xr.apply_ufunc(
        _distances,
        forecast,
        truth,
        input_core_dims=[[*pooled, member_dim, "feature"], [*pooled, "feature"]],
        output_core_dims=[[]] * len(ClipDistance._fields),
        dask="parallelized",
        output_dtypes=[np.float64] * len(ClipDistance._fields),
        dask_gufunc_kwargs={"allow_rechunk": True},
        kwargs={
            "groups": groups,
            "pooled": len(pooled),
            "omit": nan_policy == "omit",
            "options": {"standardise": standardise, "splits": splits, "seed": seed},
        },
    )
    return xr.Dataset({n: a.assign_attrs(units="1") for n, a in zip(ClipDistance._fields, found, strict=True)})


def _groups(cases: xr.DataArray, pooled: Sequence[Hashable], group_dim: str) -> np.ndarray:
    """The group of each pooled case, in the order of the pooled dims."""
    sizes = [cases.sizes[d] for d in pooled]
    numbers = np.indices(sizes).reshape(len(sizes), -1)
    if group_dim in pooled and cases.sizes[group_dim] >= 4:
        return numbers[list(pooled).index(group_dim)]
    return np.arange(int(np.prod(sizes)))


def _distances(
    forecast: np.ndarray, truth: np.ndarray, *, groups: np.ndarray, pooled: int, omit: bool, options: dict
) -> tuple[np.ndarray, ...]:
    """The numbers of `clip_distance` from (kept..., pooled..., member, feature) and (kept..., pooled..., feature)."""
    kept = truth.shape[: truth.ndim - 1 - pooled]
    out = np.full((len(ClipDistance._fields), *kept), np.nan)
    f = forecast.reshape(*kept, len(groups), *forecast.shape[-2:])
    t = truth.reshape(*kept, len(groups), truth.shape[-1])
    for k in np.ndindex(*kept):
        if omit or (np.isfinite(f[k]).all() and np.isfinite(t[k]).all()):
            out[(slice(None), *k)] = clip_distance(f[k], t[k], groups, **options)
    return tuple(out)


def check_clip_dims(truth: xr.DataArray, time_dim: str, space: Sequence[str]) -> None:
    missing = [d for d in (time_dim, *space) if d not in truth.dims]
    if missing:
        raise DimensionError(f"no dimension {missing} in {tuple(truth.dims)}: say time_dim=... and space=(...)")
