"""The figures of a report, in order: what each is called, what it shows in words, when it can be drawn.

for spec in FIGURES:
    if spec.applies(scores):
        spec.draw(scores).savefig(f"{spec.name}.png")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import xarray as xr
from matplotlib.figure import Figure

from evaluation import diagrams, metrics, physics_plots, plots, summary, words
from evaluation.curves import middle
from evaluation.style import with_units


@dataclass(frozen=True)
class FigureSpec:
    """A figure that every report has when `applies(scores)`; `caption(scores)` is HTML.

    `shape` is "", "wide" or "wide strip" (scrolls on a phone).
    """

    name: str
    title: str
    caption: Callable[[xr.Dataset], str]
    draw: Callable[[xr.Dataset], Figure]
    applies: Callable[[xr.Dataset], bool]
    shape: str = ""


def compared(scores: xr.Dataset) -> bool:
    """Whether there is a judged method and a reference other than it."""
    return any(r != m for m in summary.candidates(scores) for r in summary.references(scores))


def has(*names: str, ensembles: bool = False) -> Callable[[xr.Dataset], bool]:
    """Whether scores can give all these metrics (and hold an ensemble)."""
    return lambda scores: (
        all(metrics.available(scores, n) for n in names) and (not ensembles or bool(summary.ensembles(scores)))
    )


def _stored(*names: str) -> Callable[[xr.Dataset], bool]:
    return lambda scores: all(n in scores and bool(scores[n].notnull().any()) for n in names)


def _paper(scores: xr.Dataset) -> bool:
    classical = scores.attrs.get("verification_protocol") == "rvd" or scores.attrs.get("estimator") == "classical"
    return classical and metrics.available(scores, "inverse_crps")


def _units(scores: xr.Dataset) -> str:
    scale, unit = summary.error_unit(scores)
    if unit == scores.attrs["units"]:
        return ""
    one = with_units(scale, scores.attrs["units"])
    return escape(f"One standard deviation of the truth is {one}.")


def _not_for(scores: xr.Dataset) -> str:
    single = summary.deterministic(scores)
    return f" Not applicable to {escape(', '.join(single))}: one member has no spread." if single else ""


def strongest(scores: xr.Dataset) -> str:
    """The best of the known references beyond the main one: the harder comparison; "" where there is none."""
    main = summary.main_reference(scores)
    rest = [r for r in summary.references(scores) if summary.is_reference(r) and r not in (main, *summary.TRIVIAL)]
    return rest[-1] if rest else ""


def _scorecard(scores: xr.Dataset, against: str = "") -> str:
    runs = summary.terms(scores).runs
    sure = (
        f"Filled: the 95 % interval of the paired bootstrap over {runs} excludes zero; grey and hollow: it does not. "
        "About one symbol in twenty would be filled by chance alone."
        if scores.sizes["trajectory"] >= summary.SURE_RUNS
        else f"All hollow: with fewer than {summary.SURE_RUNS} {runs} significance cannot be said."
    )
    against = escape(against or summary.main_reference(scores))
    return (
        f"Blue and up: better than {against}; red and down: worse, whichever direction is better for the score. The "
        f"size grows with the change in percent, up to 50 %. {sure} A dot: does not apply."
    )


def _crps(scores: xr.Dataset) -> str:
    return (
        "The CRPS measures the distance between the forecast distribution and what happened; for a forecast with one "
        f"member it is the absolute error. {_units(scores)} " + escape(words.interval_words(scores))
    )


def _skill(scores: xr.Dataset) -> str:
    caption = (
        "The share of the reference's CRPS that is gone: 1 is a perfect forecast, below 0 the reference is better."
    )
    best = strongest(scores)
    return caption + (f" {escape(best)} is the strongest of the other reference forecasts here." if best else "")


def _paper_words(scores: xr.Dataset) -> str:
    sizes = ", ".join(f"{n} {int(scores['members'].sel({'method': n}))}" for n in summary.names_of(scores))
    return (
        f"The classical CRPS, averaged over {summary.terms(scores).cells} and cases at each lead, as its inverse "
        "(Figure 3 of the paper on "
        f"residual video diffusion): higher is better. The classical estimator favours large ensembles; members here: "
        f"{escape(sizes)}."
    )


def _paper_map(scores: xr.Dataset) -> str:
    return "Mean over all cases at one lead (Figure 4 of the paper), one colour range for all methods."


def _spread(scores: xr.Dataset) -> str:
    return (
        "In a reliable ensemble the spread of the members equals the error of their mean, so the ratio is 1 "
        "(green: within 10 %). Spread includes the factor √((M+1)/M) for M members." + _not_for(scores)
    )


def _ranks(scores: xr.Dataset) -> str:
    return (
        "How often the truth falls between which members. A reliable ensemble gives a flat histogram; a U means "
        "too little spread, a dome too much, a slope a bias. Grey: where 95 % of the bars would lie if the truth "
        f"were one more member (found by letting each member play the truth, so that neighbouring "
        f"{summary.terms(scores).cells} count as alike as they are)."
    )


COVERAGE = (
    "How often the truth lies inside the central interval of the members, from their ranks; a reliable ensemble of any "
    "size reaches the line. Below it: too confident."
)


def _reliability(scores: xr.Dataset) -> str:
    terms = summary.terms(scores)
    event = escape(diagrams.event_words(scores, middle(scores["threshold"])))
    return (
        f"Of all {terms.cells} for which {event} was given some probability, in how many did it happen? On the "
        "diagonal the probabilities mean what they say; flatter: too confident; dotted: how often it happens at all. "
        f"Bars: 95 % intervals over {terms.runs}. Inset: how often each probability was said; a sharp forecast says 0 "
        "and 1." + _not_for(scores)
    )


def _roc(scores: xr.Dataset) -> str:
    return (
        "Warning whenever the probability exceeds some level gives a hit rate and a false alarm rate; all levels give "
        "a curve, and the area below it says how well events are told from non-events, however wrong the probabilities "
        "themselves are. A forecast with one member has one level: a point."
    )


def _brier(scores: xr.Dataset) -> str:
    reference = summary.main_reference(scores)
    against = (
        f"The share of the Brier score of {escape(reference)} that is gone, " if reference else "The Brier score, "
    )
    return f"{against}the mean squared error of the probability of an event (fair: ensembles of any size compare)."


def _fss(scores: xr.Dataset) -> str:
    return (
        "Does the event cover the right fraction of a neighbourhood, even where its exact place is missed? Above the "
        "dashed line, halfway between chance and perfect, a forecast is called useful at that scale. The fraction of a "
        "forecast counts all its members."
    )


def _pooled(scores: xr.Dataset) -> str:
    return (
        f"The CRPS of single {summary.terms(scores).cells} cannot see whether members put structure in the right "
        "place. Averaged over windows "
        f"(left) or taken as the maximum in them (right), it can. {_units(scores)}"
    )


def _spectra(scores: xr.Dataset) -> str:
    return (
        "How much variance lives at which wavelength, in single members (a mean of members would be smooth because it "
        "is a mean). Below 1 in the lower row: too smooth at that scale; above: too rough."
    )


def _coherence(scores: xr.Dataset) -> str:
    return (
        "How much of the variance at a wavelength is in the right place. The effective resolution is the finest wave "
        "for which, coming from long waves, the squared coherence stays above one half."
    )


def _probe(scores: xr.Dataset) -> str:
    terms = summary.terms(scores)
    what = "in the wake: does the forecast shed vortices at the right pace?"
    if terms.video:
        what = "of the frame: do things move past them at the right pace?"
    return (
        f"Variance by frequency at fixed places {what} Shaded: 95 % interval of the truth over {terms.runs}. "
        f"{escape(physics_plots.resolution_words(scores))}"
    )


def _pod(scores: xr.Dataset) -> str:
    terms = summary.terms(scores)
    what = "The frame" if terms.video else "The flow"
    return (
        f"{what} as a sum of its most energetic patterns (POD modes, fitted on the training {terms.runs} where there "
        "are any)."
        " Left: do members give each pattern the energy it has? Right: how well is its coefficient forecast; about "
        "0.56 is the level of its climatological distribution, if that is Gaussian."
    )


def _pdf(scores: xr.Dataset) -> str:
    tails = "the darkest and brightest pixels" if summary.terms(scores).video else "the strong vortices"
    return (
        f"How often which values occur, in single members; the tails are {tails}. A forecast that blurs loses its "
        f"tails. {_units(scores)}"
    )


def _maps(scores: xr.Dataset) -> str:
    caption = "Mean over all cases and lead times, one colour range for all methods. "
    several = "," in str(scores.attrs.get("channels", ""))
    if summary.terms(scores).video:
        return caption + ("Every pixel is the mean of its channels." if several else "")
    return caption + "Grey cells (walls) are left out of all scores."


def _skill_map(scores: xr.Dataset) -> str:
    runs = summary.terms(scores).runs
    caption = "Purple: better than the reference, orange: worse. "
    if summary.terms(scores).video:
        caption += "Grey: the reference makes no error there. "
    if scores.sizes["block"] >= summary.SURE_RUNS:
        return caption + (
            f"Without dots the sign is significant (95 % interval of a paired bootstrap over {runs} excludes zero); "
            "with dots it is not."
        )
    return caption + f"Fewer than three {runs}: significance cannot be said."


def _say(text: str) -> Callable[[xr.Dataset], str]:
    return lambda scores: text


FIGURES: list[FigureSpec] = [
    FigureSpec("scorecard", "Scorecard", _scorecard, plots.scorecard_figure, compared, "wide strip"),
    FigureSpec(
        "scorecard-strongest",
        "Scorecard against the strongest reference",
        lambda s: _scorecard(s, strongest(s)),
        lambda s: plots.scorecard_figure(s, strongest(s)),
        lambda s: bool(strongest(s)),
        "wide strip",
    ),
    FigureSpec("crps", "CRPS by lead time", _crps, plots.crps_by_lead, has("crps")),
    FigureSpec("skill", "CRPSS against the references", _skill, plots.skill_by_lead, compared),
    FigureSpec("paper", "1 / CRPS by lead time", _paper_words, plots.inverse_crps_by_lead, _paper),
    FigureSpec(
        *("spread", "Spread against skill", _spread, plots.spread_and_skill),
        has("spread_skill_ratio", ensembles=True),
        "wide strip",
    ),
    FigureSpec(
        *("ranks", "Rank histograms", _ranks, plots.rank_histograms), has("coverage", ensembles=True), "wide strip"
    ),
    FigureSpec(
        *("coverage", "Coverage of central intervals", _say(COVERAGE), plots.coverage),
        has("coverage", ensembles=True),
        "wide strip",
    ),
    FigureSpec(
        *("reliability", "Reliability of probabilities", _reliability, plots.reliability),
        has("brier", ensembles=True),
        "wide strip",
    ),
    FigureSpec("roc", "Telling events from non-events", _roc, plots.roc, has("roc_area"), "wide strip"),
    FigureSpec("brier", "Brier skill by threshold", _brier, plots.brier_skill, has("brier"), "wide strip"),
    FigureSpec("fss", "Right within a neighbourhood", _fss, plots.fractions_skill, has("fss"), "wide strip"),
    FigureSpec("pooled", "CRPS of pooled fields", _pooled, plots.pooled_crps, has("crps_pooled"), "wide"),
    FigureSpec("spectra", "Spectra in space", _spectra, plots.spectra, _stored("power", "power_truth"), "wide strip"),
    FigureSpec("coherence", "Coherence and resolution", _coherence, plots.coherence, has("coherence"), "wide strip"),
    FigureSpec(
        *("probe", "Spectra in time at probes", _probe, plots.probes),
        _stored("probe_power", "probe_power_truth"),
        "wide strip",
    ),
    FigureSpec(
        *("pod", "POD modes", _pod, plots.modes), _stored("pod_energy", "pod_energy_truth", "pod_crps"), "wide strip"
    ),
    FigureSpec("pdf", "Distribution of values", _pdf, plots.distributions, _stored("pdf", "pdf_truth"), "wide"),
    FigureSpec("crps-map", "Where the error is", _maps, plots.crps_maps, _stored("crps_map"), "wide"),
    FigureSpec(
        "crps-map-lead",
        "Where the error is at one lead",
        _paper_map,
        plots.crps_map_at_lead,
        _stored("crps_map"),
        "wide",
    ),
    FigureSpec(
        *("skill-map", "Where the skill is", _skill_map, plots.skill_maps),
        lambda s: compared(s) and "crps_map" in s,
        "wide",
    ),
]
