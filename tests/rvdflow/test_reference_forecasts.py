"""What every reference forecast keeps to: fitted on training runs, a pure function of seed, case and member."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import rvdflow.baselines.training as training
from lbm import dataset as store
from lbm.errors import DataError, UsageError
from rvdflow.baselines import METHODS, fit, names

SPLIT = ["train", "train", "validation", "test", "test"]
SOLID = np.zeros((6, 10), dtype=bool)
SOLID[2:4, 3:5] = True
LEAD = 3


def noisy_waves(split=SPLIT, times=40, change=None, variables=("vorticity",)):
    """An open dataset of travelling waves with noise around an obstacle; `change` edits (trajectory, time, y, x).

    A second variable is the first times ten.
    """
    rng, (y, x) = np.random.default_rng(3), np.mgrid[:6, :10]
    t, phase = np.arange(times)[:, None, None], rng.uniform(0, 6, (len(split), 1, 1, 1))
    values = np.sin(0.4 * np.pi * x - 0.4 * t + phase) * np.cos(0.5 * y)
    values += 0.2 * rng.standard_normal(values.shape)
    if change is not None:
        change(values)
    dims = ("trajectory", "time", "y", "x")
    found = xr.Dataset({name: (dims, values.astype(np.float32) * 10**k) for k, name in enumerate(variables)})
    found["split"] = ("trajectory", np.array(split))
    found["solid"] = (("trajectory", "y", "x"), np.broadcast_to(SOLID, (len(split), 6, 10)))
    return found


def drawn(method, opened, fitted_to=None, **options):
    made = fit(method, opened if fitted_to is None else fitted_to, lead=LEAD)
    settings = {"members": 5, "lead": LEAD, "init_times": [5, 20], "split": "test"}
    return made.forecast(opened, **settings | options)["vorticity"].values


@pytest.fixture(scope="module")
def data():
    return noisy_waves()


@pytest.mark.parametrize("method", names())
def test_test_runs_are_not_read_in_fitting(method, data):
    def scramble(values):
        values[3:] = 1e3

    expected = drawn(method, data)
    np.testing.assert_array_equal(drawn(method, data, fitted_to=noisy_waves(change=scramble)), expected)
    assert np.isfinite(expected[..., ~SOLID]).all()


@pytest.mark.parametrize("method", names())
def test_the_stamp_says_what_was_fitted_and_is_plain(method, data):
    stamp = fit(method, data, lead=LEAD).stamp()
    on = "nothing" if method.split("-dressed")[0] in ("persistence", "linear-extrapolation") else "train: 2 runs"
    assert stamp["fitted_on"].startswith(on)
    assert json.loads(json.dumps(stamp)) == stamp
    assert not any(isinstance(value, bool) for value in stamp.values())
    if method.endswith("-dressed"):
        assert stamp["dressed_with"].endswith("of validation")


@pytest.mark.parametrize("method", names())
def test_several_variables_are_forecast_together(method):
    made = noisy_waves(variables=("vorticity", "velocity_x"))
    result = fit(method, made, lead=LEAD).forecast(made, members=3, lead=LEAD, init_times=[9])
    assert set(result.data_vars) == {"vorticity", "velocity_x"}
    # The second variable is the first times ten, so its forecast is too: scales are taken per variable.
    np.testing.assert_allclose(result["velocity_x"].values, 10 * result["vorticity"].values, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("method", names())
@pytest.mark.parametrize("split", [["train", "train", "test"], ["train", "test"]])
def test_without_validation_runs_training_runs_stand_in(method, split):
    made = noisy_waves(split)
    fitted = fit(method, made, lead=LEAD)
    assert np.isfinite(fitted.forecast(made, members=3, lead=LEAD, init_times=[9])["vorticity"].values).all()
    if method.endswith("-dressed"):
        assert "no validation run" in fitted.stamp()["dressed_with"]
    if "chosen_by" in fitted.stamp():
        assert "training run" in fitted.stamp()["chosen_by"]


@pytest.mark.parametrize("method", ["damped-persistence", "analog", "linear-inverse", "advection-dressed"])
def test_frames_read_in_pieces_give_the_same_forecast(method, data, monkeypatch):
    expected = drawn(method, data)
    monkeypatch.setattr(training, "free_memory", lambda: 0)
    monkeypatch.setattr(training, "BLOCK_BYTES", 7 * 4 * 60)  # 7 frames
    again = drawn(method, data)
    # Sums over blocks of another size round otherwise; what is chosen stays.
    np.testing.assert_allclose(again, expected, atol=2e-3)


@pytest.mark.parametrize("method", ["persistence", "linear-extrapolation"])
def test_what_is_not_fitted_needs_no_training_runs(method):
    made = noisy_waves(["test"])
    assert np.isfinite(fit(method, made).forecast(made, lead=LEAD)["vorticity"].values).all()


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"persistence", "linear-extrapolation"}))
def test_what_is_fitted_refuses_data_without_training_runs(method):
    with pytest.raises(DataError, match="no trajectory in split 'train'"):
        fit(method, noisy_waves(["test", "validation"]))


@pytest.mark.parametrize("method", ["linear-extrapolation", "advection", "advection-dressed"])
def test_too_short_a_context_is_refused_with_both_numbers(method, data):
    with pytest.raises(UsageError, match="needs 2 frames of context, got 1"):
        fit(method, data, context=1)
    with pytest.raises(UsageError, match="needs 2 frames of context, got 1"):
        fit(method, data).forecast(data, context=1, lead=LEAD)


def test_unknown_methods_are_refused_with_the_list(data):
    with pytest.raises(UsageError, match=r"'magic' is not known: use persistence, .*analog.*, advection-dressed"):
        fit("magic", data)


@pytest.mark.parametrize("method", ["analog", "climatology-dressed"])
def test_an_ensemble_cannot_be_dressed(method, data):
    with pytest.raises(UsageError, match="is an ensemble already"):
        fit(method, data, dress=True)


def test_other_obstacles_and_other_frames_are_refused(data):
    made = fit("analog", data)
    with pytest.raises(DataError, match="other obstacles"):
        made.forecast(data.assign(solid=~data["solid"]), lead=LEAD)
    with pytest.raises(DataError, match="was fitted to frames of vorticity"):
        made.forecast(data.isel(x=slice(0, 8)), lead=LEAD)


def test_values_that_are_not_finite_are_refused_by_place():
    def broken(values):
        values[1, 7, 0, 0] = np.nan

    with pytest.raises(DataError, match="vorticity of trajectory 1 is not finite at frame 7"):
        fit("damped-persistence", noisy_waves(change=broken))


def test_the_command_writes_any_of_them(flow, rvdflow_process, tmp_path):
    for arguments, method in (("--method analog", "analog"), ("--method persistence --dress", "persistence-dressed")):
        command = ("forecast", "--data", flow, "--lead", 4, "--ensemble", 3, "--quiet", *arguments.split())
        assert rvdflow_process(*command, cwd=tmp_path).wait() == (0, "", "")
        written = store.open_dataset(tmp_path / f"{method}.zarr")
        assert (written.attrs["method"], written.sizes["member"]) == (method, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--method rvd --dress", "--dress is for a deterministic --method"),
        ("--method rvd-dressed", "--dress is for a deterministic --method"),
        ("--method mean --steps 3", "mean nothing to the mean"),
        ("--method analog --sampler ddim", "mean nothing to --method analog"),
        ("--method magic", "method 'magic' is not known: use rvd, svg-lp, ivrnn"),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments, message, flow, rvdflow_process, tmp_path):
    code, _, errors = rvdflow_process("forecast", "--data", flow, *arguments.split(), cwd=tmp_path).wait()
    assert (code, message in errors) == (2, True), errors
    assert not list(tmp_path.iterdir())


def test_the_mean_of_a_run_is_a_method_and_can_be_dressed(flow, trained, rvdflow_process, tmp_path):
    command = ("forecast", "--data", flow, "--checkpoint", trained, "--lead", 4, "--ensemble", 3, "--quiet", "--method")
    for method, members in (("mean", 1), ("mean-dressed", 3)):
        assert rvdflow_process(*command, method, cwd=tmp_path).wait() == (0, "", "")
        written = store.open_dataset(tmp_path / f"{method}.zarr")
        assert (written.attrs["method"], written.sizes["member"]) == (method, members)
        assert written.attrs["sampler_steps"] == 0
        assert len(written.attrs["checkpoint_sha256"]) == 64


def test_a_dry_run_estimates_time_and_memory(flow, trained, rvdflow_process, tmp_path):
    command = ("forecast", "--data", flow, "--checkpoint", trained, "--lead", 4, "--ensemble", 3, "--dry-run")
    code, output, errors = rvdflow_process(*command, "--init-times", "5,9,11", cwd=tmp_path).wait()
    assert (code, errors) == (0, "")
    shown = json.loads(output)
    assert (shown["init_times"], shown["members"], shown["lead"]) == ([5, 9, 11], 3, 4)
    assert shown["measured_on"] == "the first frames of 3 cases x 3 members"
    assert {"time", "memory", "disk", "checkpoint_sha256"} <= shown.keys()
    assert not list(tmp_path.iterdir())


def test_the_example_of_the_page_runs(flow):
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "reference-forecasts.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    code = code.replace('"flow.zarr"', repr(str(flow))).replace("lead=16", "lead=4").replace("members=32", "members=3")
    known: dict = {}
    exec(code, known)
    assert known["forecast"].sizes["member"] == 3
    assert np.isfinite(known["forecast"]["vorticity"].values).all()


def test_the_command_names_every_method():
    from typer.main import get_command

    from rvdflow.cli import app

    (option,) = (p for p in get_command(app).commands["forecast"].params if "--method" in p.opts)
    assert all(name in option.help for name in METHODS)
