"""The scorecard: what it says follows from the scores, is sure only where it should be, and is escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evaluation import EvaluationError, scorecard, summary

from .synthetic_scores import FAMILIES, TWELVE, build

PAIR = {name: TWELVE[name] for name in ("rvd", "climatology", "linear-extrapolation")}
HOSTILE = '<script>alert("1")</script>'


def test_numbers_are_those_of_the_metrics():
    scores = build(runs=5, leads=16)
    card = scorecard.scorecard(scores)
    assert card.attrs["reference"] == "climatology"
    assert "climatology" not in card["method"].values
    assert card["lead"].values.tolist() == ["1", "2", "3", "5", "7", "11", "16", "1-8", "1-16"]
    crps = summary.value(scores, "crps")
    one = card.sel({"method": "rvd"}).sel(score="crps", lead="5")
    expected, other = (float(crps.sel({"method": m}).sel(lead_time=5)) for m in ("rvd", "climatology"))
    assert float(one["value"]) == pytest.approx(expected)
    assert float(one["reference"]) == pytest.approx(other)
    assert float(one["relative"]) == pytest.approx(100 * (expected - other) / other)
    pooled = card.sel({"method": "rvd"}).sel(score="crps", lead="1-16")
    assert float(pooled["value"]) == pytest.approx(float(crps.sel({"method": "rvd"}).mean()))
    fss = card.sel({"method": "rvd"}).sel(lead="16").isel(score=card["metric"].values.tolist().index("fss"))
    expected = summary.value(scores, "fss", pick={"threshold": 0.01, "window": 5}).sel({"method": "rvd"})
    assert float(fss["value"]) == pytest.approx(float(expected[-1]))


def test_sign_is_better_or_worse_whatever_the_direction_of_the_score():
    """rvd is planted better than climatology in every score, linear extrapolation worse at long leads."""
    card = scorecard.scorecard(build(PAIR, runs=6, leads=16)).sel(lead="16")
    directions = dict(zip(card["metric"].values.tolist(), card["better"].values.tolist(), strict=True))
    assert directions["crps"] == -1
    assert directions["fss"] == directions["ssim"] == directions["roc_area"] == 1
    assert (card["sign"].sel({"method": "rvd"}) == 1).all()
    assert int(card["sign"].sel({"method": "linear-extrapolation"}).sel(score="crps")) == -1


def test_equal_methods_are_not_told_apart():
    """Noise without a difference: of 16 leads hardly any is coloured (one in twenty by design)."""
    scores = build({"a": (16, 0.3), "b": (16, 0.3)}, runs=10, leads=16, without=tuple(FAMILIES))
    scores.attrs["reference"] = "b"
    card = scorecard.scorecard(scores)
    sure = (card["sign"] != 0).sel(score=["crps", "rmse"])
    assert float(sure.mean()) < 0.2


def test_few_runs_are_never_sure():
    card = scorecard.scorecard(build(runs=2, leads=3))
    assert (card["sign"] == 0).all()
    assert "significance cannot be said" in scorecard.scorecard_html(build(runs=2, leads=3))


def test_page_part_is_well_formed_escaped_and_holds_the_numbers():
    methods = {HOSTILE: (8, 0.1), "climatology": (8, 0.5), "persistence": (1, 0.9), "perfect-model": (8, 0.02)}
    scores = build(methods, runs=4, leads=3)
    page = scorecard.scorecard_html(scores)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    card = scorecard.scorecard(scores)
    gains = [float(v) for v in re.findall(r'data-value="([-\d.e+]+)"', page)]
    finite = (card["relative"] * card["better"]).values
    np.testing.assert_allclose(sorted(gains), sorted(finite[np.isfinite(finite)]), rtol=1e-4, atol=1e-6)
    coloured = page.count('class="better"') + page.count('class="worse"')
    assert coloured == int((card["sign"] != 0).sum())
    assert "(ceiling)" in page
    assert "(reference)" in page

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_nothing_to_compare_with():
    scores = build({"rvd": (4, 0.2)}, runs=3, leads=2)
    assert scorecard.scorecard_html(scores) == ""
    with pytest.raises(EvaluationError, match="needs a reference"):
        scorecard.scorecard(scores)


def test_another_reference_can_be_asked_for():
    scores = build(runs=6, leads=2)
    card = scorecard.scorecard(scores, "analog")
    assert card.attrs["reference"] == "analog"
    assert "analog" not in card["method"].values
    assert (card["sign"].sel({"method": "climatology"}).sel(score="crps") == -1).all()
