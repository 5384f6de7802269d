"""The published cases as tests, and what is said about them. The cases themselves know their sources and tolerances."""

import math
import re
import sys

import numpy as np
import pytest

from lbm import console, validate
from lbm.errors import DataError, UsageError
from lbm.validation_result import Case, Outcome, Result, fitted_order, interpolate
from lbm.validation_wakes import growth_rate, shedding, whole_periods

BRIEF = ("poiseuille", "couette", "taylor-green", "shear-wave", "sound-wave", "cavity-100", "dfg-2d1-20", "onset")
GOOD = Result("a channel", "speed", 1.01, 1.0, "someone (1999)", tolerance=0.02)
BAD = Result("a channel", "force", 0.5, 0.0, "theory", tolerance=1e-3)


def case(name):
    return next(c for c in validate.CASES if c.name == name)


@pytest.mark.parametrize("name", BRIEF)
def test_case_agrees_with_theory_or_publication(name):
    results = case(name).run().results
    assert results
    failed = [r for r in results if not r.passed]
    assert not failed, validate.table(results)


@pytest.mark.slow
@pytest.mark.parametrize("name", [c.name for c in validate.CASES if c.name not in BRIEF])
def test_long_case_agrees_with_publication(name):
    results = case(name).run().results
    assert all(r.passed for r in results), validate.table(results)


def test_brief_cases_are_in_the_quick_set():
    assert set(BRIEF) <= {c.name for c in validate.selected(False, ())}
    assert {c.name for c in validate.selected(True, ())} == {c.name for c in validate.CASES}


def test_result_passes_inside_its_interval_or_tolerance_and_never_as_nan():
    assert GOOD.passed
    assert not BAD.passed
    assert GOOD.relative_error == pytest.approx(0.01)
    assert BAD.relative_error == 0.5  # the difference, where the reference is 0
    inside = Result("c", "q", 5.58, 9.9, "s", tolerance=1e-9, interval=(5.57, 5.59))
    assert inside.passed  # what was published as an interval decides
    for interval in (None, (0.0, 1.0)):
        assert not Result("c", "q", math.nan, 1.0, "s", tolerance=1.0, interval=interval).passed


def test_table_has_a_line_for_each_result_and_counts_them():
    lines = validate.table([GOOD, BAD]).splitlines()
    assert len(lines) == 4
    assert re.search(r"a channel +speed +1\.01 +1 +\+1\.00 % +± 2 % +ok +someone \(1999\)", lines[1])
    assert re.search(r"force +0\.5 +0 +5\.0e-01 +± 0\.001 +FAILED +theory", lines[2])
    assert lines[3] == "1 of 2 passed"


def fake_cases(monkeypatch, *results):
    monkeypatch.setattr(
        validate,
        "CASES",
        tuple(Case(f"case-{i}", lambda r=r: Outcome([r]), 1.0, full=i > 0) for i, r in enumerate(results)),
    )


def test_validate_keeps_the_order_of_the_list(monkeypatch):
    fake_cases(monkeypatch, GOOD, BAD)
    assert validate.validate(quiet=True) == [GOOD]
    assert validate.validate(full=True, threads=2, quiet=True) == [GOOD, BAD]
    assert validate.validate(only=["case-1"], quiet=True) == [BAD]


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"unknown validation case 'cavern'.*cavity-100"):
        validate.validate(only=["cavern"], quiet=True)
    with pytest.raises(UsageError, match="--full"):
        validate.validate(page=tmp_path / "page.md", quiet=True)


@pytest.mark.parametrize(("result", "code"), [(GOOD, 0), (BAD, 3)])
def test_command_ends_with_3_when_a_case_fails(monkeypatch, capsys, result, code):
    from lbm.cli import app

    fake_cases(monkeypatch, result)
    monkeypatch.setattr(sys, "argv", ["lbm", "validate", "--quiet"])
    with pytest.raises(SystemExit) as stop:
        console.run(app)
    assert stop.value.code == code


def test_page_keeps_what_stands_outside_its_marks(tmp_path):
    from lbm import validation_page as page

    path = tmp_path / "validation.md"
    path.write_text(f"# Title\n\nbefore\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n")
    page.write(path, drawn_outcomes())
    text = path.read_text()
    assert text.startswith("# Title\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| a channel | speed | 1.01 | 1 | +1.00 % | ± 2 % | someone (1999) | pass |" in text
    figures = sorted((tmp_path / "figures").iterdir())
    assert [f.name.split("-")[1] for f in figures] == ["cavity.png", "convergence.png", "dfg.png", "strouhal.png"]
    before = [f.read_bytes() for f in figures]
    assert all(b[:8] == b"\x89PNG\r\n\x1a\n" and len(b) < 150_000 for b in before)
    page.write(path, drawn_outcomes())
    assert [f.read_bytes() for f in figures] == before  # no date inside
    path.write_text("# Title\n")
    with pytest.raises(DataError, match="put them back"):
        page.write(path, drawn_outcomes())


def drawn_outcomes():
    """Outcomes with the curves that the figures need, of made-up numbers."""
    n, s, t = np.array([8, 16, 32]), np.linspace(0, 1, 20), np.arange(2000.0)
    wave = np.stack([3.2 + 0.01 * np.sin(t), np.sin(t / 50)], 1)
    curves = {
        "poiseuille": {"sizes": n, "3/16": 1e-15 * n, "1/4": 1 / n**2, "1/12": 2 / n**2},
        "taylor-green": {"sizes": n, "errors": 1 / n**2},
        "walls": {"diameters": n, "half-way": 1 / n, "interpolated": 1 / n**2},
        **{f"cavity-{re}": {"s": s, "u": s, "v": s} for re in (100, 400, 1000)},
        "cylinder-100": {"reynolds": np.array(100), "strouhal": np.array(0.16)},
        "strouhal-60": {"reynolds": np.array(60), "strouhal": np.array(0.13)},
        "dfg-2d2": {"history": wave, "unit": np.array(0.01)},
    }
    return {name: (Outcome([GOOD], c), 1.0) for name, c in curves.items()}


# ----------------------------------------------------------------------------------------- what the cases measure with


def test_interpolation_is_exact_for_cubics():
    rng = np.random.default_rng(0)
    points = np.sort(rng.uniform(-1, 1, 12))
    cubic = np.polynomial.Polynomial(rng.standard_normal(4))
    x = rng.uniform(-1.1, 1.1, 50)
    np.testing.assert_allclose(interpolate(x, points, cubic(points)), cubic(x), rtol=0, atol=1e-9)


def test_fitted_order_of_a_power_law():
    n = np.array([8, 16, 64])
    assert fitted_order(n, 3 * n**-1.7) == pytest.approx(1.7)


def test_shedding_of_a_sine_of_known_period():
    t = np.arange(0, 4000, 2)
    beat = shedding(0.3 * np.sin(2 * np.pi * t / 321.7 + 1) - 2, 2)
    assert beat.period == pytest.approx(321.7, rel=1e-4)
    assert beat.lift_amplitude == pytest.approx(0.3, rel=1e-3)
    assert beat.spread < 0.2
    assert len(whole_periods(t, 321.7)) == round(12 * 321.7 / 2)
    with pytest.raises(ValueError, match="does not shed"):
        shedding(np.linspace(0, 1, 100))


@pytest.mark.parametrize("rate", [-0.03, 0.02, 0.05])
def test_growth_rate_of_a_growing_wave_on_a_drift_that_saturates(rate):
    times = 300
    t = np.linspace(0, times, 30_000)
    size = 1e-4 * np.exp(rate * t)
    lift = size / np.sqrt(1 + (size / 0.05) ** 2) * np.sin(2 * np.pi * 0.12 * t) + 1e-6 * t
    assert growth_rate(lift, times) == pytest.approx(rate, rel=0.1)
