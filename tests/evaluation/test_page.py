"""The page in a real browser: what it draws, how it answers to a user, and that it asks nothing of the network."""

import importlib.util
import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from evaluation import verification, viewer
from evaluation.report import Picture, render, write_report


def beside(name: str):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOSTILE = """</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> "quoted" & 'so'"""
MEMBERS = {"rvd": 5, "climatology": 4, "persistence": 1, HOSTILE: 3}
RUNS, INITS, LEADS, HEIGHT, WIDTH = 4, (3, 8), 4, 6, 10
TABLE = """<div class="table" tabindex="0"><table id="numbers"><thead>
<tr><th rowspan="2" scope="col">lead</th><th class="group" colspan="2" scope="colgroup">CRPS</th></tr>
<tr><th scope="col" class="first">a</th><th scope="col">b</th></tr></thead><tbody>
<tr><th scope="row">1</th><td data-value="0.5">0.500</td><td>12.5 %</td></tr>
<tr><th scope="row">2</th><td data-value="nan">n/a</td><td>-3.0 %</td></tr>
<tr><th scope="row">10</th><td data-value="1e-3">0.001</td><td>n/a</td></tr>
<tr><th scope="row">3</th><td data-value="10">10.000</td><td>2 %</td></tr>
<tr class="pooled"><th scope="row">1-10 (mean)</th><td data-value="0">0.000</td><td>99 %</td></tr>
</tbody></table><table id="card"><thead><tr><th scope="col">against b</th><th scope="col">1</th></tr></thead>
<tbody><tr class="head"><th colspan="2">a</th></tr><tr><th>x</th><td data-value="2">2</td></tr>
<tr><th>y</th><td data-value="1">1</td></tr></tbody>
<tbody><tr class="head"><th colspan="2">c</th></tr><tr><th>x</th><td colspan="1" data-value="">n/a</td></tr>
<tr><th>y</th><td data-value="-1">-1</td></tr></tbody></table></div>"""


def verify(truth: xr.Dataset, forecasts: dict[str, xr.Dataset], reference: str | None = None) -> xr.Dataset:
    return verification.verify(truth, forecasts, families=["points"], reference=reference)


def stores(members: dict[str, int], seed: int = 0) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """A truth of noise with a wall, and forecasts of it: the later in `members`, the worse."""
    rng = np.random.default_rng(seed)
    about = {"units": "1/tick", "long_name": "vorticity"}
    solid = np.zeros((RUNS, HEIGHT, WIDTH), bool)
    solid[:, 1:3, 2:4] = True
    values = rng.standard_normal((RUNS, max(INITS) + LEADS + 1, HEIGHT, WIDTH))
    fields = {
        "vorticity": (("trajectory", "time", "y", "x"), values, about),
        "solid": (("trajectory", "y", "x"), solid),
    }
    truth = xr.Dataset(fields)
    valid = np.stack([values[:, init + 1 : init + 1 + LEADS] for init in INITS], 1)[:, :, None]
    coords = {"trajectory": np.arange(RUNS), "init_time": list(INITS), "lead_time": np.arange(1, LEADS + 1)}
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    forecasts = {}
    for i, (name, count) in enumerate(members.items()):
        size = (RUNS, len(INITS), count, LEADS, HEIGHT, WIDTH)
        guess = valid + 0.4 * (i + 1) * rng.standard_normal(size)
        forecasts[name] = xr.Dataset({"vorticity": (dims, guess, about)}, coords=coords, attrs={"seed": 7})
    return truth, forecasts


def picture(name: str, shape: str = "") -> Picture:
    drawing = io.BytesIO()
    Image.new("RGB", (1800, 300), "white").save(drawing, "PNG")
    return Picture(name, name, f"About {name}.", drawing.getvalue(), shape)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page as a file, and what it was made of: scenes, truth, forecasts."""
    truth, forecasts = stores(MEMBERS)
    scores = verify(truth, forecasts, reference="climatology")
    films = viewer.films(scores, truth, forecasts, cases=3, members=3)
    pictures = [picture("film", "wide strip"), picture("crps"), picture("ranks", "wide strip")]
    page = render(scores, pictures, films=films, title=HOSTILE)
    page = page.replace('<section id="numbers">', TABLE + '<section id="rest">')
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page, encoding="utf-8")
    return path, films, truth, forecasts


@pytest.fixture(scope="module")
def page(chromium, report):
    opened = chromium.open(report[0])
    opened.wait("document.getElementById('viewer').dataset.drawn")
    return opened


def choose(page, control: str, value: object) -> None:
    """Choose an option as a user does, and wait until it is drawn."""
    select = f"document.getElementById('viewer-{control}')"
    page.value(f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('change')); }})({select})")
    page.wait("document.getElementById('viewer').getAttribute('aria-busy') === 'false'")


def slide(page, lead: int) -> None:
    page.value(
        f"(e => {{ e.value = {lead}; e.dispatchEvent(new Event('input')); }})(document.getElementById('viewer-lead'))"
    )


def start(page, case: int = 0, method: object = 0) -> None:
    choose(page, "case", case)
    choose(page, "method", method)
    slide(page, 0)


def shown(page) -> dict[str, np.ndarray]:
    """The pixels (y from the top, x, rgba) of every panel, by its caption."""
    found = page.value(
        "Array.from(document.querySelectorAll('#viewer-panels figure'), f => { const c = f.querySelector('canvas');"
        "return [f.textContent, c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data)]; })"
    )
    return {name: np.array(data, np.uint8).reshape(height, width, 4) for name, height, width, data in found}


def expected(field: np.ndarray, solid: np.ndarray, low: float, high: float, colours: str) -> np.ndarray:
    """The pixels of a field (y, x): 255 colours from `low` to `high`, walls grey, y up."""
    level = np.round(254 * np.clip((field - low) / (high - low), 0, 1))
    pixels = np.round(255 * mpl.colormaps[colours](level / 254)).astype(np.uint8)
    pixels[solid] = (0x8D, 0x94, 0x9C, 255)
    return pixels[::-1]


def limits(films) -> tuple[float, float]:
    """The half range of fields and the top of the spread, from their definition."""
    fluid = ~films[0].solid
    field = np.quantile(np.abs([f.truth[:, fluid] for f in films]), 0.995)
    spreads = [c.spread[:, fluid] for f in films for c in f.clips.values() if c.spread is not None]
    return float(field), max(float(np.quantile(s, 0.995)) for s in spreads)


def now(page) -> int:
    return int(page.value("document.getElementById('viewer-lead').value"))


def test_nothing_is_asked_of_the_network_and_nothing_goes_wrong(page, report):
    assert page.complaints() == []
    asked = [r for r in page.requests() if not r.startswith("data:image/")]
    assert asked == [report[0].resolve().as_uri()]


def test_names_stay_text(page):
    assert page.value("window.pwned") is None
    options = page.value("Array.from(document.getElementById('viewer-method').options, o => o.text)")
    assert options[:-1] == list(MEMBERS)
    assert page.value("document.querySelector('h1').textContent") == HOSTILE
    assert page.value("document.title").split() == HOSTILE.split()


def test_panels_show_exactly_the_fields_of_the_chosen_lead(page, report):
    _, films, truth, forecasts = report
    film = films[0]
    top, most = limits(films)
    start(page)
    for lead in (0, 2, LEADS - 1):
        slide(page, lead)
        panels = shown(page)
        assert list(panels) == ["truth", "ensemble mean", "spread", "member 1", "member 2", "member 3"]
        time = film.init_time + lead + 1
        observed = truth["vorticity"].values[film.trajectory, time]
        case = {"trajectory": film.trajectory, "init_time": film.init_time}
        members = forecasts["rvd"]["vorticity"].sel(case).values[:, lead]
        fields = {"truth": observed, "ensemble mean": members.mean(0), "member 1": members[0], "member 3": members[2]}
        for name, field in fields.items():
            np.testing.assert_array_equal(panels[name], expected(field, film.solid, -top, top, "RdBu_r"), name)
        spread = members.std(0, ddof=1)
        np.testing.assert_array_equal(panels["spread"], expected(spread, film.solid, 0, most, "viridis"))
        assert page.value("document.getElementById('viewer-now').textContent") == str(lead + 1)
        said = page.value("document.querySelector('#viewer-panels canvas').getAttribute('aria-label')")
        assert said == f"truth, vorticity, lead {lead + 1} of {LEADS}"


def test_colour_bars_run_from_the_lowest_colour_to_the_highest(page, report):
    top, most = limits(report[1])
    bar = page.value(
        "(c => Array.from(c.getContext('2d').getImageData(0, 0, 255, 1).data))"
        "(document.getElementById('viewer-bar-field'))"
    )
    colours = np.round(255 * mpl.colormaps["RdBu_r"](np.linspace(0, 1, 255)))
    np.testing.assert_array_equal(np.array(bar).reshape(255, 4), colours)
    ends = page.value("Array.from(document.querySelectorAll('.bar .ends span'), s => s.textContent)")
    assert ends == [f"{v:.3g}" for v in (-top, 0, top, 0, most / 2, most)]
    assert "vorticity (1/tick)" in page.value("document.querySelector('.bars').textContent")


def test_play_goes_from_lead_to_lead_and_stops(page):
    start(page)
    assert page.value("document.getElementById('viewer-play').textContent") == "Play"
    page.click("#viewer-play")
    page.wait("Number(document.getElementById('viewer-lead').value) >= 2")
    assert page.value("document.getElementById('viewer-play').textContent") == "Stop"
    page.click("#viewer-play")
    page.wait("document.getElementById('viewer').dataset.playing === 'no'")
    before = page.value("document.getElementById('viewer').dataset.drawn")
    # longer than the page waits between two leads, by the page's own clock
    page.value("new Promise(done => setTimeout(done, 1500))")
    assert page.value("document.getElementById('viewer').dataset.drawn") == before


def test_film_begins_anew_after_its_last_lead(page):
    start(page)
    slide(page, LEADS - 1)
    page.click("#viewer-play")
    page.wait("Number(document.getElementById('viewer-lead').value) === 0")
    slide(page, 1)  # a user's hand on the slider stops it
    assert page.value("document.getElementById('viewer').dataset.playing") == "no"


def test_arrow_keys_step_and_space_plays(page):
    start(page)
    page.value("document.getElementById('viewer').focus()")
    for key, code, lead in (
        *(("ArrowRight", 39, 1), ("ArrowRight", 39, 2), ("ArrowLeft", 37, 1), ("End", 35, LEADS - 1)),
        *(("ArrowRight", 39, LEADS - 1), ("Home", 36, 0), ("ArrowLeft", 37, 0)),
    ):
        page.press(key, code)
        assert now(page) == lead, key
    page.value("document.getElementById('viewer-lead').focus()")
    page.press("ArrowRight", 39)
    assert now(page) == 1  # once, not by the slider and by the viewer
    page.value("document.getElementById('viewer').focus()")
    page.press(" ", 32, " ")
    page.wait("document.getElementById('viewer').dataset.playing === 'yes'")
    page.press(" ", 32, " ")
    page.wait("document.getElementById('viewer').dataset.playing === 'no'")
    page.value("document.getElementById('viewer-play').focus()")
    page.press(" ", 32, " ")
    page.wait("document.getElementById('viewer').dataset.playing === 'yes'")
    page.press("Home", 36)
    assert page.value("document.getElementById('viewer').dataset.playing") == "no"


def test_cases_and_methods_are_those_that_were_chosen(page, report):
    _, films, _, forecasts = report
    top, _ = limits(films)
    labels = page.value("Array.from(document.getElementById('viewer-case').options, o => o.text)")
    assert [label.split(" (run")[0] for label in labels] == [f.label for f in films]
    start(page, case=2, method=1)
    slide(page, 1)
    case = {"trajectory": films[2].trajectory, "init_time": films[2].init_time}
    members = forecasts["climatology"]["vorticity"].sel(case).values[:, 1]
    wanted = expected(members.mean(0), films[2].solid, -top, top, "RdBu_r")
    np.testing.assert_array_equal(shown(page)["ensemble mean"], wanted)
    choose(page, "members", 2)
    panels = shown(page)
    assert list(panels) == ["truth", "ensemble mean", "spread", "member 3"]
    np.testing.assert_array_equal(panels["member 3"], expected(members[2], films[2].solid, -top, top, "RdBu_r"))
    choose(page, "members", "all")
    choose(page, "method", 2)
    assert list(shown(page)) == ["truth", "forecast"]  # one member: no mean, no spread
    assert page.value("document.getElementById('viewer-members').disabled")
    choose(page, "method", "all")
    names = ["truth", "rvd, member 1", "climatology, member 1", "persistence", f"{HOSTILE}, member 1"]
    assert list(shown(page)) == names
    crps = [float(c.crps[1]) for c in films[2].clips.values()]
    said = page.value("document.getElementById('viewer-words').textContent")
    for name, value in zip(MEMBERS, crps, strict=True):
        assert float(re.search(re.escape(name) + r" ([\d.e-]+) / tick", said)[1]) == pytest.approx(value, rel=6e-3)


def test_pointing_at_a_cell_says_its_value(page, report):
    _, films, truth, _ = report
    start(page)
    spot = page.value(
        "(c => { c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect();"
        f"return {{x: b.x + b.width * 7.5 / {WIDTH}, y: b.y + b.height * 1.5 / {HEIGHT}}}; }})"
        "(document.querySelector('#viewer-panels canvas'))"
    )
    page.send("Input.dispatchMouseEvent", {"type": "mouseMoved", **spot})
    page.wait("document.getElementById('viewer-value').textContent.startsWith('truth, x 7, y 4')")
    said = page.value("document.getElementById('viewer-value').textContent")
    value, error = re.search(r": (?:at \w+ )?(\S+) / tick \(to ±(\S+)\)", said).groups()
    top, _ = limits(films)
    cell = truth["vorticity"].values[films[0].trajectory, films[0].init_time + 1, 4, 7]
    assert float(value) == pytest.approx(np.clip(cell, -top, top), abs=1.1 * float(error) + 5e-3 * abs(float(value)))


def column(page, number: int) -> list[str]:
    return page.value(f"Array.from(document.querySelectorAll('#numbers tbody tr'), r => r.cells[{number}].textContent)")


def test_tables_sort_by_number_with_what_does_not_apply_last(page):
    heading = "#numbers thead tr:nth-child({}) th:nth-child({}) button"
    state = "Array.from(document.querySelectorAll('#numbers thead th'), h => h.getAttribute('aria-sort'))"
    assert page.value(state) == ["none", None, "none", "none"]
    page.click(heading.format(2, 1))
    assert column(page, 1) == ["0.001", "0.500", "10.000", "n/a", "0.000"]  # the mean over leads stays at the end
    assert page.value(state) == ["none", None, "ascending", "none"]
    page.click(heading.format(2, 1))
    assert column(page, 1) == ["10.000", "0.500", "0.001", "n/a", "0.000"]
    assert page.value(state) == ["none", None, "descending", "none"]
    page.value(f"document.querySelector('{heading.format(2, 2)}').focus()")
    page.press("Enter", 13, "\r")
    assert column(page, 2) == ["-3.0 %", "2 %", "12.5 %", "n/a", "99 %"]
    assert page.value("document.querySelector('[role=status]:not(:empty)').textContent") == "sorted by b, ascending"
    page.click(heading.format(1, 1))
    assert column(page, 0) == ["1", "2", "3", "10", "1-10 (mean)"]


def test_a_scorecard_sorts_within_each_method(page):
    rows = "Array.from(document.querySelectorAll('#card tbody tr'), r => r.textContent)"
    assert page.value(rows) == ["a", "x2", "y1", "c", "xn/a", "y-1"]
    page.click("#card thead th:nth-child(2) button")
    assert page.value(rows) == ["a", "y1", "x2", "c", "y-1", "xn/a"]
    page.click("#card thead th:nth-child(1) button")
    assert page.value(rows) == ["a", "x2", "y1", "c", "xn/a", "y-1"]


def test_page_fits_a_phone(page):
    page.size(375, 800, phone=True)
    try:
        wide = (
            "Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > 376"
            " && !e.closest('.table, .picture, .unseen')).map(e => e.outerHTML.slice(0, 80))"
        )
        assert page.value(wide) == []
        assert page.value("document.documentElement.scrollWidth") == 375
        box = "(e => [e.clientWidth < 376, e.scrollWidth > e.clientWidth])(document.querySelector('.picture.strip'))"
        assert page.value(box) == [True, True]  # a wide figure scrolls in its own box
    finally:
        page.size(1200, 900)


def test_dark_changes_the_page_and_not_the_fields(page):
    start(page)
    look = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
    light, fields = page.value(look), shown(page)["truth"]
    page.dark(True)
    try:
        page.wait(f"JSON.stringify({look}) !== '{str(light).replace(chr(39), chr(34)).replace(', ', ',')}'")
        ground, ink = (np.array(re.findall(r"\d+", c), int).mean() for c in page.value(look))
        assert ground < 60 < 200 < ink
        np.testing.assert_array_equal(shown(page)["truth"], fields)
    finally:
        page.dark(False)


def test_print_leaves_out_what_paper_cannot_do(page):
    page.send("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        page.wait("matchMedia('print').matches")
        assert page.value("getComputedStyle(document.querySelector('.controls')).display") == "none"
        assert page.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        page.send("Emulation.setEmulatedMedia", {"media": ""})


def test_only_the_script_of_the_page_may_run(chromium, report):
    page = chromium.open(report[0])
    page.wait("document.getElementById('viewer').dataset.drawn")
    page.value(
        "(s => { s.textContent = 'window.foreign = 1'; document.body.append(s); })(document.createElement('script'))"
    )
    assert page.value("window.foreign") is None
    page.value("(i => { i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); })(document.createElement('img'))")
    blocked = "Network.loadingFailed"
    page.until(lambda: any(e["method"] == blocked for e in page.events()), "the picture to be refused")
    assert [e["params"]["blockedReason"] for e in page.events() if e["method"] == blocked] == ["csp"]


def test_without_javascript_the_film_strip_is_there(chromium, report):
    page = chromium.open(report[0], script=False)
    shot = Image.open(io.BytesIO(page.picture()))
    assert shot.width == 1200
    page.send("Emulation.setScriptExecutionDisabled", {"value": False})
    assert page.value("getComputedStyle(document.getElementById('viewer')).display") == "none"
    assert page.value("document.querySelector('.no-viewer').getBoundingClientRect().height") > 0
    assert page.value("document.querySelector('#film img').naturalWidth") == 1800


def test_no_lead_to_step_to_and_no_ensemble(chromium, tmp_path):
    truth, forecasts = stores({"persistence": 1})
    forecasts["persistence"] = forecasts["persistence"].isel(lead_time=slice(1))
    scores = verify(truth, forecasts)
    films = viewer.films(scores, truth, forecasts, cases=1)
    (tmp_path / "index.html").write_text(render(scores, [], films=films), encoding="utf-8")
    page = chromium.open(tmp_path / "index.html")
    page.wait("document.getElementById('viewer').dataset.drawn")
    assert list(shown(page)) == ["truth", "forecast"]
    assert page.value("document.getElementById('viewer-play').disabled")
    assert page.value("document.querySelectorAll('.bar').length") == 1
    assert page.complaints() == []


def test_twelve_methods_fit_a_phone(chromium, tmp_path):
    truth, forecasts = stores({f"method-with-a-long-name-{i}": 2 for i in range(12)})
    scores = verify(truth, forecasts)
    films = viewer.films(scores, truth, forecasts)
    (tmp_path / "index.html").write_text(render(scores, [picture("crps")], films=films), encoding="utf-8")
    page = chromium.open(tmp_path / "index.html")
    page.wait("document.getElementById('viewer').dataset.drawn")
    choose(page, "method", "all")
    assert len(shown(page)) == 13
    page.size(375, 800, phone=True)
    assert page.value("document.documentElement.scrollWidth") == 375


@pytest.mark.slow
def test_a_report_of_everything_on_twelve_methods_is_light_and_fits_a_phone(chromium, tmp_path):
    made_up = beside("synthetic_scores")
    scores = made_up.build(made_up.TWELVE)
    rng = np.random.default_rng(0)
    runs, inits, leads = (scores[d].values for d in ("trajectory", "init_time", "lead_time"))
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    coords = {"trajectory": runs, "init_time": inits, "lead_time": leads}
    size = (len(runs), len(inits), len(leads), 32, 64)
    noise = rng.standard_normal((12, *size), dtype=np.float32)
    forecasts = {
        name: xr.Dataset({"vorticity": (dims, np.stack([noise[(i + j) % 12] for j in range(members)], 2))}, coords)
        for i, (name, (members, _)) in enumerate(made_up.TWELVE.items())
    }
    fields = rng.standard_normal((len(runs), inits.max() + leads.max() + 1, 32, 64), dtype=np.float32)
    truth = xr.Dataset({"vorticity": (("trajectory", "time", "y", "x"), fields)}, {"trajectory": runs})
    films = viewer.films(scores, truth, forecasts)
    path = write_report(scores, tmp_path / "report", films=films)
    assert path.stat().st_size < 8.5e6
    page = chromium.open(path)
    page.wait("document.getElementById('viewer').dataset.drawn")
    assert page.value("document.querySelectorAll('figure img').length") >= 18
    page.value("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.size(375, 800, phone=True)
    assert page.value("document.documentElement.scrollWidth") == 375
    assert page.complaints() == []
