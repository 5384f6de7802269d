"""The report of natural video: frames in their own colours, first row on top, in words of video."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from evaluation import maps, viewer, words
from evaluation.report import render, write_report
from evaluation.tables import distances_html, skill_table_text
from evaluation.verification import verify

RUNS, INIT, LEADS, SHAPE = 4, 3, 4, (12, 18)
FLOW_WORDS = r"vortic|\bwalls?\b|strouhal|\bwake\b|obstacle|\bflow\b|physics|\bfluid\b|\bruns?\b"


def beside(name: str):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(f"page_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


video = beside("video")


def made(names: tuple[str, ...]):
    """Scores, scenes, truth and forecasts of clips of noise: no symmetry can hide a frame that is upside down."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (RUNS, INIT + LEADS + 1, len(names), *SHAPE)).astype(np.uint8)
    truth = video.truth_of(frames, names)
    forecasts = {
        name: video.forecast_of(video.guesses(rng, frames, [INIT], members, LEADS), [INIT], names)
        for name, members in (("rvd", 3), ("persistence", 1))
    }
    scores = verify(truth, forecasts, threads=1)
    return scores, viewer.films(scores, truth, forecasts), truth, forecasts


@pytest.fixture(scope="module", params=[video.RGB, ("gray",)], ids=["colour", "grey"])
def case(request):
    return made(request.param)


def rgb(frame: np.ndarray) -> np.ndarray:
    """A frame (channel, y, x) as (y, x, 3)."""
    return np.moveaxis(np.broadcast_to(frame, (3, *frame.shape[1:])), 0, -1)


def stored(case, lead: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth (channel, y, x) and members (member, channel, y, x) of the first scene."""
    _, films, truth, forecasts = case
    run = films[0].trajectory
    return truth["frames"].values[run, INIT + lead], forecasts["rvd"]["frames"].values[run, 0, :, lead - 1]


def test_the_film_strip_shows_the_frames_as_they_are(case):
    film = case[1][0].film
    drawing = maps.film_strip(film)
    rows = [axes for axes in drawing.axes if axes.get_images()]
    columns = 3  # leads 1, 2, 4
    truth, members = stored(case, 1)
    for row, expected in ((0, truth), (1, members.mean(0)), (2, members[0])):
        image = rows[row * columns].get_images()[0]
        assert image.origin == "upper"
        drawn = image.get_array()
        drawn = drawn if drawn.ndim == 3 else np.repeat(drawn[..., None], 3, -1)
        np.testing.assert_allclose(255 * drawn, rgb(expected), rtol=1e-12)
    spread = rows[-columns if len(rows) % columns == 0 else -columns - 1].get_images()[0]
    np.testing.assert_allclose(spread.get_array(), members.std(0, ddof=1).mean(0), rtol=1e-12)
    labels = [axes.get_ylabel() for axes in drawing.axes]
    assert "spread (grey levels)" in labels
    assert not any("frames" in label for label in labels)  # pictures need no colour bar
    assert maps.animation(film)[:4] == b"RIFF"


def test_the_strip_of_all_methods_has_a_row_for_the_truth_and_each_of_them(case):
    scene = case[1][0]
    said = {name: clip.members[0] for name, clip in scene.clips.items()}
    drawing = maps.methods_strip(scene.film, said)
    rows = [axes for axes in drawing.axes if axes.get_images()]
    columns = 3  # leads 1, 2, 4
    assert len(rows) == columns * (1 + len(said))
    labels = [axes.get_ylabel() for axes in rows[::columns]]
    assert labels == ["truth", *said]
    for row, name in enumerate(said, 1):
        drawn = rows[row * columns].get_images()[0].get_array()
        drawn = drawn if drawn.ndim == 3 else np.repeat(drawn[..., None], 3, -1)
        frame = said[name][0] if said[name].ndim == 4 else np.repeat(said[name][0][..., None], 3, -1)
        np.testing.assert_allclose(255 * drawn, frame, rtol=1e-12)


def test_maps_have_the_first_row_on_top(case):
    drawing = maps.crps_maps(case[0])
    assert {image.origin for axes in drawing.axes for image in axes.get_images() if axes.get_title(loc="left")} == {
        "upper"
    }


def test_the_page_speaks_of_video_in_grey_levels(tmp_path):
    scores, films, _, _ = made(video.RGB)
    index = write_report(scores, tmp_path / "report", films=films)
    page = index.read_text()
    shown = re.sub(
        r"<style>.*?</style>|<script.*?</script>|<head>.*?</head>|data:image[^\"]*|rvdflow", "", page, flags=re.S
    )
    assert re.findall(FLOW_WORDS, shown, re.IGNORECASE) == []
    svg = "".join(path.read_text() for path in (tmp_path / "report" / "figures").glob("*.svg"))
    assert re.findall(FLOW_WORDS, " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)), re.IGNORECASE) == []
    text = " ".join([skill_table_text(scores), *words.summary_sentences(scores)])
    assert "grey levels" in text
    assert "standard deviations" not in text
    assert "4 clips" in text
    assert "Fréchet distance, motion and texture" in distances_html(scores) or not distances_html(scores)
    assert scores.attrs["channels"] in shown
    assert scores.attrs["picture_of"] in shown


def test_a_field_has_its_own_words(case):
    scores, films, truth, forecasts = case
    field = {n: f.isel(channel=0, drop=True) for n, f in forecasts.items()}
    plain = verify(truth.isel(channel=0, drop=True), field, threads=1)
    assert "channels" not in plain.attrs
    assert "1 run" not in render(scores, [], films=films)
    assert "4 runs" in render(plain, [])


def test_the_viewer_paints_the_frames_to_the_bit(case, chromium, tmp_path):
    scores, films, _, _ = case
    path = tmp_path / "index.html"
    path.write_text(render(scores, [], films=films), encoding="utf-8")
    page = chromium.open(path)
    page.wait("document.getElementById('viewer').dataset.drawn")
    assert page.complaints() == []
    for lead in (1, 3):
        page.value(
            f"(e => {{ e.value = {lead - 1}; e.dispatchEvent(new Event('input')); }})"
            "(document.getElementById('viewer-lead'))"
        )
        found = page.value(
            "Array.from(document.querySelectorAll('#viewer-panels figure'), f => { const c = f.querySelector('canvas');"
            "return [f.textContent, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]; })"
        )
        panels = {name: np.array(data).reshape(*SHAPE, 4) for name, data in found}
        assert list(panels) == ["truth", "ensemble mean", "spread", "member 1", "member 2", "member 3"]
        truth, members = stored(case, lead)
        for name, frame in (("truth", truth), ("ensemble mean", np.rint(members.mean(0))), ("member 2", members[1])):
            np.testing.assert_array_equal(panels[name][..., :3], rgb(frame), err_msg=name)
            assert (panels[name][..., 3] == 255).all()
    spot = page.value(
        "(c => { c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect();"
        f"return {{x: b.x + b.width * 7.5 / {SHAPE[1]}, y: b.y + b.height * 1.5 / {SHAPE[0]}}}; }})"
        "(document.querySelector('#viewer-panels canvas'))"
    )
    page.send("Input.dispatchMouseEvent", {"type": "mouseMoved", **spot})
    page.wait("document.getElementById('viewer-value').textContent.startsWith('truth, x 7, y 1')")
    said = page.value("document.getElementById('viewer-value').textContent")
    pixel = stored(case, 3)[0][:, 1, 7]
    assert said.endswith(f": {'red, green, blue ' * (len(pixel) == 3)}{', '.join(map(str, pixel))} grey levels")
