"""The page "Verify your own forecast" works as printed, on files of somebody else's making."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import evaluation

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/verify.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A truth and two forecasts in netCDF, with the names and clocks of a weather service."""
    rng = np.random.default_rng(1)
    runs, times, shape = 4, 24, (12, 16)
    hour = np.timedelta64(3_600_000_000_000, "ns")
    start = np.datetime64("2026-01-01", "ns")
    dims = ("trajectory", "time", "latitude", "longitude")
    truth = xr.Dataset(
        {"vorticity": (dims, 0.02 * rng.standard_normal((runs, times, *shape)).astype(np.float32))},
        coords={"trajectory": np.arange(runs), "time": start + 6 * hour * np.arange(times)},
    )
    inits, steps = 4 + 5 * np.arange(3), np.arange(1, 9)
    valid = np.add.outer(inits, steps)
    for name, error in (("forecast", 0.5), ("reference", 1.0)):
        observed = truth["vorticity"].values[:, valid][:, :, None]
        noise = 0.02 * error * rng.standard_normal((runs, 3, 5, 8, *shape))
        xr.Dataset(
            {
                "vorticity": (
                    ("trajectory", "time", "number", "step", "latitude", "longitude"),
                    (observed + noise).astype(np.float32),
                )
            },
            coords={"trajectory": np.arange(runs), "time": start + 6 * hour * inits, "step": 6 * hour * steps},
        ).to_netcdf(tmp_path / f"{name}.nc")
    truth.to_netcdf(tmp_path / "truth.nc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ten_lines_and_the_single_scores_run(folder, capsys):
    whole, single = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len([line for line in whole.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(whole, names)
    assert "lower" in capsys.readouterr().out or (folder / "report" / "index.html").is_file()
    gain = evaluation.metric(names["scores"], "crpss", reference="climatology")["value"].sel({"method": "mine"})
    assert (gain > 0.3).all()  # noise of half the size
    exec(single, names)
    assert names["number"].dims == ()
    assert names["curve"].dims == ("lead_time",)
    assert names["picture"].dims == ("y", "x")
    assert float(names["number"]) == pytest.approx(float(names["curve"].mean()))
    assert np.isfinite([float(names[n]) for n in ("events", "texture")]).all()


def test_the_functions_it_names_exist():
    for name in re.findall(r"`([A-Za-z_]+)`", re.search(r"\| family.*?\n\n", PAGE.read_text(), re.S)[0]):
        assert callable(getattr(evaluation, name)), name


def test_its_command_exists_with_its_options():
    import typer.main

    from rvdflow.cli import app

    known = {o for p in typer.main.get_command(app).commands["verify"].params for o in p.opts}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE.read_text())) <= known


def test_the_gallery_names_functions_and_pictures_that_exist():
    from evaluation import maps, plots

    page = PAGE.parents[1] / "gallery.md"
    text = page.read_text()
    for name in re.findall(r"^`([a-z_]+)`", text, re.M):
        assert callable(getattr(plots, name, None) or getattr(maps, name)), name
    for picture in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (page.parent / picture).is_file(), picture
