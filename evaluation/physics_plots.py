"""Figures of the flow: spectra in space, coherence and resolution, spectra in time at probes, POD modes, values.

The truth is a thick dark line. All spectra are those of single members, averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from evaluation import summary
from evaluation.curves import TRUTH, all_leads, curves, line, shown, some_leads
from evaluation.errors import EvaluationError
from evaluation.percentiles import expanded_level
from evaluation.resampling import bootstrap, resampled_means
from evaluation.style import INK, MUTED, figure, key, looks, with_units


def mean_of(
    scores: xr.Dataset, names: Sequence[str], formula: Callable[[xr.Dataset], xr.DataArray], leads: list[int] | None
) -> xr.Dataset:
    """A function of means over runs of stored statistics, with its interval: `value`, `low`, `high`."""
    absent = [n for n in names if n not in scores]
    if absent:
        raise EvaluationError(f"{', '.join(absent)} is not in the scores: it was not asked for, or not available")
    runs, cases = summary.run_means(scores, names, leads)
    if scores.sizes["trajectory"] < summary.MINIMUM_RUNS:
        once = np.ones((1, cases.size), np.int64)
        value = formula(resampled_means(runs, once, weights=cases)).isel(resample=0)
        nothing = xr.full_like(value, np.nan)
        return xr.Dataset({"value": value, "low": nothing, "high": nothing})
    level = expanded_level(0.95, scores.sizes["trajectory"])
    found = bootstrap(runs, formula, weights=cases, level=level, resamples=400)
    return found[["estimate", "lower", "upper"]].rename(estimate="value", lower="low", upper="high")


def spectra(scores: xr.Dataset) -> Figure:
    """Top: variance by wavenumber of members and truth at three leads. Bottom: members over truth, 1 is best."""
    leads = some_leads(scores)
    names = summary.names_of(scores)
    styles = looks(names)
    with figure(max(3.6 * len(leads) + 0.4, 6.0), 6.0) as drawing:
        grid = drawing.subplots(2, len(leads), sharex=True, sharey="row", squeeze=False, height_ratios=[1.5, 1])
        known: list[str] = []
        widest = 2.0
        for (top, bottom), lead in zip(grid.T, leads, strict=True):
            ratio = mean_of(scores, ["power", "power_truth"], _ratio, [lead])
            power = mean_of(scores, ["power"], lambda m: m["power"], [lead])
            truth = mean_of(scores, ["power_truth"], lambda m: m["power_truth"], [lead])
            known = shown(ratio)
            top.plot(truth["wavenumber"], truth["value"], color=INK, linewidth=2.6)
            for name in known:
                look = styles[name]
                part = power["value"].sel({"method": name})
                top.plot(part["wavenumber"], part, color=look.colour, linestyle=look.dash, linewidth=look.width)
                line(bottom, ratio.sel({"method": name}), look, along="wavenumber", band=not summary.is_reference(name))
            top.set(xscale="log", yscale="log")
            floor = truth["value"].values[truth["wavenumber"].values <= 0.5]
            floor = floor[floor > 0]
            if floor.size:
                top.set_ylim(floor.min() / 30, floor.max() * 5)
            top.set_title(f"lead {lead}")
            bottom.axhline(1, color=INK, linewidth=1)
            bottom.set_yscale("log", base=2)
            bottom.yaxis.set_major_locator(FixedLocator([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16]))
            bottom.yaxis.set_major_formatter(FuncFormatter(lambda r, _: f"{r:g}"))
            found = ratio["value"].values[..., ratio["wavenumber"].values <= 0.5]
            found = found[np.isfinite(found)].clip(1 / 16, 16)
            widest = max([widest, *found, *(1 / found)])
            _wave_axis(bottom, scores)
        grid[1, 0].set_ylim(1 / widest / 1.05, widest * 1.05)
        grid[0, 0].set_ylabel(f"variance per shell\n({_squared(scores)})")
        grid[1, 0].set_ylabel("members / truth")
        key(drawing, known, names, first=[TRUTH])
    return drawing


def _ratio(means: xr.Dataset) -> xr.DataArray:
    return means["power"] / means["power_truth"].where(means["power_truth"] > 0)


def _wave_axis(axes: Axes, scores: xr.Dataset) -> None:
    """Wavenumbers as the wavelengths they stand for, from long to short."""
    k = scores["wavenumber"].values
    axes.set_xscale("log")
    axes.set_xlim(k[0] * 0.95, max(0.5, k[0] * 2))
    waves = [w for w in (512, 256, 128, 64, 32, 16, 8, 4, 2) if k[0] * 0.95 <= 1 / w]
    axes.set_xticks([1 / w for w in waves], [str(w) for w in waves])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlabel(f"wavelength ({summary.terms(scores).cells})")


def coherence(scores: xr.Dataset) -> Figure:
    """Squared coherence of members and truth by wavelength at two leads, and the effective resolution by lead time."""
    leads = [lead for i, lead in enumerate(some_leads(scores)) if i != 1 or len(some_leads(scores)) < 3]
    names = summary.names_of(scores)
    curve = summary.metric(scores, "coherence")
    resolution = summary.metric(scores, "effective_resolution")
    known = shown(curve)
    with figure(3.5 * (len(leads) + 1) + 0.4, 4.4) as drawing:
        panels = drawing.subplots(1, len(leads) + 1, squeeze=False)[0]
        for axes, lead in zip(panels, leads, strict=False):
            curves(axes, scores, curve.sel(lead_time=lead), along="wavenumber")
            axes.axhline(0.5, color=INK, linewidth=1)
            axes.set_ylim(0, 1.02)
            _wave_axis(axes, scores)
            axes.set_title(f"Squared coherence, lead {lead}")
        panels[0].set_ylabel("squared coherence (above 0.5: resolved)")
        last = panels[-1]
        curves(last, scores, resolution)
        last.set_yscale("log", base=2)
        last.yaxis.set_major_formatter(FuncFormatter(lambda w, _: f"{w:g}"))
        last.set_ylabel(f"effective resolution ({summary.terms(scores).cells})")
        last.set_title("Finest wave resolved: lower is better")
        key(drawing, known, names)
    return drawing


def probes(scores: xr.Dataset) -> Figure:
    """Spectrum in time at each probe (at most three): truth with its interval, members, the strongest frequency."""
    truth = mean_of(scores, ["probe_power_truth"], lambda m: m["probe_power_truth"], None)
    power = mean_of(scores, ["probe_power"], lambda m: m["probe_power"], None)
    names = summary.names_of(scores)
    styles = looks(names)
    known = shown(power)
    count = min(scores.sizes["probe"], 3)
    with figure(max(4.6 * count + 0.6, 6.0), 4.6) as drawing:
        panels = drawing.subplots(1, count, sharey=True, squeeze=False)[0]
        frequency = scores["frequency"].values.astype(float)
        for i, axes in enumerate(panels):
            here = truth.isel(probe=i)
            axes.fill_between(frequency, here["low"], here["high"], color=INK, alpha=0.12, linewidth=0)
            axes.plot(frequency, here["value"], color=INK, linewidth=2.6)
            for name in known:
                line(axes, power.isel(probe=i).sel({"method": name}), styles[name], along="frequency", band=False)
            values = here["value"].values[frequency > 0]
            if np.isfinite(values).any() and values.max() > 0:
                peak = float(frequency[frequency > 0][int(np.nanargmax(values))])
                slower = "\n(or slower: the lowest one)" if peak == frequency[frequency > 0][0] else ""
                factor = scores.attrs.get("strouhal_factor")  # Strouhal number of a frequency of 1
                step = float(frequency[-1] - frequency[-2]) if frequency.size > 1 else np.nan
                number = f"\n(St {factor * peak:.2g} ± {factor * step / 2:.1g})" if factor else ""
                axes.axvline(peak, color=MUTED, linewidth=1, linestyle="--", zorder=1)
                axes.annotate(
                    f"strongest in the truth:\n{peak:.3g} per frame{number}{slower}", (peak, 1), (4, -4),
                    xycoords=("data", "axes fraction"), textcoords="offset points", va="top", color=MUTED, fontsize=8,
                )  # fmt: skip
                axes.set_ylim(max(values[values > 0].min() / 30, values.max() * 1e-7), values.max() * 20)
            axes.set_yscale("log")
            axes.set_xlabel("frequency (cycles per frame)")
            axes.set_title(_probe_words(scores, i))
        panels[0].set_ylabel(f"variance per frequency\n({_squared(scores)})")
        key(drawing, known, names, first=[TRUTH])
    return drawing


def _probe_words(scores: xr.Dataset, i: int) -> str:
    if "probe_y" not in scores.coords:
        return f"probe {i + 1}"
    return f"probe at y = {float(scores['probe_y'][i]):g}, x = {float(scores['probe_x'][i]):g}"


def resolution_words(scores: xr.Dataset) -> str:
    """What the probe spectra can tell apart, in words."""
    frequency = scores["frequency"].values.astype(float)
    step = float(np.diff(frequency).mean()) if frequency.size > 1 else float("nan")
    said = [str(v) for k, v in scores.attrs.items() if str(k).startswith("probe_strouhal") and isinstance(v, str)]
    return f"Frequencies are told apart in steps of {step:.3g} cycles per frame. {' '.join(said)}".strip()


def modes(scores: xr.Dataset) -> Figure:
    """Left: mean square coefficient of each POD mode, members and truth. Right: CRPS of the coefficients."""
    leads = all_leads(scores)
    names = summary.names_of(scores)
    styles = looks(names)
    energy = mean_of(scores, ["pod_energy"], lambda m: m["pod_energy"], leads)
    truth = mean_of(scores, ["pod_energy_truth"], lambda m: m["pod_energy_truth"], leads)
    relative = mean_of(
        scores, ["pod_crps", "pod_energy_truth"], lambda m: m["pod_crps"] / m["pod_energy_truth"] ** 0.5, leads
    )
    known = shown(energy)
    with figure(10.2, 4.5) as drawing:
        left, right = drawing.subplots(1, 2)
        left.fill_between(truth["mode"], truth["low"], truth["high"], color=INK, alpha=0.12, linewidth=0)
        left.plot(truth["mode"], truth["value"], color=INK, linewidth=2.6)
        for name in known:
            line(left, energy.sel({"method": name}), styles[name], along="mode", band=False)
            line(right, relative.sel({"method": name}), styles[name], along="mode", band=not summary.is_reference(name))
        left.set_yscale("log")
        left.set_ylabel(f"mean square coefficient ({_squared(scores)})")
        left.set_title("Energy of the modes, all leads")
        right.set_ylim(bottom=0)
        right.set_ylabel("CRPS / root mean square\nof the coefficient of the truth")
        right.set_title("CRPS of the coefficients: lower is better")
        for axes in (left, right):
            axes.set_xlabel("mode (1: most energy)")
            axes.xaxis.get_major_locator().set_params(integer=True)
        if "pod_fraction" in scores:
            share = 100 * float(scores["pod_fraction"].sum())
            left.text(0.98, 0.97, f"these modes: {share:.1f} % of the variance", transform=left.transAxes, ha="right",
                      va="top", fontsize=8.5, color=MUTED)  # fmt: skip
        key(drawing, known, names, first=[TRUTH])
    return drawing


def distributions(scores: xr.Dataset) -> Figure:
    """Distribution of the values of members and truth at the first and the last lead, on a logarithmic scale."""
    leads = list(dict.fromkeys((all_leads(scores)[0], all_leads(scores)[-1])))
    names = summary.names_of(scores)
    styles = looks(names)
    scale = 1.0 if summary.terms(scores).video else summary.truth_deviation(scores)
    x = scores["bin"].values / scale
    known: list[str] = []
    with figure(max(4.8 * len(leads) + 0.4, 6.0), 4.5) as drawing:
        panels = drawing.subplots(1, len(leads), sharey=True, squeeze=False)[0]
        for axes, lead in zip(panels, leads, strict=True):
            truth = mean_of(scores, ["pdf_truth"], lambda m: m["pdf_truth"], [lead])["value"].values
            pdf = mean_of(scores, ["pdf"], lambda m: m["pdf"], [lead])
            known = shown(pdf)
            axes.plot(x, np.where(truth > 0, truth, np.nan), color=INK, linewidth=2.6)
            for name in known:
                look, values = styles[name], pdf["value"].sel({"method": name}).values
                values = np.where(values > 0, values, np.nan)
                axes.plot(x, values, color=look.colour, linestyle=look.dash, linewidth=look.width)
            axes.set_yscale("log")
            if (truth > 0).any():
                axes.set_ylim(max(truth[truth > 0].min() / 3, 1e-6), truth.max() * 3)
            axes.set_xlabel(_value_words(scores))
            axes.set_title(f"lead {lead}")
        one = "" if summary.terms(scores).video else f"\n(1 deviation = {with_units(scale, scores.attrs['units'])})"
        panels[0].set_ylabel(f"fraction of {summary.terms(scores).cells}{one}")
        key(drawing, known, names, first=[TRUTH])
    return drawing


def _value_words(scores: xr.Dataset) -> str:
    words = summary.terms(scores)
    return f"{words.picture} ({scores.attrs['units'] if words.video else 'standard deviations'})"


def _squared(scores: xr.Dataset) -> str:
    units = scores.attrs["units"]
    return "1" if units in ("", "1") else f"({units})²"
