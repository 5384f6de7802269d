"""A verification in words: what was found, in plain language, and the protocol stamp (how it was made and scored)."""

from __future__ import annotations

import contextlib
import json
import math
from html import escape
from typing import Any

import xarray as xr

from evaluation import summary
from evaluation.protocols import PROTOCOLS
from evaluation.style import with_units
from evaluation.tables import count

JUDGED = 3  # judged methods that get sentences of their own
RANKED = 3  # more methods than this are also ranked in one sentence
STAMP = (  # the first rows of the protocol, where a forecast says them; whatever else it says comes after
    *("members", "deterministic", "seed", "context", "sampler", "sampler_steps", "preset", "parameters"),
    *(
        "training_steps",
        "weights",
        "residual_inflation",
        "noise_memory",
        "objective",
        "checkpoint",
        "checkpoint_sha256",
    ),
    *("training_dataset_sha256", "dataset_sha256"),
    *("versions", "git_commit"),
)


def summary_html(scores: xr.Dataset) -> str:
    """What was found, as a list in plain words: skill with intervals, where it wins, spread, and the sample."""
    items = summary_sentences(scores, bold="<b>{}</b>", quote=escape)
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items).replace(" %", "\u00a0%") + "</ul>"


def summary_sentences(scores: xr.Dataset, *, bold: str = "{}", quote: Any = str) -> list[str]:
    """The same as sentences; `bold` marks what matters and `quote` escapes names.

    At most `JUDGED` methods get sentences of their own, those of the best CRPS; a ranking names them all.
    """
    a = scores.attrs
    order = ranking(scores)
    judged = [n for n in order if n in summary.candidates(scores)][:JUDGED]
    if len(summary.candidates(scores)) <= JUDGED:
        judged = summary.candidates(scores)
    sentences = [_ranking_words(scores, order, bold, quote)] if len(order) > RANKED else []
    for method in judged:
        gains = [_gain(scores, method, r, bold, quote) for r in summary.references(scores) if r != method]
        if not gains:
            crps = float(
                summary.value(scores, "crps", leads=scores["lead_time"].values.tolist()).sel({"method": method})
            )
            scale, unit = summary.error_unit(scores)
            deviations = f"{crps / scale:.3f} {unit}"
            gains = [
                f"The CRPS of {bold.format(quote(method))} is {deviations}; there is no reference to compare with."
            ]
        sentences += [*gains, _spread_words(scores, method, quote)]
    sentences += [_ceiling_words(scores, n, judged, quote) for n in summary.ceilings(scores)]
    if a.get("cases_left_out"):
        sentences.append(f"{count(a['cases_left_out'], 'case')} that not every method has were left out.")
    members = [
        f"{quote(str(m))} {int(n)}" for m, n in zip(scores["method"].values, scores["members"].values, strict=True)
    ]
    sentences.append(
        f"Scored on {quote(a['variable_long_name'])}: {count(a['cases'], 'case')} from "
        f"{count(a['runs'], _run(scores))}, the same for every method. Members: {', '.join(members)}. "
        f"{interval_words(scores)}"
    )
    return sentences


def ranking(scores: xr.Dataset) -> list[str]:
    """The methods by CRPS over all leads, best first."""
    crps = summary.value(scores, "crps", leads=scores["lead_time"].values.tolist())
    known = {n: float(crps.sel({"method": n})) for n in summary.names_of(scores)}
    return sorted(known, key=lambda n: known[n] if math.isfinite(known[n]) else math.inf)


def _ranking_words(scores: xr.Dataset, order: list[str], bold: str, quote: Any) -> str:
    scale, unit = summary.error_unit(scores)
    crps = summary.value(scores, "crps", leads=scores["lead_time"].values.tolist()) / scale
    parts = [
        f"{bold.format(quote(n)) if n in summary.candidates(scores) else quote(n)} {float(crps.sel({'method': n})):.3f}"
        for n in order
    ]
    return f"By CRPS over all leads, in {unit}: {', '.join(parts)}."


def _ceiling_words(scores: xr.Dataset, name: str, judged: list[str], quote: Any) -> str:
    leads = scores["lead_time"].values.tolist()
    text = f"{quote(name)} is what a forecast with the true equations reaches: nothing can be expected to beat it"
    below = [n for n in judged if n != name]
    if below:
        crps = summary.value(scores, "crps", leads=leads)
        share = 100 * (1 - float(crps.sel({"method": name})) / float(crps.sel({"method": below}).min()))
        text += f"; its CRPS is {share:.1f} % below that of the best judged method"
    return f"{text}. {_spread_words(scores, name, quote)}"


def _gain(scores: xr.Dataset, method: str, reference: str, bold: str, quote: Any) -> str:
    phrases: list[str] = []
    for label, leads in summary.periods(scores).items():
        skill = summary.metric(scores, "crpss", reference=reference, leads=leads).sel({"method": method})
        value, low, high = (100 * float(skill[k]) for k in ("value", "low", "high"))
        ends = (low, high) if value >= 0 else (-high, -low)  # in the sense of the word before them
        interval = f" (95 % interval {ends[0]:.1f} to {ends[1]:.1f} %)" if math.isfinite(low) else ""
        amount = bold.format(f"{abs(value):.1f} % {'lower' if value >= 0 else 'higher'}")
        than = "" if phrases else f" than that of {quote(reference)}"
        phrases.append(f"{amount}{than} over leads {label}{interval}")
    curve = summary.value(scores, "crpss", reference=reference).sel({"method": method})
    wins = int((curve > 0).sum())
    where = "at every lead" if wins == curve.size else f"at {wins} of {curve.size} leads"
    return f"The CRPS of {bold.format(quote(method))} is {' and '.join(phrases)}; it is better {where}."


def _spread_words(scores: xr.Dataset, method: str, quote: Any) -> str:
    name = quote(method)
    if method not in summary.ensembles(scores):
        return f"{name} has one member: its CRPS is the absolute error, and spread and ranks do not apply."
    ratio = summary.value(scores, "spread_skill_ratio").sel({"method": method})
    low, high = float(ratio.min()), float(ratio.max())
    between = f"is {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"lies between {low:.2f} and {high:.2f}"
    return f"The spread-skill ratio of {name} (1 is reliable) {between}."


def interval_words(scores: xr.Dataset) -> str:
    """What the intervals are, or why there are none."""
    runs = scores.attrs["runs"]
    if runs < summary.MINIMUM_RUNS:
        return f"No intervals: they need at least {summary.MINIMUM_RUNS} {_run(scores)}s, and there are {runs}."
    few = f" With only {runs} {_run(scores)}s they are rough." if runs < summary.SURE_RUNS else ""
    return f"Intervals (95 %) come from a paired bootstrap over whole {_run(scores)}s, widened for their number.{few}"


def _run(scores: xr.Dataset) -> str:
    return summary.terms(scores).run


def lead_range(scores: xr.Dataset) -> str:
    """First and last lead, as "1-16"."""
    return list(summary.periods(scores))[-1]


def protocol_html(scores: xr.Dataset) -> str:
    """The stamp: how the forecasts were made (a column for each method) and how they were scored."""
    a = scores.attrs
    made = summary.protocol(scores)
    names = [str(m) for m in scores["method"].values]
    keys = [k for k in STAMP if k == "members" or any(k in made.get(n, {}) for n in names)]
    keys += list(dict.fromkeys(k for n in names for k in made.get(n, {}) if k not in STAMP and k != "method"))
    rows = []
    for key in keys:
        cells = [made.get(n, {}).get(key) for n in names]
        if key == "members":
            cells = [int(m) for m in scores["members"].values]
        if any(c is not None for c in cells):
            rows.append(f'<tr><th scope="row">{escape(_words(key))}</th>{"".join(_stamp(c) for c in cells)}</tr>')
    head = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    forecasts = (
        f'<table class="stamp"><thead><tr><th scope="col">forecast</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    scoring = {
        "variable": f"{a['variable']} ({a['units']})",
        "channels": a.get("channels"),
        "CRPS, errors, spread and ranks are of": a.get("points_of"),
        "families of statistics on one picture": a.get("picture_of"),
        "networks see": a.get("colours_of"),
        f"cases, {_run(scores)}s": f"{count(a['cases'], 'case')} from {count(a['runs'], _run(scores))}",
        f"{_run(scores)}s (trajectory)": _some([str(t) for t in scores["trajectory"].values]),
        "lead times": lead_range(scores),
        "estimator": f"{summary.estimator(scores)} CRPS (absolute error for one member)",
        "protocol": _protocol_words(str(a.get("verification_protocol", ""))),
        "reference": a["reference"] or "none",
        "events": _events(scores),
        "background (climatology of the scorer)": a.get("background"),
        "LPIPS": a.get("lpips"),
        "FVD": a.get("fvd"),
        "intervals": f"paired bootstrap over {_run(scores)}s, expanded percentiles, 1000 resamples, seed 0"
        if a["runs"] >= summary.MINIMUM_RUNS
        else "none",
        "seed of the flatness band": a["seed"],
        "truth SHA-256": a.get("dataset_sha256"),
        "scored with": json.loads(a["software"]) if "software" in a else None,
    }
    rows = [f'<tr><th scope="row">{escape(k)}</th>{_stamp(v)}</tr>' for k, v in scoring.items() if v is not None]
    return (
        f'<div class="table" tabindex="0">{forecasts}</div><p></p>'
        f'<div class="table"><table class="stamp"><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _protocol_words(name: str) -> str | None:
    if name not in PROTOCOLS:
        return None
    which = PROTOCOLS[name]
    cases = f", leads 1 to {which.leads} after frame {which.init_time}" if which.init_time is not None else ""
    return (
        f"{name}: values quantised once to 256 grey levels, classical CRPS in grey levels, predicted frames only"
        f"{cases}; the number of members of the paper was not published: ours is in the table above"
    )


def _some(labels: list[str], most: int = 60) -> str:
    """All labels, or the first and the last of very many."""
    return ", ".join(labels if len(labels) <= most else [*labels[: most // 2], "...", *labels[-most // 2 :]])


def _events(scores: xr.Dataset) -> str | None:
    if "threshold" not in scores.coords:
        return None
    name = summary.terms(scores).picture
    what = f"|{name}|" if int(scores.attrs.get("event_absolute", 0)) else name
    levels = ", ".join(with_units(float(t), scores.attrs["units"]) for t in scores["threshold"].values)
    return f"{what} above {levels}"


def _words(key: str) -> str:
    return key.replace("_sha256", " SHA-256").replace("_", " ")


def _stamp(value: Any) -> str:
    if value is None:
        return '<td class="none">-</td>'
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        return f"<td>{escape(', '.join(f'{k} {v}' for k, v in value.items()))}</td>"
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    long = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f'<td><code title="{text}">{text[:16]}…</code></td>' if long else f"<td>{escape(text)}</td>"
