"""`rvdflow verify`: stores in, scores and report out; mistakes get one line and the right exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation import summary
from evaluation.errors import EvaluationError
from lbm import dataset as store
from lbm.errors import DataError, UsageError
from rvdflow.verify import open_forecasts, print_skill_table, summary_json, verify

RUNS, FRAMES, LEADS, SHAPE = 4, 16, 3, (8, 16)
INITS = [3, 7, 11]


def make_truth(path: Path, seed: int = 0) -> Path:
    """Noise with an obstacle, as a complete dataset."""
    dims, about = ("trajectory", "time", "y", "x"), {"units": "1/tick", "long_name": "vorticity"}
    values = np.random.default_rng(seed).standard_normal((RUNS, FRAMES, *SHAPE)).astype(np.float32)
    solid = np.zeros((RUNS, *SHAPE), bool)
    solid[:, 3:5, 4:6] = True
    variables = {
        "vorticity": store.Variable(dims, "float32", about, chunks=(1, FRAMES, *SHAPE)),
        "solid": store.Variable(("trajectory", "y", "x"), "bool", {}, values=solid),
    }
    sizes = {"trajectory": RUNS, "time": FRAMES, "y": SHAPE[0], "x": SHAPE[1]}
    coords = {"time": ("time", np.arange(FRAMES), {})}
    attrs = {"frame_interval": 64, "frame_interval_units": "ticks"}
    with store.create(path, variables=variables, coords=coords, sizes=sizes, attrs=attrs) as writer:
        for run in range(RUNS):
            writer.write("vorticity", values[run], trajectory=run, time=slice(0, FRAMES))
            writer.mark(trajectory=run, time=slice(0, FRAMES))
        writer.finish()
    return path


def make_forecast(path: Path, truth: Path, method: str, members: int, error: float, *, cases: int = RUNS * 3) -> Path:
    """Truth plus noise of standard deviation `error`, of the first `cases` cases; unfinished if not all."""
    field = store.open_dataset(truth)["vorticity"].values
    rng = np.random.default_rng([members, RUNS])
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    about = {"units": "1/tick", "long_name": "vorticity"}
    variables = {"vorticity": store.Variable(dims, "float32", about, chunks=(1, 1, members, LEADS, *SHAPE))}
    sizes = {"trajectory": RUNS, "init_time": 3, "member": members, "lead_time": LEADS, "y": SHAPE[0], "x": SHAPE[1]}
    coords = {
        "trajectory": ("trajectory", np.arange(RUNS), {}),
        "init_time": ("init_time", np.array(INITS), {}),
        "lead_time": ("lead_time", np.arange(1, LEADS + 1), {}),
    }
    attrs = {"method": method, "members": members, "seed": 3, "deterministic": members == 1}
    attrs |= {"dataset_sha256": store.digest(truth), "sampler": "ddim", "sampler_steps": 4}
    with store.create(path, variables=variables, coords=coords, sizes=sizes, attrs=attrs) as writer:
        for run, place in [(r, i) for r in range(RUNS) for i in range(3)][:cases]:
            future = field[run, INITS[place] + 1 : INITS[place] + 1 + LEADS]
            drawn = future + error * rng.standard_normal((members, *future.shape))
            writer.write("vorticity", drawn.astype(np.float32), trajectory=run, init_time=place)
            writer.mark(trajectory=run, init_time=place)
        if cases == RUNS * 3:
            writer.finish()
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A truth and three forecasts of it."""
    folder = tmp_path_factory.mktemp("stores")
    truth = make_truth(folder / "flow.zarr")
    made = {"truth": truth}
    for method, members, error in (("rvd", 4, 0.3), ("climatology", 4, 1.0), ("persistence", 1, 1.0)):
        made[method] = make_forecast(folder / f"{method}.zarr", truth, method, members, error)
    return made


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "rvdflow", "verify", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def three(stores: dict[str, Path]) -> list[Path]:
    return [stores[name] for name in ("rvd", "climatology", "persistence")]


def test_command_writes_scores_and_report_and_prints_the_table(stores, tmp_path):
    out = tmp_path / "scores.zarr"
    done = command(*three(stores), "--truth", stores["truth"], "-o", out, "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "report" / "index.html") in done.stdout
    assert (tmp_path / "report" / "index.html").is_file()
    lines = done.stdout.splitlines()
    assert sum(line.split()[:1] == [str(lead)] for line in lines for lead in (1, 2, 3)) == 3
    store.check(out)
    scores = store.open_dataset(out).load()
    assert scores.attrs["reference"] == "climatology"
    assert scores["method"].values.tolist() == ["rvd", "climatology", "persistence"]
    with pytest.raises(UsageError, match="--overwrite"):
        verify(three(stores), stores["truth"], output=out, quiet=True)


def test_scores_on_disk_are_the_scores_returned(stores, tmp_path):
    out = tmp_path / "scores.zarr"
    scores = verify(three(stores), stores["truth"], output=out, quiet=True)
    back = store.open_dataset(out).load()
    for name in scores.variables:
        np.testing.assert_array_equal(back[name], scores[name], err_msg=str(name))
    np.testing.assert_array_equal(summary.value(back, "crpss"), summary.value(scores, "crpss"))
    assert back.attrs["cases"] == 12


@pytest.mark.parametrize("size", [1, 500, 2000])  # runs one by one, some together, and all
def test_runs_share_chunks_as_far_as_these_stay_small(stores, tmp_path, monkeypatch, size):
    whole = verify(three(stores), stores["truth"], quiet=True, lpips_weights=None)
    monkeypatch.setattr("rvdflow.verify.CHUNK_BYTES", size)
    out = tmp_path / "scores.zarr"
    verify(three(stores), stores["truth"], output=out, quiet=True, lpips_weights=None)
    back = store.open_dataset(out)
    for name in whole.data_vars:
        np.testing.assert_array_equal(back[name], whole[name], err_msg=str(name))
    kept = {name: array for name, array in back.items() if "trajectory" in array.dims}
    together = {array.encoding["chunks"][array.dims.index("trajectory")] for array in kept.values()}
    assert together == {1: {1}, 500: {1, 2, 4}, 2000: {1, 2, 3, 4}}[size]


def test_scoring_twice_gives_the_same_bits(stores, tmp_path):
    for name in ("a", "b"):
        verify(three(stores), stores["truth"], output=tmp_path / f"{name}.zarr", quiet=True)
    assert store.digest(tmp_path / "a.zarr") == store.digest(tmp_path / "b.zarr")


def test_reference_that_is_not_there_is_one_line_and_exit_code_2(stores, tmp_path):
    arguments = ["--truth", stores["truth"], "--reference", "climatology", "-o", tmp_path / "s.zarr"]
    done = command(stores["rvd"], *arguments, "--report", tmp_path / "r")
    assert done.returncode == 2
    assert done.stderr.startswith("error: reference 'climatology' is not among the forecasts (rvd)")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_variable_is_a_usage_error(stores):
    with pytest.raises(UsageError, match="'pressure' is not in the truth; it has: vorticity"):
        verify([stores["rvd"]], stores["truth"], variable="pressure", quiet=True)


def test_forecast_of_another_dataset_is_refused_with_both_hashes(stores, tmp_path):
    other = make_truth(tmp_path / "other.zarr", seed=1)
    with pytest.raises(DataError) as refusal:
        verify([stores["rvd"]], other, quiet=True)
    for path in (stores["truth"], other):
        assert store.digest(path)[:12] in str(refusal.value)


def test_existing_outputs_are_refused_before_any_work(stores, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("old")
    with pytest.raises(UsageError, match="--overwrite"):
        verify([stores["rvd"]], stores["truth"], report=tmp_path / "report", quiet=True)
    (tmp_path / "file.zarr").write_text("mine")
    with pytest.raises(UsageError, match="file"):
        verify([stores["rvd"]], stores["truth"], output=tmp_path / "file.zarr", overwrite=True, quiet=True)
    assert (tmp_path / "file.zarr").read_text() == "mine"


def test_unfinished_forecast_is_refused_and_scored_as_far_as_it_goes_when_allowed(stores, tmp_path):
    partial = make_forecast(tmp_path / "partial.zarr", stores["truth"], "rvd", 4, 0.3, cases=7)
    with pytest.raises(DataError, match=r"unfinished \(7 of 12 cases"):
        verify([partial], stores["truth"], quiet=True)
    scores = verify([partial, stores["climatology"]], stores["truth"], allow_incomplete=True, quiet=True)
    assert scores.attrs["cases"] == 7
    whole = verify([stores["rvd"]], stores["truth"], quiet=True)
    both = scores["crps"].sel({"method": "rvd"}).dropna("trajectory", how="all")
    np.testing.assert_array_equal(both[:2], whole["crps"][0, :2])


def test_damaged_chunk_is_named(stores, tmp_path):
    bad = make_forecast(tmp_path / "bad.zarr", stores["truth"], "rvd", 4, 0.3)
    chunk = sorted(p for p in (bad / "vorticity" / "c").rglob("*") if p.is_file())[5]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(DataError, match=str(chunk.relative_to(bad))):
        verify([bad], stores["truth"], quiet=True)


def test_what_is_no_forecast_is_refused(stores, tmp_path):
    with pytest.raises(DataError, match="is not a forecast"):
        verify([stores["truth"]], stores["truth"], quiet=True)
    with pytest.raises(DataError, match="does not exist"):
        verify([tmp_path / "none.zarr"], stores["truth"], quiet=True)
    with pytest.raises(UsageError, match="at least one"):
        verify([], stores["truth"], quiet=True)


def test_equal_method_names_are_told_apart_by_file(stores, tmp_path):
    second = make_forecast(tmp_path / "wider.zarr", stores["truth"], "rvd", 4, 0.5)
    assert list(open_forecasts([stores["rvd"], second])) == ["rvd (rvd)", "rvd (wider)"]
    assert list(open_forecasts([second, second])) == ["rvd (wider)", "rvd (wider) 2"]


def test_a_broken_forecast_is_an_evaluation_error(stores, tmp_path):
    broken = make_forecast(tmp_path / "broken.zarr", stores["truth"], "rvd", 4, np.inf)
    with pytest.raises(EvaluationError, match="NaN or infinite") as refusal:
        verify([broken], stores["truth"], quiet=True)
    assert refusal.value.exit_code == 4


def test_full_disk_is_exit_code_5_and_leaves_older_results(stores, tmp_path):
    out, report = tmp_path / "scores.zarr", tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("old")
    arguments = [stores["rvd"], "--truth", stores["truth"], "-o", out, "--report", report, "--overwrite"]
    code = (  # a first pass fills the caches of compiled code and fonts, which are no output of ours
        "import resource, signal, sys, matplotlib.font_manager; from rvdflow.cli import main;"
        f"from rvdflow.verify import verify; verify([{str(stores['rvd'])!r}], {str(stores['truth'])!r}, quiet=True);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        f"sys.argv = ['rvdflow', 'verify', *{list(map(str, arguments))!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5, done.stderr
    assert str(report) in done.stderr
    assert "Traceback" not in done.stderr
    assert (report / "index.html").read_text() == "old"
    assert list((report / "figures").iterdir()) == []


def test_json_holds_the_table_and_marks_what_does_not_apply(stores, capsys):
    scores = verify(three(stores), stores["truth"], quiet=True)
    found = json.loads(json.dumps(summary_json(scores), allow_nan=False))
    rvd = found["methods"]["rvd"]
    np.testing.assert_allclose(rvd["crps"], summary.value(scores, "crps").sel({"method": "rvd"}))
    assert rvd["periods"]["1-3"]["crpss_persistence"] > 0.5
    assert found["methods"]["persistence"]["spread_skill_ratio"] == [None] * 3
    assert found["protocol"]["rvd"]["sampler_steps"] == 4
    print_skill_table(scores)
    printed = capsys.readouterr().out
    assert "at every lead" in printed
    print_skill_table(scores, quiet=True)
    assert capsys.readouterr().out == ""


def test_forecasts_from_elsewhere_are_verified_beside_ours(stores, tmp_path):
    """A netCDF file with other names scores as the store that it was made from."""
    import xarray as xr

    ours = store.open_dataset(stores["rvd"])
    theirs = xr.Dataset({"omega": ours["vorticity"].drop_attrs()}).rename(member="realisation", lead_time="step")
    theirs.to_netcdf(tmp_path / "theirs.nc")
    renamed = ["--rename", "omega=vorticity", "--rename", "realisation=member"]
    done = command(
        f"other={tmp_path / 'theirs.nc'}", stores["rvd"], "--truth", stores["truth"], *renamed, "--scores", "points",
        "-o", tmp_path / "s.zarr", "--report", tmp_path / "r",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = store.open_dataset(tmp_path / "s.zarr").load()
    assert scores["method"].values.tolist() == ["other", "rvd"]
    np.testing.assert_array_equal(scores["crps"][0], scores["crps"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rename", "omega"], "--rename wants names as number=member"),
        (["--threshold", "much"], "--threshold wants numbers"),
        (["--value-range", "1"], "--value-range wants two numbers"),
        (["--protocol", "dvd"], "protocol 'dvd' is not known"),
        (["--scores", "spectrum"], "family 'spectrum' is not known"),
        (["--scheduler", "cluster"], "--scheduler cluster: wanted threads or an address"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_one_line(stores, tmp_path, options, message):
    from typer.testing import CliRunner

    from rvdflow.cli import app

    given = [
        str(stores["rvd"]),
        "--truth",
        str(stores["truth"]),
        "-o",
        str(tmp_path / "s.zarr"),
        "--report",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(app, ["verify", *given, *options])
    assert message in str(result.exception) or message in result.output
    assert not (tmp_path / "s.zarr").exists()


def test_what_networks_need_is_said_in_the_scores(stores, tmp_path):
    scores = verify(
        [stores["rvd"]], stores["truth"], lpips_weights=tmp_path / "none.pth", quiet=True, families=["points"]
    )
    assert scores.attrs["lpips"].startswith("LPIPS")
    assert "unavailable" in scores.attrs["lpips"]
    assert scores.attrs["fvd"] == "not asked for"
    assert "lpips" not in scores


def test_scores_that_fail_half_way_leave_the_older_ones(stores, tmp_path):
    out = tmp_path / "scores.zarr"
    verify([stores["rvd"]], stores["truth"], output=out, families=["points"], quiet=True)
    before = store.digest(out)
    broken = store.open_dataset(stores["rvd"])[["vorticity"]].load().drop_attrs()
    broken["vorticity"][-1, -1, 0, -1, 0, 0] = np.nan  # the last case
    broken.to_netcdf(tmp_path / "broken.nc")
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        verify([tmp_path / "broken.nc"], stores["truth"], output=out, families=["points"], overwrite=True, quiet=True)
    assert store.digest(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.nc", "scores.zarr"]


def make_video(folder: Path) -> tuple[Path, Path]:
    """A store of colour clips, one of them too short, and a forecast of the others, both 8 bits."""
    rng = np.random.default_rng(0)
    clips, frames, shape, length = 4, 20, (3, 12, 16), np.array([20, 20, 9, 20], np.int32)
    names = ("channel", np.array(["red", "green", "blue"]), {})
    values = np.cumsum(rng.integers(-9, 10, (clips, frames, *shape)), axis=1) + 128
    values = np.clip(values, 0, 255).astype(np.uint8)
    sizes = {"trajectory": clips, "time": frames, "channel": 3, "y": shape[1], "x": shape[2]}
    dims = ("trajectory", "time", "channel", "y", "x")
    split = np.array(["train", "test", "test", "test"])
    variables = {
        "frames": store.Variable(dims, "uint8", {}, chunks=(1, 5, *shape)),
        "length": store.Variable(("trajectory",), "int32", {}, values=length),
        "split": store.Variable(("trajectory",), "str", {}, values=split),
    }
    truth, forecast = folder / "video.zarr", folder / "forecast.zarr"
    coords = {"channel": names, "time": ("time", np.arange(frames), {})}
    with store.create(truth, variables=variables, coords=coords, sizes=sizes, attrs={}) as writer:
        for clip in range(clips):
            writer.write("frames", values[clip], trajectory=clip, time=slice(0, frames))
            writer.mark(trajectory=clip, time=slice(0, frames))
        writer.finish()
    runs, members, leads = [1, 3], 3, 16
    sizes = {"trajectory": 2, "init_time": 1, "member": members, "lead_time": leads, "channel": 3, "y": 12, "x": 16}
    dims = ("trajectory", "init_time", "member", "lead_time", "channel", "y", "x")
    coords = {
        "trajectory": ("trajectory", np.array(runs), {}),
        "init_time": ("init_time", np.array([3]), {}),
        "lead_time": ("lead_time", np.arange(1, leads + 1), {}),
        "channel": names,
    }
    variables = {"frames": store.Variable(dims, "uint8", {}, chunks=(1, 1, members, 4, *shape))}
    attrs = {"method": "rvd", "dataset_sha256": store.digest(truth)}
    with store.create(forecast, variables=variables, coords=coords, sizes=sizes, attrs=attrs) as writer:
        for place, run in enumerate(runs):
            drawn = values[run, 4:] + rng.normal(0, 20, (members, leads, *shape))
            writer.write("frames", np.clip(drawn, 0, 255).astype(np.uint8), trajectory=place, init_time=0)
            writer.mark(trajectory=place, init_time=0)
        writer.finish()
    return truth, forecast


def test_stores_of_video_are_scored_by_their_protocol(tmp_path):
    truth, forecast = make_video(tmp_path)
    out = tmp_path / "scores.zarr"
    options = {"families": ["points", "deterministic"], "lpips_weights": None, "quiet": True}
    scores = verify([forecast], truth, protocol="rvd-bair", output=out, **options)
    assert scores.attrs["units"] == "grey levels"
    assert scores.attrs["channels"] == "red, green, blue"
    assert scores.attrs["background"] == "20 frames of the training clips"
    assert store.open_dataset(out).attrs["verification_protocol"] == "rvd-bair"
    values = store.open_dataset(truth)["frames"].values[[1, 3], 4:].astype(float)
    members = store.open_dataset(forecast)["frames"].values[:, 0].astype(float)
    pairs = np.abs(members[:, :, None] - members[:, None]).mean((1, 2))
    crps = np.abs(members - values[:, None]).mean(1) - pairs / 2
    np.testing.assert_allclose(scores["crps"][0, :, 0], crps.mean((-3, -2, -1)), rtol=1e-12)
    with pytest.raises(EvaluationError, match=r"rvd-kth scores leads 1 to 12 after init time 15; .* init times 3"):
        verify([forecast], truth, protocol="rvd-kth", **options)
    done = command(forecast, "--truth", truth, "--protocol", "rvd-kth", "-o", tmp_path / "s.zarr", "--scores", "points")
    assert done.returncode == EvaluationError.exit_code
    assert len(done.stderr.strip().splitlines()) == 1
