"""Scores of the coefficients of POD modes, on labelled arrays: are the large coherent motions forecast?

Modes are fitted beforehand, on training data, by `evaluation.pod.Pod.fit`. Common arguments are those of
`evaluation.statistics`; `space` names the two dimensions of a field, which a dimension `mode` (1, 2, ...) replaces.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from .dims import Dims, average, match, over, pair
from .errors import DimensionError, EvaluationError, MissingValueError
from .pod import Pod
from .pointwise import POLICIES
from .statistics import Estimator, NanPolicy, crps


def pod_coefficients(
    fields: xr.DataArray, pod: Pod, *, space: Iterable[str] = ("y", "x"), nan_policy: NanPolicy = "propagate"
) -> xr.DataArray:
    """Coefficients of fields, in their unit, with a dimension `mode` (1, 2, ...) in place of space; may be lazy.

    A NaN in a fluid cell of the modes makes the coefficients of its field NaN ("raise": MissingValueError). Raises
    DimensionError where space is missing or of another size.
    """
    core = over(fields, list(space))
    if tuple(fields.sizes[d] for d in core) != pod.fluid.shape:
        raise DimensionError(f"the modes are on a grid {pod.fluid.shape}, the fields on {dict(fields.sizes)}")

    def project(values: np.ndarray) -> np.ndarray:
        out = pod.project(values)
        if nan_policy == "raise" and np.isnan(out).any():
            raise MissingValueError(
                'a field holds NaN where the modes have fluid: use nan_policy="omit" or "propagate"'
            )
        return out

    if fields.chunks is not None:
        fields = fields.chunk(dict.fromkeys(core, -1))
    result = xr.apply_ufunc(
        project,
        fields,
        input_core_dims=[core],
        output_core_dims=[["mode"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"mode": len(pod.modes)}},
        keep_attrs=True,
    )
    attrs = {"long_name": "coefficient of a mode"}
    return result.rename("coefficient").assign_coords(mode=np.arange(1, len(pod.modes) + 1)).assign_attrs(attrs)


def pod_crps(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    pod: Pod,
    *,
    space: Iterable[str] = ("y", "x"),
    member_dim: str | None = "member",
    estimator: Estimator = "fair",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """CRPS of the coefficients of each mode, in the unit of the variable, >= 0 in expectation; 0 is best.

    It rewards a right distribution of the large coherent motions. `dim` (None: all) speaks of dimensions other than
    space and `mode`, which is kept. Formula and estimators: `evaluation.crps`; modes: `evaluation.pod`.
    """
    predicted, observed, rest = _coefficients(forecast, truth, pod, space, member_dim, dim, nan_policy)
    member = "member" if member_dim is None else str(next(d for d in predicted.dims if d not in observed.dims))
    score = crps(
        predicted, observed, member_dim=member, estimator=estimator, dim=rest, weights=weights, nan_policy=nan_policy
    )
    return score.rename("pod_crps").assign_attrs(long_name="CRPS of the coefficient of a mode")


def pod_energy(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    pod: Pod,
    *,
    space: Iterable[str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """Mean square coefficient of each mode, of members (`energy`) and truth (`energy_truth`), unit squared.

    The energies of single members, averaged over members and `dim`: equal to the truth's where the forecast moves as
    strongly as the flow does, whether or not at the right moment. `mode` is kept, as is what `dim` leaves.
    """
    predicted, observed, rest = _coefficients(forecast, truth, pod, space, member_dim, dim, nan_policy)
    member = [d for d in predicted.dims if d not in observed.dims]
    energy = (predicted**2).mean(member, skipna=nan_policy == "omit")
    unit = truth.attrs.get("units")
    attrs = {} if unit is None else {"units": f"({unit})^2" if unit != "1" else "1"}
    return xr.Dataset(
        {
            name: average(a, rest, weights, nan_policy).assign_attrs(
                attrs, long_name=f"mean square coefficient of {of}"
            )
            for name, a, of in (("energy", energy, "members"), ("energy_truth", observed**2, "truth"))
        }
    )


def _coefficients(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    pod: Pod,
    space: Iterable[str],
    member_dim: str | None,
    dim: Dims,
    nan_policy: NanPolicy,
) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Of forecast and truth, and the dimensions to average over."""
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    forecast, truth, _ = pair(forecast, truth, member_dim)
    predicted = pod_coefficients(forecast, pod, space=space, nan_policy=nan_policy)
    observed = pod_coefficients(truth, pod, space=space, nan_policy=nan_policy)
    match(predicted, observed, observed.dims, "forecast", "truth")
    rest = over(observed, dim)
    if dim is not None and dim is not ... and "mode" in rest:
        raise DimensionError('"mode" is of the score itself: no average over modes')
    return predicted, observed, [str(d) for d in rest if d != "mode"]
