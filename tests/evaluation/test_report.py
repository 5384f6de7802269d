"""The report: complete in itself, escaped, honest about what does not apply, and equal to the scores it shows."""

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from evaluation import export, figures, maps, plots, summary, tables, verification, viewer, words
from evaluation.report import Picture, film_of, render, write_report
from evaluation.style import figure, label_ends, pictures

HOSTILE = "<script>alert(1)</script>"
LEADS = 3
DRAWN = {"crps", "skill", "spread", "ranks", "crps-map", "skill-map"}  # of FIGURES; all of them: test_figures.py
OUTPUTS = {"index.html", "figures", "scores.csv", "curves.csv", "scores.nc"}


def verify(truth: xr.Dataset, forecasts: dict[str, xr.Dataset], **options: str) -> xr.Dataset:
    """Scores of points alone: the other families have tests of their own."""
    return verification.verify(truth, forecasts, families=["points"], **options)


def case(
    methods: dict[str, tuple[int, float]], *, runs: int = 4, inits: int = 2, seed: int = 0, name: str = "vorticity"
) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """A truth of noise with an obstacle, and forecasts: {method: (members, standard deviation of its error)}."""
    rng = np.random.default_rng(seed)
    shape = (runs, 4 + inits * LEADS + LEADS, 8, 16)
    solid = np.zeros((runs, 8, 16), bool)
    solid[:, 3:5, 4:6] = True
    field = ("trajectory", "time", "y", "x")
    about = {"units": "1/tick", "long_name": name}
    truth = xr.Dataset(
        {"vorticity": (field, rng.standard_normal(shape), about), "solid": (("trajectory", "y", "x"), solid)},
        attrs={"frame_interval": 64, "frame_interval_units": "ticks"},
    )
    starts = 3 + LEADS * np.arange(inits)
    lead = np.arange(1, LEADS + 1)
    valid = truth["vorticity"].values[:, starts[:, None] + lead][:, :, None]
    forecasts = {}
    for method, (members, error) in methods.items():
        values = valid + error * rng.standard_normal((runs, inits, members, LEADS, 8, 16))
        forecasts[method] = xr.Dataset(
            {"vorticity": (("trajectory", "init_time", "member", "lead_time", "y", "x"), values, about)},
            coords={"trajectory": np.arange(runs), "init_time": starts, "lead_time": lead},
            attrs={"method": method, "seed": 7, "sampler": "ddim", "checkpoint_sha256": "ab" * 32},
        )
    return truth, forecasts


THREE = {"rvd": (4, 0.3), "climatology": (4, 1.0), "persistence": (1, 1.0)}


@pytest.fixture(autouse=True, scope="module")
def few_figures():
    """A report with those of the figures that need no more than points."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.report.FIGURES", [f for f in figures.FIGURES if f.name in DRAWN])
        yield


@pytest.fixture(scope="module")
def written(few_figures: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """A report of three methods, one of them with a single member, and its scores."""
    truth, forecasts = case(THREE)
    scores = verify(truth, forecasts)
    folder = tmp_path_factory.mktemp("out") / "report"
    write_report(scores, folder, films=viewer.films(scores, truth, forecasts))
    return folder, scores


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_page_asks_for_nothing_outside_itself(written):
    page = (written[0] / "index.html").read_text()
    sources = re.findall(r'<[^>]*\b(?:src|srcset|action|data)\s*=\s*["\']?([^"\'\s>]*)', page)
    assert len(sources) >= 7
    assert all(source.startswith("data:image/") for source in sources)
    links = set(re.findall(r'href="([^"]*)"', page))
    assert {link for link in links if not link.startswith("#")} == {"scores.csv", "curves.csv", "scores.nc"}
    assert all(f'id="{link[1:]}"' in page for link in links if link.startswith("#"))
    assert not re.search(r"<(link|iframe|object|embed)\b|@import|url\(", page)
    assert "https:" not in page
    assert "http:" not in page
    assert "default-src 'none'" in page


def test_page_names_the_digest_of_its_only_script(written):
    page = (written[0] / "index.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert re.findall(r"<script[^>]*>", page) == ['<script type="application/json" id="viewer-data">', "<script>"]


def test_every_figure_is_in_the_page_and_beside_it(written):
    folder, _ = written
    page = (folder / "index.html").read_text()
    embedded = {pixels(base64.b64decode(code)) for code in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)}
    files = {p.name: p.read_bytes() for p in (folder / "figures").iterdir()}
    drawn = {"film", "film-methods", *DRAWN}
    assert set(files) == {"animation.webp"} | {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert embedded == {pixels(data) for name, data in files.items() if name.endswith("png")}
    for name, data in files.items():
        if name.endswith("svg"):
            assert ElementTree.fromstring(data).tag.endswith("svg")
            continue
        picture = Image.open(io.BytesIO(data))
        picture.load()
        assert picture.width > 400
        assert getattr(picture, "n_frames", 1) == (LEADS if name == "animation.webp" else 1)


def test_page_is_well_formed_and_readable_on_a_phone_and_at_night(written):
    page = (written[0] / "index.html").read_text()
    from html.parser import HTMLParser

    class Balance(HTMLParser):
        open: list[str]

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.open = []
    parser.feed(page)
    assert parser.open == []
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]{0,200}", page))


def test_protocol_says_how_the_forecasts_were_made(written):
    page = (written[0] / "index.html").read_text()
    for text in (
        "ddim",
        "ab" * 32,
        "checkpoint SHA-256",
        "8 cases from 4 runs",
        "fair CRPS",
        "numpy",
        "frames of 64 ticks",
    ):
        assert text in page


def test_what_does_not_apply_is_said(written):
    page = (written[0] / "index.html").read_text()
    assert page.count(">n/a<") == LEADS + 1  # spread / RMSE of persistence at each lead and over all
    assert "Not applicable to persistence" in page
    assert "4 runs they are rough" in page


def test_csv_holds_the_numbers_of_the_metrics(written):
    folder, scores = written
    with (folder / "scores.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    names = {row["metric"] for row in rows}
    assert names >= {"crps", "crpss", "rmse", "spread", "spread_skill_ratio", "bias"}
    skill = summary.metric(scores, "crpss", reference="climatology", leads=[1, 2, 3]).sel({"method": "rvd"})
    (row,) = [r for r in rows if (r["method"], r["lead_time"], r["reference"]) == ("rvd", "1-3", "climatology")]
    for key in ("value", "low", "high"):
        assert float(row[key]) == pytest.approx(float(skill[key]), rel=1e-6)
    assert not [r for r in rows if r["method"] == "persistence" and r["metric"].startswith("spread")]
    assert {r["units"] for r in rows if r["metric"] == "crps"} == {"1/tick"}


def test_skill_table_prints_the_metrics(written):
    _, scores = written
    lines = tables.skill_table_text(scores).splitlines()
    scale = summary.truth_deviation(scores)
    for i, lead in enumerate((1, 2, 3)):
        cells = lines[3 + i].replace(" %", "").split()
        pick = {"method": "rvd", "lead_time": lead}
        assert cells[0] == str(lead)
        assert float(cells[1]) == pytest.approx(float(summary.value(scores, "crps").sel(pick)) / scale, abs=6e-4)
        skill = float(summary.value(scores, "crpss", reference="climatology").sel(pick))
        assert float(cells[4]) == pytest.approx(100 * skill, abs=0.06)
        assert float(cells[6]) == pytest.approx(float(summary.value(scores, "spread_skill_ratio").sel(pick)), abs=6e-3)
    assert max(map(len, lines)) < 100
    widths = {len(line) for line in lines[1:-1]}
    assert len(widths) == 1  # columns line up


def test_summary_says_how_much_better_and_where(written):
    _, scores = written
    first, second, spread, sample = words.summary_sentences(scores)
    skill = summary.metric(scores, "crpss", reference="climatology", leads=[1, 2, 3]).sel({"method": "rvd"})
    assert f"{100 * float(skill['value']):.1f} % lower than that of climatology over leads 1-3" in first
    assert f"(95 % interval {100 * float(skill['low']):.1f} to {100 * float(skill['high']):.1f} %)" in first
    assert first.endswith("it is better at every lead.")
    assert "persistence" in second
    assert "spread-skill ratio of rvd" in spread
    assert "8 cases from 4 runs" in sample


def test_names_from_files_are_escaped():
    truth, forecasts = case({HOSTILE: (3, 0.5), "climatology": (3, 1.0)}, name=HOSTILE)
    forecasts[HOSTILE].attrs |= {"sampler": HOSTILE, HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}}
    scores = verify(truth, forecasts)
    drawing = io.BytesIO()
    Image.new("RGB", (4, 3)).save(drawing, "PNG")
    picture = Picture("crps", HOSTILE, "caption", drawing.getvalue())
    page = render(scores, [picture], title=HOSTILE)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_dollars_in_names_are_no_formula(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.report.FIGURES", [f for f in figures.FIGURES if f.name == "crps"])
    name = r"cost $\frac$ of 5$"
    truth, forecasts = case({name: (3, 0.5), "climatology": (3, 1.0)}, name=r"$\frac$")
    scores = verify(truth, forecasts)
    page = write_report(scores, tmp_path, films=viewer.films(scores, truth, forecasts, cases=1)).read_text()
    assert name in page
    assert r"\$" not in page
    assert f">{name}</text>" in (tmp_path / "figures" / "crps.svg").read_text()


def test_names_in_the_data_of_the_viewer_cannot_leave_it():
    truth, forecasts = case({f"</script>{HOSTILE}": (3, 0.5), "climatology": (3, 1.0)})
    scores = verify(truth, forecasts)
    page = viewer.viewer_html(viewer.films(scores, truth, forecasts, cases=1))
    (text,) = re.findall(r'<script type="application/json" id="viewer-data">(.*?)</script>', page)
    assert page.count("<script") == page.count("</script") == 1
    assert json.loads(text)["methods"] == [f"</script>{HOSTILE}", "climatology"]


def test_one_deterministic_method_on_one_run_still_makes_a_report(tmp_path):
    truth, forecasts = case({"persistence": (1, 1.0)}, runs=1)
    scores = verify(truth, forecasts)
    page = write_report(scores, tmp_path / "r", film=film_of(scores, truth, forecasts)).read_text()
    assert '<script type="application/json"' not in page  # a strip and an animation, no viewer
    assert "data:image/webp" in page
    assert {p.stem for p in (tmp_path / "r" / "figures").iterdir()} == {"animation", "film", "crps", "crps-map"}
    assert "No intervals: they need at least 3 runs, and there are 1." in page
    assert "there is no reference to compare with" in page


def test_report_is_not_overwritten_and_spares_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.report.FIGURES", [])
    truth, forecasts = case({"rvd": (2, 0.5)}, runs=1)
    scores = verify(truth, forecasts)
    (tmp_path / "notes.txt").write_text("mine")
    write_report(scores, tmp_path)
    with pytest.raises(FileExistsError, match="overwrite"):
        write_report(scores, tmp_path)
    write_report(scores, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {*OUTPUTS, "notes.txt"}
    with pytest.raises(FileExistsError, match="is a file"):
        write_report(scores, tmp_path / "notes.txt")


def test_skill_is_significant_where_every_run_agrees_and_not_where_runs_differ():
    truth, forecasts = case({"rvd": (3, 0.5), "climatology": (3, 1.0)}, runs=6)
    scores = verify(truth, forecasts)
    gain = np.ones((6, 8, 16))
    gain[:, :, 8:] *= np.array([1, -1, 1, -1, 1, -1])[:, None, None]
    scores["crps_map"][:] = 2.0
    scores["crps_map"].values[0] = 2.0 - gain[:, None]
    found = summary.significant(scores, "rvd", "climatology")
    fluid = scores["fluid_cases"][0].values > 0
    np.testing.assert_array_equal(found["sure"][:, :8], fluid[:, :8])
    assert not bool(found["sure"][:, 8:].any())
    np.testing.assert_allclose(found["value"].values[:, :8][fluid[:, :8]], 0.5)
    np.testing.assert_allclose(found["value"][:, 8:], 0.0, atol=1e-12)


def test_the_film_shows_the_case_of_median_crps():
    truth, forecasts = case({"rvd": (3, 0.5)}, runs=3, inits=3)
    scores = verify(truth, forecasts)
    chosen = maps.typical_case(scores, "rvd")
    crps = scores["crps"].sel({"method": "rvd"}).mean("lead_time")
    at = float(crps.sel(trajectory=chosen[0], init_time=chosen[1]))
    assert at == float(crps.median())
    film = film_of(scores, truth, forecasts)
    run, init = chosen
    np.testing.assert_array_equal(film.truth, truth["vorticity"][run, init + 1 : init + 1 + LEADS])
    assert film.solid.sum() == 4


def test_labels_at_curve_ends_do_not_overlap():
    with figure(5, 3) as drawing:
        axes = drawing.add_subplot()
        axes.set_ylim(0, 1)
        label_ends(axes, [(0, y, str(y), "black") for y in (0.50, 0.51, 0.52, 0.9)], gap=0.06)
        heights = sorted(text.xy[1] for text in axes.texts)
    assert min(np.diff(heights)) > 0.06 - 1e-6
    assert heights[-1] == pytest.approx(0.9)


def test_equal_scores_give_equal_figures(written):
    _, scores = written
    assert pictures(plots.crps_by_lead(scores)) == pictures(plots.crps_by_lead(scores))


def test_scores_as_netcdf_are_the_scores(written):
    folder, scores = written
    opened = xr.open_dataset(folder / "scores.nc")
    xr.testing.assert_equal(opened, scores)
    assert {str(k) for k in scores.attrs} == set(opened.attrs)
    assert opened.attrs["units"] == "1/tick"
    opened.close()


def test_attributes_become_what_netcdf_holds():
    attrs = {"a": True, "b": {"x": [1]}, "c": None, "d": 2.5, "e": [1, "two"], "f": np.bool_(False), "g": "text"}
    assert export.plain(attrs) == {"a": 1, "b": '{"x": [1]}', "d": 2.5, "e": '[1, "two"]', "f": 0, "g": "text"}


def test_curves_are_means_over_cases_and_sums_of_counts(written):
    folder, scores = written
    with (folder / "curves.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    found = {(r["statistic"], r["method"], r["lead_time"], r["coordinates"]): float(r["value"]) for r in rows}
    assert len(found) == len(rows)  # one row for each number
    crps = float(scores["crps"].sel({"method": "rvd", "lead_time": 2}).mean())
    assert found["crps", "rvd", "2", ""] == pytest.approx(crps, rel=1e-7)
    assert found["truth_mean", "", "1", ""] == pytest.approx(float(scores["truth_mean"].sel(lead_time=1).mean()))
    counted = sum(v for k, v in found.items() if k[:3] == ("rank_count", "climatology", "3"))
    assert counted == pytest.approx(float(scores["rank_count"].sel({"method": "climatology", "lead_time": 3}).sum()))
    assert not [r for r in rows if r["value"] in ("nan", "inf")]
    assert {r["statistic"] for r in rows} & {"crps_map", "rank_null", "fluid_cases"} == set()


def test_a_report_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    truth, forecasts = case({"rvd": (2, 0.5)}, runs=1)
    scores = verify(truth, forecasts)
    monkeypatch.setattr("evaluation.report.FIGURES", [])
    page = write_report(scores, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(scores, path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "netcdf", full)
    with pytest.raises(OSError, match="No space left") as found:
        write_report(scores, tmp_path, overwrite=True, title="new")
    assert found.value.filename == str(tmp_path / "scores.nc")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert page in before


def test_cases_of_the_viewer_are_the_median_the_best_and_the_worst():
    truth, forecasts = case(THREE, runs=4, inits=3, seed=1)
    scores = verify(truth, forecasts, reference="climatology")
    crps = scores["crps"].mean("lead_time").sel({"method": ["rvd", "climatology"]}).values
    gain = (1 - crps[0] / crps[1]).ravel()
    starts = scores["init_time"].values
    places = [(run, int(init)) for run in scores["trajectory"].values for init in starts]
    chosen = viewer.choose_cases(scores, 3)
    (median, best, worst), labels = list(chosen), list(chosen.values())
    assert sorted(crps[0].ravel()).index(crps[0].ravel()[places.index(median)]) in (5, 6)
    assert places.index(best) == int(gain.argmax())
    assert places.index(worst) == int(gain.argmin())
    assert labels[1:] == ["largest gain of rvd over climatology", "smallest gain of rvd over climatology"]
    assert len(viewer.choose_cases(scores, 7)) == 7
    assert list(viewer.choose_cases(scores, 1)) == [median]
    (only,) = viewer.choose_cases(scores.isel(trajectory=[0], init_time=[0]), 3).values()
    assert only == f"median CRPS of rvd, {labels[1]}, {labels[2]}"  # one case is all of these


def test_only_the_chosen_cases_are_read():
    truth, forecasts = case(THREE, runs=4, inits=3)
    scores = verify(truth, forecasts)
    read = []

    def load(block, block_info=None):
        read.append(block_info[0]["chunk-location"][:2])
        return block

    chunks = {"trajectory": 1, "init_time": 1}
    lazy = {}
    for name, forecast in forecasts.items():
        blocks = forecast["vorticity"].chunk(chunks)
        watched = blocks.copy(data=blocks.data.map_blocks(load, dtype=float, meta=np.empty(())))
        lazy[name] = forecast.assign(vorticity=watched)
    films = viewer.films(scores, truth, lazy, cases=2, members=2)
    wanted = [(f.trajectory, list(scores["init_time"].values).index(f.init_time)) for f in films]
    assert sorted(read) == sorted(wanted * 3)
    assert len(films[0].clips["rvd"].members) == 2
    assert len(films[0].film.members) == 4  # the strip knows the whole ensemble
    np.testing.assert_allclose(films[0].clips["rvd"].mean, films[0].film.members.mean(0))
    assert films[1].film is None


def test_what_is_packed_is_unpacked():
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(viewer.decode(viewer.encode(frames), (3, 5, 7)), frames)


def test_colours_divide_the_range_evenly_and_walls_have_their_own():
    field = viewer.Range(-2.0, 2.0, "RdBu_r")
    solid = np.array([False, False, False, True, False, False])
    values = np.array([-9.0, -2.0, 0.0, 1.0, 2.0, np.nan])
    assert field.quantise(values, solid).tolist() == [1, 1, 128, 0, 255, 0]
    assert len(field.palette()) == 768


def test_viewer_keeps_to_its_budget_and_says_what_it_left_out():
    truth, forecasts = case({"rvd": (8, 0.5), "climatology": (6, 1.0)}, inits=3)
    scores = verify(truth, forecasts)
    films = viewer.films(scores, truth, forecasts, members=8)
    whole = viewer.embed(films)
    assert len(whole["cases"][0]["films"][0]["members"]) == 8
    assert "every member" in whole["words"]
    size = len(json.dumps(whole["cases"]))
    part = viewer.embed(films, budget=size // 2)
    kept = len(part["cases"][0]["films"][0]["members"])
    assert 1 <= kept < 8
    assert len(json.dumps(part["cases"])) < 0.6 * size
    assert f"the first {kept} of up to 8 members" in part["words"]
    tiny = viewer.embed(films, budget=1)
    assert len(tiny["cases"][0]["films"][0]["members"]) == 1
    assert len(tiny["leads"]) == 2
    assert "every 2nd lead" in tiny["words"]


def test_a_quantity_that_is_never_negative_has_a_range_of_its_own():
    truth, forecasts = case({"rvd": (3, 0.5)}, runs=1)
    truth["vorticity"] = np.exp(truth["vorticity"])
    scores = verify(truth, forecasts)
    field, spread = viewer.ranges(viewer.films(scores, truth, forecasts, cases=1))
    assert 0 < field.low < 1 < field.high
    assert field.colours == viewer.SEQUENTIAL
    assert spread.low == 0
