"""A tiny study from end to end: its numbers, what is never done twice, what fails alone, what can be divided."""

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lbm import dataset as store
from lbm.errors import UsageError
from rvdflow.cli import app
from rvdflow.study import prepare, study
from rvdflow.study_config import read_study
from rvdflow.study_table import table

FLOW = """
size = "16x32"
obstacle = "cylinder"
diameter = 4.0
centre = [8.0, 8.0]
inflow_velocity = 0.1
bulk_viscosity = 0.1
sides = "periodic"
noise_transverse = 0.2
noise_time = 50.0
frames = 24
every = 8
warmup = 100
trajectories = 1
split = [2, 1, 3]
save_states = 4
[sweep]
reynolds = [20, 24, 28, 32, 36, 40]
"""
STUDY = """
title = "Tiny"
seeds = [0, 1]
[base]
preset = "small"
[base.model]
width = 4
multipliers = [1, 2]
diffusion_steps = 50
sampler = { name = "ddim", steps = 2 }
[base.train]
batch_size = 2
checkpoint_every = 1
log_every = 1
warmup_steps = 1
validations = 1
[base.validation]
cases = 2
members = 2
lead = 3
clips = 2
[base.calibration]
cases = 0
[budget]
steps = 3
[protocol]
members = 3
lead = 4
context = 4
init_times = [8, 16]
[[cell]]
name = "base"
[[cell]]
name = "vd"
set.model = { mean = "zero", residual_scale = "fixed", mean_loss = 0.0 }
[[cell]]
name = "heun"
weights = "base"
sampler = { name = "heun", steps = 3 }
[[cell]]
name = "mean"
weights = "base"
method = "mean"
[[cell]]
name = "climatology"
method = "climatology"
[[cell]]
name = "persistence"
method = "persistence"
[[cell]]
name = "solver"
perfect = true
"""
BROKEN = """
[[cell]]
name = "broken"
description = "a residual of infinite size"
set.model = { residual_scale = "fixed", sigma = 1e-30 }
set.train.max_bad_steps = 2
[[cell]]
name = "of-broken"
weights = "broken"
sampler = { steps = 1 }
"""
GROUPED = STUDY.replace(
    "init_times", 'group_by = "reynolds"\ngroups = {low = [[20, 29]], high = [[30, 40]]}\ninit_times'
)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    (folder / "flow.toml").write_text(FLOW)
    command = ["simulate", "--config", folder / "flow.toml", "-o", folder / "flow.zarr", "--quiet"]
    subprocess.run([sys.executable, "-m", "lbm", *map(str, command)], check=True)
    return folder / "flow.zarr"


def written(tmp_path: Path, text: str = STUDY) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text(text)
    return file


def do(file, flow, folder, **options):
    return study(file, flow, folder, device="cpu", threads=1, quiet=True, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flow):
    """The folder of a study that is done, and its table."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "s", do(written(folder), flow, folder / "s")


# ------------------------------------------------------------------ the numbers


@functools.cache
def plain_scores(flow, forecast):
    """{(trajectory, init time): fair CRPS, variance, squared error by lead} by double sums over fluid cells."""
    truth, drawn = store.open_dataset(flow, chunks=None), store.open_dataset(forecast, chunks=None)
    scores = {}
    for k in drawn["trajectory"].values:
        fluid = ~truth["solid"].values[k]
        for t in drawn["init_time"].values:
            x = drawn["vorticity"].sel(trajectory=k, init_time=t).values.astype(float)[..., fluid]
            y = truth["vorticity"].values[k, t + 1 : t + 1 + x.shape[1]].astype(float)[..., fluid]
            m = len(x)
            crps = np.abs(x - y).mean(0)
            if m > 1:
                crps = crps - sum(np.abs(a - b) for a in x for b in x) / (2 * m * (m - 1))
            variance = x.var(0, ddof=1).mean(1) if m > 1 else np.full(len(y), np.nan)
            scores[int(k), int(t)] = np.array([crps.mean(1), variance, ((x.mean(0) - y) ** 2).mean(1)])
    return scores


def expected(flow, folder, runs=None):
    """{cell: [per seed: (statistic, lead)]} and the standard deviation of the truth, over all cases of some runs."""
    files = sorted((folder / "forecasts").glob("*.zarr"))
    found = {file.stem: plain_scores(flow, file) for file in files}
    chosen = [case for case in found["solver"] if runs is None or case[0] in runs]
    means: dict = {}
    for name, scores in found.items():
        means.setdefault(name.split("-seed")[0], []).append(np.mean([scores[case] for case in chosen], axis=0))
    data = store.open_dataset(flow, chunks=None)
    fluid = [data["vorticity"].values[k, t + 1 : t + 5][:, ~data["solid"].values[k]] for k, t in chosen]
    return means, np.std(np.concatenate([f.ravel() for f in fluid]).astype(float))


def compare(rows, means, unit):
    crps = {name: np.mean([s[0] for s in seeds], axis=0) for name, seeds in means.items()}
    assert {row.cell for row in rows} == set(means)
    for row in rows:
        own = means[row.cell]
        np.testing.assert_allclose(list(row.crps.values()), crps[row.cell] / unit, rtol=1e-5)
        mean = crps[row.cell].mean()
        np.testing.assert_allclose(row.mean_crps[0], mean / unit, rtol=1e-5)
        np.testing.assert_allclose(row.of_perfect, mean / crps["solver"].mean(), rtol=1e-5)
        best = min(crps["climatology"].mean(), crps["persistence"].mean())
        best_first = min(crps["climatology"][0], crps["persistence"][0])
        np.testing.assert_allclose(row.skill, 100 * (1 - mean / best), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(row.skill_first, 100 * (1 - crps[row.cell][0] / best_first), rtol=1e-4, atol=1e-4)
        if row.cell != "base":
            np.testing.assert_allclose(row.change[0], 100 * (mean / crps["base"].mean() - 1), rtol=1e-4, atol=1e-4)
        if len(own) > 1:
            each = [s[0].mean() / unit for s in own]
            np.testing.assert_allclose(row.mean_crps_seeds, (min(each), max(each)), rtol=1e-5)
        if len(own) > 1 and row.cell != "base":
            changes = [100 * (a[0].mean() / b[0].mean() - 1) for a, b in zip(own, means["base"], strict=True)]
            np.testing.assert_allclose(row.change_seeds, (min(changes), max(changes)), rtol=1e-4, atol=1e-4)
        variance, error = np.mean([s[1] for s in own], axis=0), np.mean([s[2] for s in own], axis=0)
        ratio = np.sqrt(4 / 3 * variance / error)  # (M + 1) / M for 3 members
        if row.spread_skill is None:
            assert row.cell in ("mean", "persistence")
        else:
            np.testing.assert_allclose(row.spread_skill, (ratio.min(), ratio.max()), rtol=1e-5)


def test_the_table_holds_what_double_sums_over_the_stores_give(whole, flow):
    folder, found = whole
    compare(found.rows, *expected(flow, folder))
    assert found.groups[""]["cases"] == 6
    assert found.groups[""]["runs"] == 3
    rows = {row.cell: row for row in found.rows}
    assert rows["base"].steps == 3
    assert rows["base"].seeds == [0, 1]
    assert (rows["base"].calls, rows["mean"].calls, rows["persistence"].calls) == (2, 0, None)
    assert rows["heun"].calls == 3
    assert rows["heun"].parameters == rows["base"].parameters > 1000
    assert all(row.milliseconds > 0 for row in found.rows)
    for row in found.rows:
        value, low, high = row.mean_crps
        assert low <= value <= high


def test_groups_are_scored_by_their_own_runs(whole, flow, tmp_path):
    folder, _ = whole
    numbers_of_runs = store.open_dataset(flow)["reynolds"].values
    grouped = read_study(written(tmp_path, GROUPED))
    prepare(grouped, flow, folder)  # the same forecasts
    found = table(grouped, [folder])
    assert list(found.groups) == ["low", "high"]
    for group, (low, high) in {"low": (20, 29), "high": (30, 40)}.items():
        runs = np.flatnonzero((numbers_of_runs >= low) & (numbers_of_runs <= high))
        compare(found.of(group), *expected(flow, folder, set(runs.tolist())))
    prepare(read_study(written(tmp_path)), flow, folder)


def test_a_group_without_runs_is_refused_with_the_numbers_there_are(flow, tmp_path):
    file = written(tmp_path, GROUPED.replace("[[30, 40]]", "[[300, 400]]"))
    with pytest.raises(UsageError, match=r"groups\.high: no test run has reynolds in its ranges; it goes from 2"):
        do(file, flow, tmp_path / "s")
    file = written(tmp_path, GROUPED.replace('"reynolds"', '"weather"'))
    with pytest.raises(UsageError, match=r"group_by 'weather': .* it has .*reynolds"):
        do(file, flow, tmp_path / "s")


# ------------------------------------------------------------------ resuming


def times_of_files(folder):
    kept = [p for name in ("runs", "forecasts", "scores", "cells") for p in (folder / name).rglob("*") if p.is_file()]
    return {p: p.stat().st_mtime_ns for p in kept if p.suffix != ".lock"}


def test_what_is_done_is_not_done_again(whole, flow, tmp_path):
    folder, found = whole
    before = times_of_files(folder)
    again = do(written(tmp_path), flow, folder)
    assert times_of_files(folder) == before
    assert again.json() == found.json()


def test_a_study_killed_again_and_again_ends_with_the_same_numbers(whole, flow, tmp_path, rvdflow_process):
    file, folder = written(tmp_path), tmp_path / "killed"
    arguments = ["study", file, "--data", flow, "-o", folder, "--device", "cpu", "--threads", 1]
    arguments += ["--only", "vd,climatology"]
    done = 0
    for after in (4, 2, 1):  # of the units of whatever is under way: cases of a forecast, steps of a training
        process = rvdflow_process(*arguments, signal=(signal.SIGKILL, after, 0))
        assert process.wait()[0] == -signal.SIGKILL
        records = list((folder / "cells").glob("*.json"))
        assert len(records) >= done
        done = len(records)
    kept = {p: p.stat().st_mtime_ns for p in records}
    code, _, errors = rvdflow_process(*arguments).wait()
    assert code == 0, errors
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in (folder / "cells").glob("*.json")}.items()
    rows = {row.cell: row for row in whole[1].rows}
    for row in table(read_study(file), [folder]).rows:
        if row.cell in ("vd", "climatology"):
            assert row.crps == rows[row.cell].crps
            assert row.spread_skill == rows[row.cell].spread_skill


def test_sigterm_stops_a_study_with_its_code(flow, tmp_path, rvdflow_process):
    arguments = ["study", written(tmp_path), "--data", flow, "-o", tmp_path / "s", "--only", "vd", "--threads", 1]
    code, _, errors = rvdflow_process(*arguments, signal=(signal.SIGTERM, 2, 0)).wait()
    assert code == 143, errors
    assert not (tmp_path / "s" / "cells" / "vd-seed0.json").exists()


# ------------------------------------------------------------------ failing, changing, dividing


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(flow, tmp_path):
    text = STUDY.replace("seeds = [0, 1]", "seeds = [0]") + BROKEN
    file, folder = written(tmp_path, text), tmp_path / "s"
    found = do(file, flow, folder, only=["broken", "of-broken", "persistence"])
    record = json.loads((folder / "cells" / "broken-seed0.json").read_text())
    assert (record["status"], record["stage"], record["error"]) == ("failed", "training", "NumericalError")
    assert "finite" in record["reason"]
    rows = {row.cell: row for row in found.rows}
    assert rows["broken"].failed == {"broken-seed0": record["reason"]}
    assert "training of broken-seed0 failed" in rows["of-broken"].failed["of-broken-seed0"]
    assert rows["persistence"].crps
    assert rows["base"].missing == ["base-seed0"]
    page = (folder / "table.md").read_text()
    assert f"broken-seed0 failed: {record['reason']}" in page
    assert "not done yet: base-seed0" in page
    before = times_of_files(folder)
    do(file, flow, folder, only=["broken"])
    assert times_of_files(folder) == before
    do(file, flow, folder, only=["broken"], retry=True)
    assert times_of_files(folder) != before


def test_changed_settings_of_a_finished_cell_are_refused_and_a_new_cell_is_added(flow, tmp_path):
    text = STUDY.replace("seeds = [0, 1]", "seeds = [0]")
    folder = tmp_path / "s"
    do(written(tmp_path, text), flow, folder, only=["base"])
    before = times_of_files(folder)
    with pytest.raises(UsageError, match=r"base-seed0 was made with other settings \(run\.model\.width: 4, now 8\)"):
        do(written(tmp_path, text.replace("width = 4", "width = 8")), flow, folder, only=["base"])
    more = text + "[[cell]]\nname = 'ddim-1'\nweights = 'base'\nsampler = { steps = 1 }\n"
    found = do(written(tmp_path, more), flow, folder, only=["base", "ddim-1"])
    assert before.items() <= times_of_files(folder).items()
    assert [row.cell for row in found.rows if row.crps] == ["base", "ddim-1"]
    with pytest.raises(UsageError, match="init_times"):
        do(written(tmp_path, text.replace("[8, 16]", "[8]")), flow, folder)


def test_parts_in_folders_of_their_own_join_to_the_whole(whole, flow, tmp_path):
    file = written(tmp_path)
    names = ["base", "heun", "persistence"]
    for k in (1, 2):
        do(file, flow, tmp_path / f"part{k}", part=(k, 2), only=names)
    assert not (tmp_path / "part1" / "runs" / "base-seed0").exists()
    assert (tmp_path / "part1" / "cells" / "persistence.json").exists()
    joined = table(read_study(file), [tmp_path / "part1", tmp_path / "part2"])
    alone = do(file, flow, whole[0])
    assert [row.cell for row in joined.rows if row.crps] == names
    for a, b in zip(joined.rows, alone.rows, strict=True):
        if a.cell in names:
            for number in ("seeds", "crps", "mean_crps", "mean_crps_seeds", "change", "change_seeds", "spread_skill"):
                assert getattr(a, number) == getattr(b, number)
    with pytest.raises(UsageError, match="not the folder of a study"):
        table(read_study(file), [tmp_path / "part1", tmp_path])


def test_a_store_stands_in_the_table_as_it_is_and_one_of_other_cases_does_not(whole, flow, tmp_path):
    folder, found = whole
    solver = folder / "forecasts" / "solver.zarr"
    text = STUDY + f"[[cell]]\nname = 'stored'\nstore = '{solver}'\n"
    stored = do(written(tmp_path, text), flow, tmp_path / "s", only=["stored", "persistence"])
    rows = {row.cell: row for row in found.rows}
    (row,) = (row for row in stored.rows if row.cell == "stored")
    assert row.crps == rows["solver"].crps
    other = do(
        written(tmp_path, text.replace("[8, 16]", "[8, 12]")), flow, tmp_path / "t", only=["stored", "climatology"]
    )
    (row,) = (row for row in other.rows if row.cell == "stored")
    assert "no init_time 12" in row.failed["stored"]


def test_a_run_that_exists_is_scored_like_the_training_it_came_from(whole, flow, tmp_path):
    folder, _found = whole
    text = STUDY[: STUDY.index("[base]")].replace("seeds = [0, 1]", "") + STUDY[STUDY.index("[protocol]") :]
    own = (
        text[: text.index("[[cell]]")]
        + f"""
[[cell]]
name = "mine"
run = "{folder}/runs/base-seed1"
[[cell]]
name = "mine-heun"
weights = "mine"
sampler = {{ name = "heun", steps = 3 }}
[[cell]]
name = "mine-dressed"
weights = "mine"
method = "mean-dressed"
[[cell]]
name = "climatology"
method = "climatology"
"""
    )
    shown = invoke(written(tmp_path, own), "--data", flow, "-o", tmp_path / "s", "--dry-run", "--threads", 1)
    assert shown.exit_code == 0, shown.exception
    assert "4 of 4 to do" in shown.output
    mine = {row.cell: row for row in do(written(tmp_path, own), flow, tmp_path / "s").rows}
    for name, other in (("mine", "base-seed1"), ("mine-heun", "heun-seed1")):
        stores = (tmp_path / "s" / "forecasts" / f"{name}.zarr", folder / "forecasts" / f"{other}.zarr")
        one, same = (store.open_dataset(path, chunks=None)["vorticity"].values for path in stores)
        assert np.array_equal(one, same)
    assert (mine["mine"].steps, mine["mine"].calls, mine["mine-heun"].calls) == (3, 2, 3)
    assert mine["mine-heun"].change[0] is not None  # against the run
    assert "of training" not in (tmp_path / "s" / "table.md").read_text()
    again = own.replace("base-seed1", "base-seed0")  # other weights under the same name
    with pytest.raises(UsageError, match="mine was made with other settings"):
        do(written(tmp_path, again), flow, tmp_path / "s")


# ------------------------------------------------------------------ the command


def invoke(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def test_list_dry_run_and_table_do_nothing(whole, flow, tmp_path):
    file, folder = written(tmp_path), tmp_path / "none"
    for option, words in (("--list", "11 of 11 to do"), ("--dry-run", "on this machine")):
        shown = invoke(file, "--data", flow, "-o", folder, option, "--threads", 1)
        assert shown.exit_code == 0, shown.exception
        assert words in shown.output
        assert not folder.exists()
    shown = invoke(file, "--data", flow, "-o", whole[0], "--list")
    assert "0 of 11 to do" in shown.output
    before = times_of_files(whole[0])
    shown = invoke(file, "-o", whole[0], "--table")
    assert "| base (compared with) |" in shown.output
    assert times_of_files(whole[0]) == before
    assert invoke(file, "-o", folder, "--table").exception.exit_code == 2
    assert "--data" in str(invoke(file, "-o", folder).exception)


def test_the_table_is_written_for_pages_papers_and_programs(whole):
    folder, found = whole
    assert len(found.rows) == 7
    assert json.loads((folder / "table.json").read_text())["rows"][0]["cell"] == "base"
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:9]}) == len({len(line) for line in lines[:9]}) == 1
    latex = (folder / "table.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 1 + len(found.rows)
    assert len({line.replace("\\&", "").count("&") for line in rows}) == 1
    assert (folder / "table.png").read_bytes()[:4] == b"\x89PNG"
    figure = (folder / "table.svg").read_text()
    assert all(name in figure for name in ("base", "heun", "climatology"))
