"""What `rvdflow.info.describe` found, in words for people."""

from __future__ import annotations

from typing import Any

from lbm.console import duration, size

Found = dict[str, Any]
ARCHITECTURES = {"compact": "one shared pyramid", "published": "the published networks"}


def lines(found: Found, indent: str = "") -> list[str]:
    """`describe`'s answer as text: a run in words, anything else as an indented list."""
    if found.get("kind") == "run":
        return in_words(found)
    width = max((len(str(key)) for key in found), default=0)
    text = []
    for key, value in found.items():
        if isinstance(value, dict) and value:
            text += [f"{indent}{key}", *lines(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            text.append(f"{indent}{key!s:{width}}  {shown}")
    return text


def in_words(found: Found) -> list[str]:
    """A run, as a person would tell of it: one line for each thing that is known."""
    training = found["training"]
    said = {
        "model": _model_words(found),
        "data": _data_words(found.get("data")),
        "training": _progress_words(training),
        "speed": _speed_words(training),
        "memory": training["peak_memory_mib"] and f"{size(training['peak_memory_mib'] * 2**20)} at most",
        "skipped": f"{training['skipped']} steps whose loss or gradient was not finite" if training["skipped"] else "",
        "validation": _validation_words(training["validation"]),
        "spread": _spread_words(found),
        "forecasts": _file_words(found),
        "software": _software_words(found.get("software", {}).get("versions", "")),
    }
    state = "finished" if found["finished"] else f"training ({found['writer']})" if found["writer"] else "not finished"
    return [f"{found['path']}: {state}", *(f"  {name:<11}{text}" for name, text in said.items() if text)]


def _model_words(found: Found) -> str:
    config = found["config"]
    model = config.get("model", {})
    if config.get("system", "rvd") != "rvd":
        named = config.get("preset") or ""
        return ", ".join(
            [f"preset {named}" if named else config["system"]]
            + [f"{found['parameters']:,} parameters"] * bool(found.get("parameters"))
        )
    objective = "one-step members trained by their CRPS" if model.get("objective") == "crps" else "residual diffusion"
    if model.get("mean") == "zero" and model.get("objective") != "crps":
        objective = "diffusion of whole frames"
    parts = [f"preset {config['preset']}" if config.get("preset") else "", objective,
             ARCHITECTURES.get(model.get("architecture"), ""),
             f"{found['parameters']:,} parameters" if found.get("parameters") else ""]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _data_words(data: Found | None) -> str:
    if not data:
        return ""
    height, width = data.get("frame_size", ("?", "?"))
    channels = f" in {', '.join(data['channels'])}" if data.get("channels") else ""
    unit = "s" if channels else "ticks"
    every = f", every {data['frame_interval']} {unit}" if data.get("frame_interval") else ""
    digest = f", SHA-256 {data['sha256'][:12]}..." if data.get("sha256") else ""
    return f"{', '.join(data.get('variables', []))}{channels} on {height} x {width} pixels{every}{digest}"


def _progress_words(training: Found) -> str:
    steps, minutes = training["steps"], training["minutes"]
    wanted = f" of {training['steps_wanted']:,}" if training["steps_wanted"] else ""
    took = f" in {duration(60 * minutes)}" if minutes else ""
    budget = f" of {duration(60 * training['minutes_wanted'])}" if training["minutes_wanted"] and took else ""
    return f"{steps:,}{wanted} steps{took}{budget}"


def _speed_words(training: Found) -> str:
    if not training["clips_per_second"]:
        return ""
    clips, frames, step = (training[n] for n in ("clips_per_second", "frames_per_second", "seconds_per_step"))
    return f"{clips:.3g} clips/s, {frames:.3g} frames/s, {step:.3g} s per step (validations left out)"


def _validation_words(best: Found | None) -> str:
    if best is None:
        return ""
    crps = best["score"] == "validation_crps"
    error = f" ± {best['standard_error']:.2g}" if best["standard_error"] is not None else ""
    when = f", {duration(60 * best['minutes'])}" if best["minutes"] else ""
    score = f"fair CRPS {best['value']:.4g}{error} in normalised units at best" if crps else f"loss {best['value']:.4g}"
    return f"{score} (step {best['step']:,}{when}; {best['validations']} made)"


def _spread_words(found: Found) -> str:
    if "inflation" not in found:
        return "not calibrated" if found["finished"] else ""
    ratios = found.get("validation_spread_skill") or []
    reached = f", spread-skill ratio {min(ratios):.2f} to {max(ratios):.2f} on validation runs" if ratios else ""
    return f"residual inflated by {found['inflation']:.3g}{reached}"


def _file_words(found: Found) -> str:
    if "file" not in found:
        return "no checkpoint yet"
    return f"use {found['file']} of step {found['step']:,} (SHA-256 {found['sha256'][:12]}...)"


def _software_words(versions: str) -> str:
    return ", ".join(v for v in versions.split(", ") if v.split(" ")[0] in ("python", "rvdflow", "torch"))
