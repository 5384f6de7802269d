"""Scores of every family, made up from a seeded generator, with a truth that is known by construction."""

import json

import numpy as np
import xarray as xr

DEFAULT = {  # name: (members, error in units of the truth)
    "climatology": (16, 0.56),
    "persistence": (1, 0.8),
    "analog": (16, 0.25),
    "linear-inverse": (16, 0.22),
    "rvd": (16, 0.12),
    "perfect-model": (16, 0.03),
}
TWELVE = {
    "rvd": (16, 0.12),
    "rvd-small": (8, 0.15),
    **{k: v for k, v in DEFAULT.items() if k != "rvd"},
    "damped-persistence": (16, 0.5),
    "linear-extrapolation": (1, 0.9),
    "dmd": (1, 0.35),
    "advection": (1, 0.6),
    "dmd-dressed": (16, 0.3),
}
FAMILIES = {
    "events": ("event_forecast", "event_observed"),
    "fss": ("fss_error", "fss_reference"),
    "pooled": ("crps_pooled", "crps_pooled_max"),
    "multivariate": ("energy_score", "variogram_score"),
    "ssim": ("ssim",),
    "anomaly": ("anomaly_product", "anomaly_forecast_square", "anomaly_truth_square"),
    "spectra": ("power", "power_truth", "cross_power"),
    "pod": ("pod_energy", "pod_energy_truth", "pod_crps", "pod_fraction"),
    "probe": ("probe_power", "probe_power_truth"),
    "pdf": ("pdf", "pdf_truth"),
    "lpips": ("lpips",),
}
SIGMA = 0.01  # standard deviation of the truth


def build(
    methods: dict[str, tuple[int, float]] | None = None,
    *,
    runs: int = 8,
    inits: int = 3,
    leads: int = 16,
    seed: int = 0,
    without: tuple[str, ...] = (),
    size: tuple[int, int] = (16, 32),
) -> xr.Dataset:
    """Scores of `methods`: errors grow with lead time, vary between runs (alike for all methods) and a little more."""
    methods = DEFAULT if methods is None else methods
    rng = np.random.default_rng(seed)
    names, members = list(methods), np.array([m for m, _ in methods.values()])
    single = members == 1
    lead = np.arange(1, leads + 1)
    size_of = {"trajectory": runs, "init_time": inits, "lead_time": leads}
    case, run = ("method", *size_of), ("method", "trajectory", "lead_time")
    growth = 1 - np.exp(-lead / 6)
    hard = np.exp(0.15 * rng.standard_normal((runs, inits, 1)))
    error = np.array([e for _, e in methods.values()])
    flat = np.array([n in ("climatology", "persistence") for n in names])
    shape = np.where(flat[:, None], 1.0, growth + 0.1)[:, None, None]
    noise = np.exp(0.03 * rng.standard_normal((len(names), runs, inits, leads)))
    rmse = SIGMA * 1.8 * error[:, None, None, None] * shape * hard * noise  # (method, trajectory, init_time, lead_time)
    fluid = size[0] * size[1]
    data: dict[str, object] = {
        "crps": (case, rmse / 1.8),
        "crps_classical": (case, rmse / 1.8 * (1 + 0.3 / members)[:, None, None, None]),
        "squared_error": (case, rmse**2),
        "absolute_error": (case, rmse * 0.8),
        "bias": (case, 0.02 * SIGMA * rng.standard_normal(rmse.shape)),
        "variance": (case, np.where(single[:, None, None, None], np.nan, 0.8 * rmse**2)),
        "truth_mean": (case[1:], np.zeros(rmse.shape[1:])),
        "truth_mean_square": (case[1:], np.full(rmse.shape[1:], SIGMA**2)),
        "members": (("method",), members),
        "deterministic": (("method",), single.astype(int)),
        "ssim": (case, 1 - np.minimum(rmse / SIGMA, 1.8) / 2),
        "energy_score": (case, rmse / 1.7),
        "variogram_score": (case, rmse / 10),
        "anomaly_product": (case, SIGMA**2 * (1 - np.minimum((rmse / SIGMA) ** 2 / 3, 0.99))),
        "anomaly_forecast_square": (case, np.full(rmse.shape, SIGMA**2)),
        "anomaly_truth_square": (case, np.full(rmse.shape, SIGMA**2)),
        "lpips": (case, np.minimum(rmse / SIGMA, 1) * 0.4),
    }
    scale = np.array([2, 4, 8])
    pooled = rmse[..., None] / 1.8 / scale**0.4
    data |= {"crps_pooled": ((*case, "scale"), pooled), "crps_pooled_max": ((*case, "scale"), 1.5 * pooled)}
    data |= _ranks(rng, members, runs, leads, run)
    data |= _events(rng, members, error, runs, leads, run, inits * fluid)
    threshold, window = np.array([0.005, 0.01, 0.02]), np.array([1, 3, 5, 9, 17])
    reference = np.ones((len(names), runs, leads, 3, 5)) * 0.2 * inits * fluid
    part = np.minimum((rmse.mean(2) / SIGMA)[..., None, None] / window**0.5, 1) * np.array([0.8, 1.0, 1.2])[:, None]
    data["fss_error"] = ((*run, "threshold", "window"), np.minimum(part, 1) * reference)
    data["fss_reference"] = ((*run, "threshold", "window"), reference)
    data |= _spectra(rng, rmse.mean(2) / SIGMA, run)
    data |= _modes(rng, rmse.mean(2) / SIGMA, run)
    data |= _probes(rng, len(names), runs)
    edges = np.linspace(-4 * SIGMA, 4 * SIGMA, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    pdf_truth = _normalised(np.exp(-(((centres - 0.1 * SIGMA) / SIGMA) ** 2) / 2))
    wide = SIGMA * (1 - 0.4 * np.minimum(rmse.mean(2) / SIGMA, 1))[..., None]
    data["pdf"] = ((*run, "bin"), _normalised(np.exp(-((centres / wide) ** 2) / 2)))
    data["pdf_truth"] = ((*run[1:], "bin"), np.broadcast_to(pdf_truth, (runs, leads, 40)).copy())
    data |= _maps(rng, rmse, size, runs)
    data["fvd_floor"] = (("method",), np.full(len(names), np.nan))
    data["fvd"] = (("method",), np.full(len(names), np.nan))
    data["frechet_physics"] = (("method",), 1 + 30 * error)
    data["frechet_physics_floor"] = ((), 0.9)
    scores = xr.Dataset(
        data,
        coords={
            "method": np.array(names, object),
            "trajectory": 20 + np.arange(runs),
            "init_time": 60 + 40 * np.arange(inits),
            "lead_time": lead,
            "rank": np.arange(members.max() + 1),
            "exceeding": np.arange(members.max() + 1),
            "threshold": threshold,
            "window": window,
            "scale": scale,
            "wavenumber": np.arange(1, 24) / 32,
            "mode": np.arange(1, 13),
            "bin": centres,
            "frequency": np.arange(1, 33) / 64,
            "probe_y": ("probe", [8, 11]),
            "probe_x": ("probe", [16, 24]),
            "y": np.arange(size[0]),
            "x": np.arange(size[1]),
            "block": ("trajectory", np.arange(runs) * min(runs, 8) // runs),
        },
    )
    for name in (n for family in without for n in FAMILIES[family]):
        scores = scores.drop_vars(name)
    protocol = {n: {"method": n, "members": int(m), "seed": 7} for n, m in zip(names, members, strict=True)}
    scores.attrs = {
        "schema_version": 1,
        "variable": "vorticity",
        "variable_long_name": "vorticity",
        "units": "1/tick",
        "lead_unit": "frames of 64 ticks",
        "cases": runs * inits,
        "runs": runs,
        "reference": next((n for n in ("climatology", "persistence") if n in names and len(names) > 1), ""),
        "seed": 0,
        "protocol": json.dumps(protocol),
        "software": json.dumps({"python": "3.12"}),
        "estimator": "fair",
        "verification_protocol": "",
        "event_absolute": 1,
        "data_range": 8 * SIGMA,
        "lpips": "alex trunk",
        "fvd": "unavailable: no weights of the network; see the how-to",
        "probe_strouhal": "the record of 64 frames resolves 1/64 cycles per frame",
    }
    return scores


def _normalised(density: np.ndarray) -> np.ndarray:
    return density / density.sum(-1, keepdims=True)


def _ranks(rng, members, runs, leads, run):
    top = members.max() + 1
    counts, null = np.zeros((len(members), runs, leads, top)), np.zeros((len(members), 50, leads, top))
    for m, number in enumerate(members):
        if number > 1:
            rank = np.arange(number + 1)
            bent = 1 + 0.8 * (2 * rank / number - 1) ** 2 if m % 2 else np.ones(number + 1)
            share = bent / bent.sum()
            counts[m, ..., : number + 1] = rng.multinomial(600, share, (runs, leads))
            null[m, ..., : number + 1] = rng.multinomial(600, np.full(number + 1, 1 / (number + 1)), (50, leads))
    return {"rank_count": ((*run, "rank"), counts), "rank_null": (("method", "replicate", *run[2:], "rank"), null)}


def _events(rng, members, error, runs, leads, run, cells):
    """Forecast probabilities of a beta law; the truth happens with p shrunk to the base rate as errors grow."""
    top = members.max() + 1
    forecast, observed = np.zeros((2, len(members), runs, leads, 3, top))
    for m, number in enumerate(members):
        k = np.arange(number + 1)
        p = k / number
        for t, base in enumerate((0.4, 0.2, 0.06)):
            law = _normalised((p + 0.02) ** (base - 1) * (1.02 - p) ** (-base))
            n = np.round(law * cells * (1 + 0.02 * rng.standard_normal((runs, leads, 1)))).clip(min=0)
            sharp = np.clip(1 - error[m] * np.linspace(0.6, 1.4, leads), 0.05, 1)[:, None]
            forecast[m, ..., t, : number + 1] = n
            happens = np.clip(sharp * p + (1 - sharp) * base, 0, 1)
            observed[m, ..., t, : number + 1] = rng.binomial(n.astype(int), happens)
    dims = (*run, "threshold", "exceeding")
    return {"event_forecast": (dims, forecast), "event_observed": (dims, observed)}


def _spectra(rng, error, run):
    k = np.arange(1, 24)
    truth = k**-2.5 * np.exp(-((k / 14.0) ** 2)) * SIGMA**2
    runs, leads = error.shape[1:]
    wobble = np.exp(0.1 * rng.standard_normal((runs, leads, 23)))
    power_truth = truth * wobble
    power = power_truth * (1 - 0.6 * np.minimum(error[..., None], 1) * k / 24)
    noise = np.minimum(error[..., None] ** 1.5 * np.exp(k / 5.0) * 0.5, 1)
    cross = np.sqrt(power * power_truth) * np.sqrt(1 - noise)
    dims = (*run, "wavenumber")
    return {"power": (dims, power), "power_truth": (dims[1:], power_truth), "cross_power": (dims, cross)}


def _modes(rng, error, run):
    mode = np.arange(1, 13)
    runs, leads = error.shape[1:]
    truth = SIGMA**2 * 300 * np.exp(-mode / 2.0) * np.exp(0.1 * rng.standard_normal((runs, leads, 12)))
    ratio = 1 - 0.5 * np.minimum(error[..., None], 1) * mode / 12
    crps = np.sqrt(truth) * np.minimum(error[..., None], 1) * (0.3 + mode / 24)
    fraction = np.exp(-mode / 2.0)
    dims = (*run, "mode")
    return {
        "pod_energy": (dims, truth * ratio),
        "pod_energy_truth": (dims[1:], truth),
        "pod_crps": (dims, crps),
        "pod_fraction": (("mode",), fraction / fraction.sum() * 0.98),
    }


def _probes(rng, methods, runs):
    f = np.arange(1, 33) / 64
    line = 1e-5 * (np.exp(-(((f - 0.125) / 0.012) ** 2)) + 0.15 * np.exp(-(((f - 0.25) / 0.012) ** 2)))
    truth = (line + 1e-8 / f) * np.exp(0.2 * rng.standard_normal((runs, 2, 32)))
    shift = 1e-5 * np.exp(-(((f - 0.13) / 0.02) ** 2)) + 3e-8 / f
    power = shift * np.exp(0.2 * rng.standard_normal((methods, runs, 2, 32)))
    dims = ("method", "trajectory", "probe", "frequency")
    return {"probe_power": (dims, power), "probe_power_truth": (dims[1:], truth)}


def _maps(rng, rmse, size, runs):
    blocks = min(runs, 8)
    y, x = np.mgrid[: size[0], : size[1]]
    wake = 0.3 + np.exp(-(((y - size[0] / 2) / (size[0] / 5)) ** 2)) * (x > 6)
    solid = (np.abs(y - size[0] / 2) < 2) & (np.abs(x - 7) < 2)
    base = rmse.mean((1, 2)) / 1.8
    wobble = np.exp(0.2 * rng.standard_normal((len(base), blocks, 1, *size)))
    crps = np.where(solid, np.nan, base[:, None, :, None, None] * wake * wobble)
    flat = np.where(solid, np.nan, base[..., None, None] ** 2 * wake)
    return {
        "crps_map": (("method", "block", "lead_time", "y", "x"), crps),
        "variance_map": (("method", "lead_time", "y", "x"), flat),
        "squared_error_map": (("method", "lead_time", "y", "x"), flat * 1.2),
        "fluid_cases": (("block", "y", "x"), np.broadcast_to(np.where(solid, 0, 3), (blocks, *size)).copy()),
    }
