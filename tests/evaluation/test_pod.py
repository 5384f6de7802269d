"""Modes of fields whose modes are known; scores of coefficients are those of the coefficients."""

import dask.array
import numpy as np
import pytest
import xarray as xr

import evaluation
from evaluation import pod as module
from evaluation.errors import DimensionError, EvaluationError, MissingValueError
from evaluation.modal_scores import pod_coefficients, pod_crps, pod_energy
from evaluation.pod import Pod, pod_scores


def low_rank(samples=60, shape=(12, 16), rank=3, seed=0):
    """Snapshots mean + sum_i a_i phi_i of exactly `rank` orthonormal modes, coefficients uncorrelated in the sample."""
    rng = np.random.default_rng(seed)
    cells = shape[0] * shape[1]
    modes = np.linalg.qr(rng.normal(size=(cells, rank)))[0].T * np.sqrt(cells)
    centred = rng.normal(size=(samples, rank))
    coefficients = np.linalg.qr(centred - centred.mean(0))[0] * np.sqrt(samples) * np.arange(rank, 0, -1)
    mean = rng.normal(size=shape)
    return mean + (coefficients @ modes).reshape(-1, *shape), mean, modes.reshape(-1, *shape), coefficients


def signs(found, wanted):
    return np.sign((found * wanted).sum((1, 2)))


def test_modes_of_a_field_of_known_rank_are_found():
    fields, mean, modes, coefficients = low_rank()
    pod = Pod.fit(fields, modes=10)
    assert len(pod.modes) == 3  # there are no more
    np.testing.assert_allclose(pod.mean, mean, atol=1e-10)
    np.testing.assert_allclose(pod.energy, [9, 4, 1], rtol=1e-10)
    np.testing.assert_allclose(pod.fraction, np.array([9, 4, 1]) / 14, rtol=1e-10)
    assert pod.total == pytest.approx((fields - mean).var(), rel=1e-10)
    sign = signs(pod.modes, modes)
    np.testing.assert_allclose(pod.modes * sign[:, None, None], modes, atol=1e-8)
    np.testing.assert_allclose(pod.project(fields) * sign, coefficients, atol=1e-8)
    np.testing.assert_allclose(pod.reconstruct(pod.project(fields)), fields, atol=1e-8)


def test_modes_are_orthonormal_and_energies_are_those_of_a_singular_value_decomposition():
    fields = np.random.default_rng(1).normal(size=(50, 6, 7)) * np.linspace(1, 3, 7)
    pod = Pod.fit(fields, modes=8)
    flat = (fields - fields.mean(0)).reshape(50, -1)
    want = np.linalg.svd(flat, compute_uv=False)[:8] ** 2 / (50 * 42)
    np.testing.assert_allclose(pod.energy, want, rtol=1e-10)
    product = np.einsum("ayx,byx->ab", pod.modes, pod.modes) / 42
    np.testing.assert_allclose(product, np.eye(8), atol=1e-10)
    np.testing.assert_allclose((pod.project(fields) ** 2).mean(0), pod.energy, rtol=1e-10)
    assert all(m.ravel()[np.abs(m).argmax()] > 0 for m in pod.modes)
    assert Pod.fit(fields, modes=100).fraction.sum() == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("way", ["covariance", "products", "iterated"])
@pytest.mark.parametrize("kind", ["numpy", "dask", "float32"])
def test_every_way_to_the_modes_gives_the_same(way, kind, monkeypatch):
    fields, _, modes, _ = low_rank(samples=40 if way == "products" else 300, rank=4)
    want = Pod.fit(fields, modes=4)
    if way == "iterated":
        monkeypatch.setattr(module, "LARGEST_MATRIX", 100)
    given = {"numpy": fields, "dask": dask.array.from_array(fields, chunks=(50, 6, 16)), "float32": fields.astype("f4")}
    pod = Pod.fit(given[kind], modes=4, chunk=37)
    tolerance = 1e-5 if kind == "float32" else 1e-9
    np.testing.assert_allclose(pod.energy, want.energy, rtol=tolerance)
    np.testing.assert_allclose(pod.modes, want.modes, atol=tolerance * 100)
    np.testing.assert_allclose(np.abs(signs(pod.modes, modes)), 1)


def test_what_stands_in_walls_does_not_matter():
    fields, *_ = low_rank()
    fluid = np.ones((12, 16), bool)
    fluid[3:7, 4:9] = False
    pod = Pod.fit(fields, fluid, modes=3)
    other = np.where(fluid, fields, np.nan)
    again = Pod.fit(other, fluid, modes=3)
    for name in ("mean", "modes", "energy", "total"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pod, name))
    np.testing.assert_array_equal(pod.project(other), pod.project(fields))
    assert (pod.modes[:, ~fluid] == 0).all()
    np.testing.assert_allclose((pod.modes[:, fluid] ** 2).mean(1), 1)
    with pytest.raises(MissingValueError):
        Pod.fit(other, modes=3)


def test_fit_refuses_what_has_no_modes():
    fields, *_ = low_rank()
    for wrong in (fields[:1], fields[0]):
        with pytest.raises(EvaluationError):
            Pod.fit(wrong)
    with pytest.raises(EvaluationError):
        Pod.fit(fields, modes=0)
    with pytest.raises(EvaluationError, match="grid"):
        Pod.fit(fields, np.ones((3, 3), bool))
    with pytest.raises(EvaluationError, match="grid"):
        Pod.fit(fields).project(fields[:, :5])
    constant = Pod.fit(np.ones((5, 4, 4)))
    assert constant.fraction.size == 0


def case(seed=0):
    fields, *_ = low_rank()
    pod = Pod.fit(fields, modes=3)
    rng = np.random.default_rng(seed)
    truth = xr.DataArray(fields[:6].reshape(2, 3, 12, 16), dims=("trajectory", "lead_time", "y", "x"))
    noise = xr.DataArray(rng.normal(size=(5, 2, 3, 12, 16)), dims=("member", *truth.dims))
    return noise + truth, truth.assign_attrs(units="m"), pod


def test_scores_of_coefficients_are_those_of_the_coefficients():
    forecast, truth, pod = case()
    a = xr.DataArray(pod.project(forecast.values), dims=("member", "trajectory", "lead_time", "mode"))
    b = xr.DataArray(pod.project(truth.values), dims=("trajectory", "lead_time", "mode"))
    np.testing.assert_allclose(
        pod_crps(forecast, truth, pod, dim="trajectory"), evaluation.crps(a, b, dim="trajectory"), rtol=1e-10
    )
    found = pod_energy(forecast, truth, pod)
    np.testing.assert_allclose(found.energy, (a**2).mean(["member", "trajectory", "lead_time"]), rtol=1e-10)
    np.testing.assert_allclose(found.energy_truth, (b**2).mean(["trajectory", "lead_time"]), rtol=1e-10)
    assert found.energy.attrs["units"] == "(m)^2"
    assert pod_crps(forecast, truth, pod).attrs["units"] == "m"
    assert pod_crps(forecast, truth, pod).mode.values.tolist() == [1, 2, 3]
    single = pod_crps(forecast.isel(member=0), truth, pod, member_dim=None, estimator="classical")
    np.testing.assert_allclose(single, abs(a[0] - b).mean(["trajectory", "lead_time"]), rtol=1e-10)


def test_the_streaming_pass_gives_the_numbers_of_the_scores():
    forecast, truth, pod = case()
    parts = [pod_scores(forecast.values[:, i], truth.values[i], pod) for i in range(2)]
    energy, energy_truth, score = (np.mean(p, axis=0) for p in zip(*parts, strict=True))
    found = pod_energy(forecast, truth, pod, dim="trajectory")
    np.testing.assert_allclose(energy, found.energy, rtol=1e-10)
    np.testing.assert_allclose(energy_truth, found.energy_truth, rtol=1e-10)
    np.testing.assert_allclose(score, pod_crps(forecast, truth, pod, dim="trajectory"), rtol=1e-10)
    _, _, single = pod_scores(forecast.values[:1, 0], truth.values[0], pod)
    np.testing.assert_allclose(single, np.abs(pod.project(forecast.values[0, 0]) - pod.project(truth.values[0])))


def test_lazy_input_and_other_names():
    forecast, truth, pod = case()
    lazy = pod_crps(forecast.chunk(member=2, x=4), truth.chunk(trajectory=1), pod, dim="trajectory")
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute(), pod_crps(forecast, truth, pod, dim="trajectory"))
    names = {"y": "latitude", "x": "longitude"}
    got = pod_crps(forecast.rename(names | {"member": "number"}), truth.rename(names), pod)
    xr.testing.assert_allclose(got, pod_crps(forecast, truth, pod))


@pytest.mark.parametrize("score", [pod_crps, pod_energy])
def test_dimensions_must_match(score):
    forecast, truth, pod = case()
    with pytest.raises(DimensionError):
        score(forecast, truth.isel(trajectory=0), pod)
    with pytest.raises(DimensionError, match="grid"):
        score(forecast.isel(x=slice(5)), truth.isel(x=slice(5)), pod)
    with pytest.raises(DimensionError):
        score(forecast, truth, pod, dim="mode")
    with pytest.raises(EvaluationError):
        score(forecast, truth, pod, nan_policy="ignore")


def test_missing_values():
    forecast, truth, pod = case()
    broken = truth.copy()
    broken[0, 0, 2, 2] = np.nan
    assert pod_crps(forecast, broken, pod).isnull().all()
    want = (
        pod_crps(forecast, truth, pod, dim=()).where(broken.notnull().all(["y", "x"])).mean(["trajectory", "lead_time"])
    )
    np.testing.assert_allclose(pod_crps(forecast, broken, pod, nan_policy="omit"), want)
    with pytest.raises(MissingValueError):
        pod_crps(forecast, broken, pod, nan_policy="raise")
    assert pod_coefficients(broken, pod).isnull().any("mode").values.sum() == 1
