"""Other systems in a study: trained, dressed and reported beside residual video diffusion."""

import subprocess
import sys

import numpy as np
import pytest

from lbm import dataset as store
from lbm.errors import UsageError
from rvdflow.study import study
from rvdflow.study_config import read_study
from rvdflow.study_jobs import chosen, read_json

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
[sweep]
reynolds = [20, 24, 28, 32, 36, 40]
"""
STUDY = """
title = "Systems"
[base]
preset = "small"
[base.model]
width = 4
multipliers = [1, 2]
sampler.steps = 2
[base.train]
batch_size = 2
validations = 0
[base.calibration]
cases = 0
[budget]
steps = 2
[protocol]
members = 3
lead = 5
context = 4
init_times = [8, 16]
[report]
protocol = "rvd"
families = ["points", "features"]
[[cell]]
name = "rvd"
[[cell]]
name = "svg-lp"
preset = "svg-lp-small"
set.model = { width = 0.125, units = 64, z_channels = 3, clip_frames = 6 }
set.train = { batch_size = 2, validations = 0 }
[[cell]]
name = "convgru"
preset = "convgru-small"
set.model = { base = 8, multipliers = [1, 2], unroll = 1 }
set.train = { batch_size = 2, validations = 0 }
[[cell]]
name = "convgru-dressed"
weights = "convgru"
method = "dressed"
[[cell]]
name = "persistence"
method = "persistence"
"""


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    (folder / "flow.toml").write_text(FLOW)
    command = ["simulate", "--config", folder / "flow.toml", "-o", folder / "flow.zarr", "--quiet"]
    subprocess.run([sys.executable, "-m", "lbm", *map(str, command)], check=True)
    return folder / "flow.zarr"


def do(folder, flow, text=STUDY):
    folder.mkdir(exist_ok=True)
    (folder / "systems.toml").write_text(text)
    return study(folder / "systems.toml", flow, folder / "s", device="cpu", threads=1, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flow):
    """The folder of a study that is done, and its table."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "s", do(folder, flow)


def cells(file):
    """{cell: {heading: text}} of the first Markdown table in a file."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_every_system_has_its_row_with_what_it_costs(whole):
    folder, found = whole
    rows = {row.cell: row for row in found.rows}
    assert list(rows) == ["rvd", "svg-lp", "convgru", "convgru-dressed", "persistence"]
    assert not any(row.failed for row in rows.values())
    assert [rows[n].calls for n in rows] == [2, 1, 1, None, None]
    assert rows["convgru"].spread_skill is None
    assert rows["convgru-dressed"].spread_skill is not None
    about = store.read_attributes(folder / "forecasts" / "convgru-dressed-seed0.zarr")
    assert (about["method"], about["members"]) == ("convgru-dressed", 3)


def test_the_paper_s_table_holds_classical_crps_in_grey_levels(whole, flow):
    folder, _ = whole
    table = cells(folder / "paper.md")
    assert list(table) == ["rvd", "svg-lp", "convgru", "convgru-dressed", "persistence"]
    truth = store.open_dataset(flow, chunks=None)
    training = truth["vorticity"].values[truth["split"].values.astype(str) == "train"].astype(np.float64)
    low, high = training.min(), training.max()

    def grey(values):
        return np.floor(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255 + 0.5)

    for name, file in (("persistence", "persistence"), ("convgru", "convgru-seed0"), ("rvd", "rvd-seed0")):
        drawn = store.open_dataset(folder / "forecasts" / f"{file}.zarr", chunks=None)
        scores = []
        for k in drawn["trajectory"].values:
            fluid = ~truth["solid"].values[k]
            for t in drawn["init_time"].values:
                x = grey(drawn["vorticity"].sel(trajectory=k, init_time=t).values[..., fluid])
                y = grey(truth["vorticity"].values[k, t + 1 : t + 6][..., fluid])
                pairs = np.mean([np.abs(a - b) for a in x for b in x], axis=0)
                scores.append((np.abs(x - y).mean(0) - pairs / 2).mean())
        assert float(table[name]["CRPS (95 %)"].split()[0]) == pytest.approx(np.mean(scores), abs=0.02)
    assert table["rvd"]["members"] == "3"
    assert table["persistence"]["steps"] == "-"
    tex = (folder / "paper.tex").read_text()
    assert tex.count("\\\\") == 1 + 5
    assert "convgru-dressed &" in tex


def test_the_page_shows_all_methods_beside_the_truth_and_is_not_made_twice(whole, flow):
    folder, _ = whole
    page = folder / "report" / "index.html"
    assert "All methods" in page.read_text()
    for name in ("film-methods", "paper", "crps-map-lead"):  # film strips, 1 / CRPS by lead, map
        assert (folder / "report" / "figures" / f"{name}.png").is_file()
    made = page.stat().st_mtime_ns
    do(folder.parent, flow)
    assert page.stat().st_mtime_ns == made


def test_a_cell_that_was_added_enters_the_page(whole, flow, tmp_path):
    import shutil

    shutil.copytree(whole[0], tmp_path / "s")
    do(tmp_path, flow, STUDY + '[[cell]]\nname = "climatology"\nmethod = "climatology"\n')
    assert "climatology" in cells(tmp_path / "s" / "paper.md")
    made_of = [name for name, _, _ in read_json(tmp_path / "s" / "report.json")["cells"]]
    assert made_of == ["rvd", "svg-lp", "convgru", "convgru-dressed", "persistence", "climatology"]


DEEP = """
[[cell]]
name = "deep"
weights = "convgru"
method = "deep-ensemble"
"""


def test_a_deep_ensemble_has_a_member_for_each_seed(flow, tmp_path):
    cells = STUDY[STUDY.index('[[cell]]\nname = "convgru"') : STUDY.index('[[cell]]\nname = "convgru-dressed"')]
    head = STUDY[: STUDY.index("[report]")].replace("[base]", "seeds = [0, 1]\n[base]", 1)
    found = do(tmp_path, flow, head + cells + DEEP)
    rows = {row.cell: row for row in found.rows}
    assert rows["deep"].spread_skill is not None
    folder = tmp_path / "s" / "forecasts"
    deep, *parts = (
        store.open_dataset(folder / f"{name}.zarr")["vorticity"].values
        for name in ("deep-seed1", "convgru-seed0", "convgru-seed1")
    )
    np.testing.assert_allclose(deep, np.concatenate(parts, axis=2), atol=1e-7)
    alone, pooled = rows["convgru"], rows["deep"]
    assert (pooled.parameters, pooled.steps) == (2 * alone.parameters, 2 * alone.steps)


def test_what_pools_trainings_keeps_them_together(tmp_path):
    (tmp_path / "s.toml").write_text(STUDY.replace("[base]", "seeds = [0, 1]\n[base]", 1) + DEEP)
    read = read_study(tmp_path / "s.toml")
    parts = [{job.name for job in chosen(read, part=(k, 3))} for k in (1, 2, 3)]
    whole = {"convgru-seed0", "convgru-seed1", "convgru-dressed-seed0", "convgru-dressed-seed1", "deep-seed1"}
    assert sum(whole <= part for part in parts) == 1
    assert not any(a & b for i, a in enumerate(parts) for b in parts[:i])
    assert [job.name for job in chosen(read, only=["deep"])] == ["deep-seed1"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('protocol = "rdv"', "report.protocol: 'rdv' is not known: use rvd"),
        ('families = ["poinst"]', "report.families: 'poinst' is not known: use points"),
        ('protocol = "rvd-bair"', "rvd-bair scores leads 1 to 16 after frame 3"),
    ],
)
def test_a_report_that_cannot_be_made_is_refused_before_anything_is_trained(lines, words, flow, tmp_path):
    text = STUDY.replace('protocol = "rvd"\nfamilies = ["points", "features"]', lines)
    with pytest.raises(UsageError, match=words):
        do(tmp_path, flow, text)
    assert not (tmp_path / "s").exists()


def test_the_report_waits_until_every_cell_is_done(flow, tmp_path, capsys):
    (tmp_path / "systems.toml").write_text(STUDY)
    study(tmp_path / "systems.toml", flow, tmp_path / "s", only=["persistence"], device="cpu", threads=1)
    assert "the report is made when all cells are done" in capsys.readouterr().out
    assert not (tmp_path / "s" / "report").exists()


def test_a_deep_ensemble_of_one_seed_is_refused(flow, tmp_path):
    with pytest.raises(UsageError, match="two or more seeds"):
        do(tmp_path, flow, STUDY + DEEP)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[[cell]]\nname = "a"\nweights = "svg-lp"\nsampler.steps = 3\n', "a sampler is not for weights of svg-lp"),
        ('[[cell]]\nname = "a"\nweights = "convgru"\nmethod = "mean"\n', "method mean is not for weights of convgru"),
        ('[[cell]]\nname = "a"\nweights = "rvd"\nmethod = "dressed"\n', "method dressed is not for weights of rvd"),
        (
            '[[cell]]\nname = "a"\nweights = "svg-lp"\nmethod = "dressed"\n',
            "method dressed is not for weights of svg-lp",
        ),
        (
            '[[cell]]\nname = "a"\nrun = "r"\n[[cell]]\nname = "b"\nweights = "a"\nmethod = "deep-ensemble"\n',
            "b: a deep ensemble needs weights that are trained with two or more seeds",
        ),
        (
            '[[cell]]\nname = "a"\npreset = "futuregan-small"\nset.model.context_frames = 6\n',
            "futuregan needs 6 frames of context, the protocol shows 4",
        ),
        ('[[cell]]\nname = "a"\npreset = "futuregan-small"\nset.model.levels = 6\n', "a: frames of 16 x 32 pixels"),
    ],
)
def test_what_a_system_cannot_do_is_refused_before_anything_is_trained(more, words, flow, tmp_path):
    with pytest.raises(UsageError, match=words):
        do(tmp_path, flow, STUDY + more)
    assert not (tmp_path / "s" / "runs").exists()
