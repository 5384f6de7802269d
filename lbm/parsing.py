"""Texts of the command line as values of a configuration: sizes, lists, obstacles, sweeps, ranges.

Each function takes what a user wrote, a text or the value itself as TOML gives it, and returns what pydantic then
checks. What cannot be read is a `ValueError` that says what was wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lbm.errors import UsageError

MAX_VALUES = 1_000_000  # of one swept parameter
SIZE_WORDS = ("diameter", "side", "chord", "width")  # what people call the size of one shape or another
WHOLE = ("seed", "startup", "sponge_length")  # swept parameters that count something


def pair_of_sizes(value: Any) -> Any:
    """ "64x128" as (64, 128): height first."""
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 19 for part in parts):
            raise ValueError("wanted NYxNX, height first, such as 64x128")
        return tuple(int(part) for part in parts)
    return value


def numbers(value: Any) -> Any:
    """ "0.8,0.1,0.1" as a tuple of floats."""
    if isinstance(value, str):
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            raise ValueError("wanted numbers separated by commas") from None
    return value


def names(value: Any) -> Any:
    """ "vorticity,density" as a tuple of words."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def obstacle_tables(value: Any) -> Any:
    """ "cylinder", "naca:size=24,angle=-8", "none", or a list of these and of tables, as a tuple of tables."""
    if isinstance(value, str | Mapping):
        value = (value,)
    if not isinstance(value, Sequence):
        return value
    tables = [_obstacle(one) if isinstance(one, str) else one for one in value]
    if any(isinstance(one, str) and one.strip() == "none" for one in value):
        if len(tables) > 1:
            raise ValueError("'none' stands alone: leave it out, or leave out the others")
        return ()
    return tuple(tables)


def _obstacle(text: str) -> dict[str, Any]:
    shape, _, options = text.partition(":")
    table: dict[str, Any] = {"shape": shape.strip()}
    # A comma followed by `key=` begins the next key; any other belongs to a value such as 24,32.
    for option in re.split(r",(?=\s*\w+\s*=)", options) if options.strip() else []:
        key, equals, raw = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise ValueError(f"wanted shape:key=value,key=value, such as cylinder:centre=24,32,size=12; got {text!r}")
        if key in SIZE_WORDS:
            key = "size"
        if key in table:
            raise ValueError(f"{key} is given twice in {text!r}")
        table[key] = raw
    return table


def flat_pairs(value: Any) -> Any:
    """ "0,0,1,0,0,1" as ((0, 0), (1, 0), (0, 1))."""
    if isinstance(value, str):
        flat = numbers(value)
        if len(flat) % 2:
            raise ValueError("wanted x,y,x,y,...: an even number of numbers")
        return tuple(zip(flat[::2], flat[1::2], strict=True))
    return value


def sweep_table(value: Any) -> Any:
    """{"seed": "0:8", "viscosity": "0.01,0.02"} with each text as a tuple of numbers."""
    if not isinstance(value, Mapping):
        raise ValueError("wanted a table of lists, such as viscosity = [0.01, 0.02]")
    return {name: _values(name, one) for name, one in value.items()}


def _values(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = [number for part in value.split(",") for number in _range(name, part.strip())]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name}: wanted numbers, such as 0.01,0.02 or 0:8")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        raise ValueError(f"{name}: wanted numbers only, got {value!r:.60}")
    return tuple(value) if name in WHOLE else tuple(float(number) for number in value)


def _range(name: str, text: str) -> Sequence[int | float]:
    """ "0:8" as 0, 1, .. 7, "80:400:20" with a step, "0.01" as itself."""
    try:
        if ":" not in text:
            return (int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text),)
        ends = [int(part) for part in text.split(":") if len(part) < 19]
        whole = range(*ends) if len(ends) == text.count(":") + 1 else range(0)
    except (ValueError, TypeError):
        raise ValueError(f"{name}: got {text!r:.40}, wanted a number or a range a:b or a:b:step of integers") from None
    if not 0 < len(whole) <= MAX_VALUES:
        raise ValueError(f"{name}: the range {text!r:.40} holds {'too many' if len(whole) else 'no'} numbers")
    return whole


def interval_table(value: Any) -> Any:
    """{"reynolds": "150:200,300:320"} with each text as a tuple of (low, high)."""
    if not isinstance(value, Mapping):
        raise ValueError("wanted a table of [low, high], such as reynolds = [[150, 200]]")
    return {name: _intervals(name, one) for name, one in value.items()}


def _intervals(name: str, value: Any) -> Any:
    if isinstance(value, str):
        parts = [part.split(":") for part in value.split(",")]
        try:
            return tuple((float(low), float(high)) for low, high in (p * 2 if len(p) == 1 else p for p in parts))
        except ValueError:
            raise ValueError(f"{name}: got {value!r:.40}, wanted low:high, such as 150:200") from None
    if isinstance(value, Sequence) and len(value) == 2 and not any(isinstance(end, Sequence) for end in value):
        return (tuple(value),)  # one interval without its outer brackets
    return value


def integers(text: str | None, option: str) -> list[int] | None:
    """ "3,19,35" or "3:200:16" (the end left out) as numbers, for an option. Raises `UsageError`."""
    if text is None:
        return None
    try:
        found = [number for part in text.split(",") for number in _range(option, part.strip())]
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not all(isinstance(number, int) for number in found):
        raise UsageError(f"{option}: got {text!r:.40}, wanted integers, such as 20,60 or 20:200:20")
    return [int(number) for number in found]


def grids(text: str, option: str) -> list[tuple[int, int]]:
    """ "128x128,256x512" as pairs, height first, for an option. Raises `UsageError`."""
    try:
        return [pair_of_sizes(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option}: got {text!r:.40}: {error}") from None


def tables(texts: Sequence[str] | None, option: str) -> dict[str, str] | None:
    """["seed=0:8", "viscosity=0.01,0.02"] as {"seed": "0:8", ...}, for an option. Raises `UsageError`."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not name or not values:
            raise UsageError(f"{option} wants NAME=VALUES, such as seed=0:8 or viscosity=0.01,0.02; got {text!r:.60}")
        if name in found:
            raise UsageError(f"{option} {name} is given twice: put all its values into one, separated by commas")
        found[name.replace("-", "_")] = values
    return found or None
