"""Every figure draws for any number of methods, leads and runs, says its units, and shows the numbers of the scores."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from evaluation import EvaluationError, diagrams, metrics, plots, summary, tables, words
from evaluation.figures import FIGURES
from evaluation.style import apart, looks, pictures

from .synthetic_scores import FAMILIES, TWELVE, build

NAMES = [spec.name for spec in FIGURES]
ONE, TWO = {"rvd": (8, 0.2)}, {"rvd": (8, 0.2), "persistence": (1, 0.8)}
CASES = {
    "one": lambda: build(ONE, runs=3, leads=3),
    "two": lambda: build(TWO, runs=3, leads=3),
    "twelve": lambda: build(TWELVE, runs=3, leads=3),
    "one lead, one run": lambda: build(runs=1, inits=1, leads=1),
    "deterministic only": lambda: build({"persistence": (1, 0.5), "dmd": (1, 0.2)}, runs=3, leads=2),
    "references only": lambda: build({k: v for k, v in TWELVE.items() if "rvd" not in k}, runs=3, leads=2),
}


SLOW = ("one", "references only", "deterministic only")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES])
def test_every_figure_that_applies_draws_and_has_a_caption(case):
    scores = CASES[case]()
    drawn = []
    for spec in FIGURES:
        if spec.applies(scores):
            assert spec.draw(scores).axes, spec.name
            assert len(spec.caption(scores)) > 40, spec.name
            drawn.append(spec.name)
    assert len(drawn) >= 10
    assert ("scorecard" in drawn) == (scores.sizes["method"] > 1)
    assert ("spread" in drawn) == (case != "deterministic only")
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_figure_can_be_laid_out(case):
    scores = CASES[case]()
    for spec in FIGURES:
        if spec.applies(scores):
            spec.draw(scores).draw_without_rendering()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_absent_family_takes_its_figures_along_and_no_others(family):
    whole, part = build(TWO, runs=1, leads=2), build(TWO, runs=1, leads=2, without=(family,))
    gone = {spec.name for spec in FIGURES if spec.applies(whole) and not spec.applies(part)}
    own = {
        "events": {"reliability", "roc", "brier"},
        "fss": {"fss"},
        "pooled": {"pooled"},
        "spectra": {"spectra", "coherence"},
        "pod": {"pod"},
        "probe": {"probe"},
        "pdf": {"pdf"},
    }
    assert gone == own.get(family, set())
    assert not set(FAMILIES[family]) & {n for m in summary.listed(part) for n in metrics.METRICS[m].uses}


@pytest.mark.parametrize("kept", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_figures_draw_where_every_other_family_is_absent(kept):
    scores = build(TWO, runs=1, leads=2, without=tuple(FAMILIES)[kept::2])
    for spec in FIGURES:
        if spec.applies(scores):
            spec.draw(scores)
    words.summary_html(scores)


def test_scores_of_the_first_version_still_make_their_figures():
    """A file without any of the newer families, and without the newer attributes."""
    scores = build(runs=3, leads=3, without=tuple(FAMILIES)).drop_vars(["deterministic", "frechet_physics", "fvd"])
    for name in ("estimator", "data_range", "lpips", "fvd", "event_absolute", "verification_protocol"):
        del scores.attrs[name]
    names = {spec.name for spec in FIGURES if spec.applies(scores)}
    expected = {
        "scorecard",
        "scorecard-strongest",
        "crps",
        "skill",
        "spread",
        "ranks",
        "coverage",
        "crps-map",
        "crps-map-lead",
        "skill-map",
    }
    assert names == expected
    for spec in FIGURES:
        if spec.applies(scores):
            spec.draw(scores)
    tables.skill_table_html(scores)
    words.protocol_html(scores)


def test_a_figure_without_its_statistics_says_so():
    scores = build(TWO, runs=1, leads=2, without=tuple(FAMILIES))
    for draw in (plots.reliability, plots.roc, plots.fractions_skill, plots.spectra, plots.probes, plots.modes):
        with pytest.raises(EvaluationError, match="not in the scores"):
            draw(scores)


def test_the_papers_figures_come_with_its_protocol():
    scores = build(TWO, runs=3, leads=3)
    (spec,) = [s for s in FIGURES if s.name == "paper"]
    assert not spec.applies(scores)
    scores.attrs["verification_protocol"] = "rvd"
    assert spec.applies(scores)
    lines = [line for line in spec.draw(scores).axes[0].lines if len(line.get_xdata()) == 3]
    expected = 1 / scores["crps_classical"].mean(("trajectory", "init_time"))
    np.testing.assert_allclose(sorted(x.get_ydata()[0] for x in lines), sorted(expected.values[:, 0]), rtol=1e-10)


def test_map_at_a_lead_is_of_the_nearest_lead():
    scores = build(TWO, runs=3, leads=4)
    figure = plots.crps_map_at_lead(scores)
    weights = scores["fluid_cases"].values
    maps = scores["crps_map"].values[0, :, 3]
    with np.errstate(invalid="ignore"):
        expected = np.nansum(maps * weights, 0) / np.where(weights.sum(0) > 0, weights.sum(0), np.nan)
    np.testing.assert_allclose(np.ma.filled(figure.axes[0].images[0].get_array(), np.nan), expected)
    assert "lead 4" in figure.axes[-1].get_xlabel()


def test_every_axis_with_a_scale_is_labelled():
    scores = build(TWO, runs=1, leads=2)
    for spec in FIGURES:
        if spec.name in ("scorecard", "scorecard-strongest", "crps-map", "crps-map-lead", "skill-map", "paper"):
            continue
        figure = spec.draw(scores)
        said = [t.get_text() for t in (figure._supxlabel, figure._supylabel) if t is not None]
        visible = [a for a in figure.axes if a.get_visible() and a.get_subplotspec() is not None]
        assert any(a.get_ylabel() for a in visible), spec.name
        assert said or any(a.get_xlabel() for a in visible), spec.name


def test_reliability_curve_follows_by_hand():
    """Two members; three classes. Of 100, 50, 50 cells forecast at 0, 1/2, 1 the event happens in 10, 30, 45."""
    scores = build({"a": (2, 0.5)}, runs=4, inits=1, leads=1)
    scores["event_forecast"].values[:] = [100, 50, 50]
    scores["event_observed"].values[:] = [10, 30, 45]
    curve = diagrams.reliability_curve(scores, "a", 0.01)
    np.testing.assert_allclose(curve["probability"], [0, 0.5, 1])
    np.testing.assert_allclose(curve["frequency"], [0.1, 0.6, 0.9])
    np.testing.assert_allclose(curve["share"], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(curve["low"], curve["frequency"])  # every run says the same
    assert float(curve["base_rate"]) == pytest.approx(85 / 200)


def test_probabilities_of_many_members_are_gathered_into_classes():
    scores = build({"a": (32, 0.5)}, runs=3, leads=2)
    curve = diagrams.reliability_curve(scores, "a", 0.01)
    assert curve.sizes["bin"] == diagrams.BINS
    assert float(curve["share"].sum()) == pytest.approx(1)
    off = abs(curve["probability"].values - np.arange(11) / 10)
    assert np.nanmax(off) <= 0.05
    total = float((curve["share"] * curve["frequency"]).sum())
    assert total == pytest.approx(float(curve["base_rate"]))


def test_twelve_methods_look_different_and_roles_can_be_told():
    styles = looks(list(TWELVE))
    seen = {(to_hex(s.colour), s.marker, str(s.dash)) for s in styles.values()}
    assert len(seen) == 12
    assert styles["rvd"].width > styles["analog"].width
    assert styles["perfect-model"].dash != "-"
    assert styles["dmd"].colour == styles["dmd-dressed"].colour
    assert looks(["x", "analog"])["analog"].colour == styles["analog"].colour

    def saturation(colour):
        rgb = to_rgb(colour)
        return max(rgb) - min(rgb)

    judged = [saturation(looks([f"m{i}" for i in range(12)])[f"m{i}"].colour) for i in range(12)]
    assert min(judged) > max(saturation(styles[n].colour) for n in ("analog", "dmd", "linear-inverse")) * 0.9
    assert len({looks([f"m{i}" for i in range(12)])[f"m{i}"].colour for i in range(12)}) == 12


def test_labels_move_as_little_as_they_must():
    np.testing.assert_allclose(apart(np.array([0.1, 0.5, 0.9]), 0.1), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(apart(np.array([0.5, 0.5]), 0.1), [0.45, 0.55])
    np.testing.assert_allclose(apart(np.array([0.2, 0.45, 0.5, 0.52]), 0.1), [0.2, 0.39, 0.49, 0.59])
    crowd = apart(np.sort(np.random.default_rng(0).uniform(0, 1, 12)), 0.06)
    assert np.diff(crowd).min() > 0.06 - 1e-9


def test_equal_scores_give_equal_files():
    scores = build(TWO, runs=3, leads=3)
    assert pictures(plots.reliability(scores)) == pictures(plots.reliability(scores))
    first = pictures(plots.crps_by_lead(scores))[1]
    assert b"CRPS by lead time" in first  # text stays text


def test_table_of_many_methods_is_sortable_and_sorted_by_crps():
    scores = build(TWELVE, runs=3, leads=16)
    table = tables.method_table(scores)
    crps = summary.value(scores, "crps", leads=list(range(1, 17)))
    assert table.rows == sorted(TWELVE, key=lambda n: float(crps.sel({"method": n})))
    assert table.rows[0] == "perfect-model"
    page = tables.skill_table_html(scores)
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    assert body.count("<tr>") == 12
    assert len(re.findall(r'<td[^>]* data-value="[^"]*">', body)) == body.count("<td") == 12 * len(table.columns)
    text = tables.skill_table_text(scores)
    assert max(map(len, text.splitlines())) < 140
    assert "CRPSS against" in text


def test_words_name_the_ranking_the_ceiling_and_few_methods():
    sentences = words.summary_sentences(build(TWELVE, runs=3, leads=9))
    assert sentences[0].startswith("By CRPS over all leads")
    assert sentences[0].index("perfect-model") < sentences[0].index("rvd") < sentences[0].index("persistence")
    assert any("true equations" in s for s in sentences)
    assert len(sentences) < 14
    stamp = words.protocol_html(build(TWO, runs=3, leads=2))
    assert "|vorticity| above 0.005 / tick" in stamp
    assert "unavailable: no weights" in stamp
