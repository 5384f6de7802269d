"""Proper scores of a whole field at once: they see how its cells vary together, not only each by itself.

    energy score      how far members are from the truth, and from each other, as points of one space: little sensitive
                      to dependence, sensitive to everything else
    variogram score   how much cells a lag apart differ: blind to a common shift, sensitive to dependence

Both in the common shape of `evaluation.statistics`, with `space` naming the dimensions that make up a field.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from .dims import Dims
from .errors import EvaluationError
from .fields import average_fields, fit_together, per_field
from .neighbourhood import fewest_members, unit_of
from .statistics import Estimator, NanPolicy

Lag = tuple[int, int]
LAGS: tuple[Lag, ...] = ((0, 1), (1, 0), (0, 4), (4, 0))


def energy_score_field(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, estimator: Estimator = "fair"
) -> np.ndarray:
    """Energy score (lead) of members (member, lead, y, x) against truth (lead, y, x) over the cells of fluid (y, x).

    The distance of two fields is the root of their mean square difference. One member has its distance to the truth.
    NaN without a fluid cell. See `energy_score`.
    """
    fit_together(members, truth, fluid)
    return np.array([_energy(members[:, k], truth[k], fluid, estimator) for k in range(len(truth))])


def _energy(members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, estimator: str) -> float:
    from .field_kernels import squared_distances

    count, cells = len(members), int(fluid.sum())
    if cells == 0:
        return np.nan
    fields = np.concatenate([members, truth[None]], dtype=np.float64).reshape(count + 1, -1)
    if cells < fluid.size:
        fields *= fluid.ravel()
    distances = np.empty((count + 1, count + 1))
    squared_distances(fields, distances)
    distances = np.sqrt(np.tril(distances, -1) / cells)
    pairs = count * (count - 1) if estimator == "fair" and count > 1 else count**2
    return float(distances[count].sum() / count - distances[:count].sum() / pairs)


def variogram_score_field(
    members: np.ndarray,
    truth: np.ndarray,
    fluid: np.ndarray,
    lags: Sequence[Lag] = LAGS,
    p: float = 0.5,
    estimator: Estimator = "fair",
) -> np.ndarray:
    """Variogram score (lead) of members (member, lead, y, x) against truth (lead, y, x), fluid (y, x).

    The mean over lags of the mean over pairs of fluid cells that lag apart; lags without such a pair are left out, NaN
    if that is all of them. One member counts as its own mean. See `variogram_score`.
    """
    fit_together(members, truth, fluid)
    wanted = checked_lags(lags, p)
    return np.array([_variogram(members[:, k], truth[k], fluid, wanted, p, estimator) for k in range(len(truth))])


def _variogram(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, lags: Sequence[Lag], p: float, estimator: str
) -> float:
    from .field_kernels import variogram_errors

    fair = estimator == "fair" and len(members) > 1
    arrays = np.array(members, np.float64), np.array(truth, np.float64), np.array(fluid, bool)
    found = [variogram_errors(*arrays, dy, dx, float(p), fair) for dy, dx in lags]
    means = [total / pairs for total, pairs in found if pairs]
    return float(np.mean(means)) if means else np.nan


def checked_lags(lags: Sequence[Lag], p: float) -> list[Lag]:
    """Lags as pairs of int. EvaluationError for one that is not, or is (0, 0), and unless p > 0."""
    wanted = [tuple(lag) for lag in lags]
    if not wanted or any(len(w) != 2 or int(w[0]) != w[0] or int(w[1]) != w[1] or not any(w) for w in wanted):
        raise EvaluationError(f"lags must be pairs of whole numbers of cells (y, x) other than (0, 0), got {lags!r}")
    if not 0 < p < np.inf:
        raise EvaluationError(f"the power of a variogram must be above 0, got {p}")
    return [(int(dy), int(dx)) for dy, dx in wanted]


def energy_score(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    estimator: Estimator = "fair",
    space: str | Sequence[str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Energy score of fields over the dimensions `space`, in the unit of the truth; 0 is best (fair: in expectation).

        mean_m |x_m - y| - sum_m sum_n |x_m - x_n| / (2 D),    D = M^2 (classical) or M (M - 1) (fair)

    with |.| the Euclidean norm over the cells of a field divided by the root of their number: the CRPS of a field of
    one cell, and of the same size on any grid (other libraries do not divide). Strictly proper; it rewards the right
    joint distribution, mostly its centre and spread, and is little sensitive to the dependence between cells
    (`variogram_score`). `dim` and `weights` are about the dimensions that are not in `space`, of which there may be any
    number: ("lead_time", "y", "x") scores whole trajectories.
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437; fair: Ferro (2014), doi:10.1002/qj.2270.

    Raises EvaluationError for the fair estimator of a single member.
    """
    fewest = fewest_members(estimator)

    def score(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> float:
        return _energy(members, observed, fluid, estimator)

    fields = per_field(score, forecast, truth, space=space, member_dim=member_dim, nan_policy=nan_policy, fewest=fewest)
    attrs = {"long_name": f"energy score ({estimator})", "estimator": estimator, **unit_of(truth)}
    return average_fields(fields.rename("energy_score").assign_attrs(attrs), dim, weights, nan_policy)


def variogram_score(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    lags: Sequence[Lag] = LAGS,
    p: float = 0.5,
    estimator: Estimator = "fair",
    space: Sequence[str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Variogram score of order p; unit of the truth to the power 2 p; 0 is best (fair: in expectation).

        mean over pairs (i, j) of (|y_i - y_j|^p - mean_m |x_mi - x_mj|^p)^2          classical
        ... less the variance of that mean, s^2 / M                                  fair

    Pairs are cells `lags` (y, x) apart, each lag with the same weight. Proper, not strictly: it sees mean absolute
    differences only, no common shift and no position. It rewards the right texture and dependence of neighbours, which
    the energy score hardly sees. Small p keeps single large differences from ruling.
    Scheuerer and Hamill (2015), doi:10.1175/MWR-D-14-00269.1; the fair form follows Ferro (2014), doi:10.1002/qj.2270.

    Raises EvaluationError for lags that are not pairs of whole numbers, p <= 0, and the fair estimator of one member.
    """
    wanted, fewest = checked_lags(lags, p), fewest_members(estimator)
    if isinstance(space, str) or len(tuple(space)) != 2:
        raise EvaluationError(f'lags need two dimensions of space, such as ("y", "x"), got {space!r}')

    def score(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> float:
        return _variogram(members, observed, fluid, wanted, p, estimator)

    fields = per_field(score, forecast, truth, space=space, member_dim=member_dim, nan_policy=nan_policy, fewest=fewest)
    attrs = {"long_name": f"variogram score ({estimator}, p = {p:g})", "estimator": estimator}
    if "units" in truth.attrs:
        unit = truth.attrs["units"]
        attrs["units"] = unit if unit == "1" or p == 0.5 else f"({unit})^{2 * p:g}"
    return average_fields(fields.rename("variogram_score").assign_attrs(attrs), dim, weights, nan_policy)
