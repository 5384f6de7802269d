"""A trajectory, a clip or a member of a forecast as a film: colours by what the field is, obstacles grey, by Pillow.

    diverging    blue - white - red about 0 (vorticity, velocity_y) or about the mean (density)
    sequential   dark violet - green - yellow from the least value, or from 0, upwards (velocity_x, speed)

The colours run through fixed stops, so no plotting library is needed and a film looks the same everywhere. Frames of
natural video, of 8 bits in one or three channels, are shown as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lbm import dataset, store
from lbm.errors import DataError, UsageError

if TYPE_CHECKING:
    import xarray as xr

# Stops from the lower end to the upper one, both fit for the colour-blind: ColorBrewer RdBu reversed, and viridis.
DIVERGING = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ],
    dtype=float,
)  # fmt: skip
SEQUENTIAL = np.array(
    [
        (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
        (34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
    ],
    dtype=float,
)  # fmt: skip
SCALES = {  # how a field is shown; others by their sign
    "vorticity": "about zero", "velocity_y": "about zero", "density": "about the mean",
    "velocity_x": "from the least", "speed": "from zero",
}  # fmt: skip
SOLID = (128, 128, 128)
MISSING = (255, 255, 255)
WIDTH = 512  # pixels a film is enlarged to, about
MAX_PIXELS = 400_000_000  # of all frames together, in memory
FLOW = ("trajectory", "time", "y", "x")
FORECAST = ("trajectory", "init_time", "member", "lead_time", "y", "x")
VIDEO = ((*FLOW[:-2], "channel", *FLOW[-2:]), (*FORECAST[:-2], "channel", *FORECAST[-2:]))  # a dataset, a forecast


def colours(
    values: np.ndarray, limit: float, solid: np.ndarray | None = None, *, low: float | None = None
) -> np.ndarray:
    """RGB (..., y, x, 3) uint8 of a field (..., y, x): diverging from -limit to limit, or sequential from `low`.

    `solid` (y, x) pixels are grey, NaN is white. Values beyond the ends take their colours.
    """
    # an odd number of entries, so that the middle has one of its own
    stops, table = DIVERGING if low is None else SEQUENTIAL, np.empty((255, 3), np.uint8)
    for channel in range(3):
        at = np.linspace(0, len(stops) - 1, len(table))
        table[:, channel] = np.round(np.interp(at, np.arange(len(stops)), stops[:, channel]))
    bottom = -limit if low is None else low
    share = np.nan_to_num(np.clip((values - bottom) / (limit - bottom), 0, 1))
    rgb = table[np.round(share * (len(table) - 1)).astype(np.intp)]
    rgb[np.isnan(values)] = MISSING
    if solid is not None:
        rgb[..., solid, :] = SOLID
    return rgb


def animate(
    path: Path | str,
    output: Path | str | None = None,
    *,
    variable: str | None = None,
    trajectory: int = 0,
    member: int = 0,
    init_time: int | None = None,
    start: int = 0,
    frames: int | None = None,
    scale: int | None = None,
    fps: float = 20.0,
    limit: float | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write `frames` frames (at most 200 unless said) of a trajectory as WebP or GIF; returns the path.

    `variable` is a field of the dataset, or "speed" where it has both velocities; by default vorticity, or the only
    field there is. `trajectory` counts those in the
    file. Of a forecast one `member` is shown, from `init_time` (default: the first) on; its frames are the leads.
    `limit` is the upper end of the colours (and, negative, the lower end of diverging ones); by default 99.5 % of the
    values outside obstacles lie within. Row 0 (y = 0) is at the bottom, of natural video at the top. Raises
    `UsageError` for options that do not fit the dataset, `DataError` for the dataset itself.
    """
    path = Path(path)
    target = Path(output) if output is not None else path.with_suffix(".webp")
    _check_target(target, overwrite)
    if not 0 < fps <= 1000:
        raise UsageError(f"--fps {fps:g}: wanted more than 0, at most 1000")
    if limit is not None and not limit > 0:
        raise UsageError(f"--limit {limit:g}: wanted more than 0")
    opened = dataset.open_dataset(path, allow_incomplete=allow_incomplete, chunks=None)
    variable = variable or _default(opened)
    film = _film(opened, variable, path)
    film = _one_run(film, path, trajectory=trajectory, member=member, init_time=init_time)
    video = "channel" in film[variable].dims
    if video and limit is not None:
        raise UsageError("--limit is of a colour scale: frames of video are shown as they are, leave it out")
    count, (ny, nx) = film.sizes["time"], (film.sizes["y"], film.sizes["x"])
    if video and "length" in film:
        count = min(count, int(film["length"]))  # clips may be shorter than the longest
    stop = min(count, start + (200 if frames is None else frames))
    if not 0 <= start < stop:
        raise UsageError(f"frames {start} to {stop}: {path} has frames 0 to {count - 1}")
    enlarge = scale if scale is not None else max(1, round(WIDTH / nx))
    if enlarge < 1 or (stop - start) * ny * nx * enlarge**2 > MAX_PIXELS:
        raise UsageError(f"{stop - start} frames enlarged {enlarge} times: lower --frames or --scale")
    film = film.isel(time=slice(start, stop))
    values = film[variable].values
    if video:
        shown = np.moveaxis(values, 1, -1)
        _save(target, shown.repeat(3, -1) if shown.shape[-1] == 1 else shown, enlarge, fps)
        return target
    values = values[np.isfinite(values).any(axis=(1, 2))]
    if not len(values):
        raise DataError(f"{path}: none of these frames is written yet")
    solid = film["solid"].values if "solid" in film else None
    _save(target, _pictures(values, solid, variable, limit)[:, ::-1], enlarge, fps)
    return target


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in (".webp", ".gif"):
        raise UsageError(f"{target}: films are written as .webp or .gif")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: add --overwrite to replace it")


# ------------------------------------------------------------------ what is shown


def _fields(opened: xr.Dataset) -> list[str]:
    """What can be shown: fields, and frames of 8 bits in one or three channels."""
    fields = [str(name) for name, array in opened.data_vars.items() if array.dims in (FLOW, FORECAST)]
    frames = [str(n) for n, a in opened.data_vars.items() if a.dims in VIDEO and a.dtype == np.uint8]
    return fields + (frames if opened.sizes.get("channel") in (1, 3) else [])


def _default(opened: xr.Dataset) -> str:
    there = _fields(opened)
    return there[0] if len(there) == 1 else "vorticity"


def _film(opened: xr.Dataset, variable: str, path: Path) -> xr.Dataset:
    """The fields a film of `variable` needs, and the mask. `UsageError` when there is no such film."""
    there = _fields(opened)
    needed = ["velocity_x", "velocity_y"] if variable == "speed" and "speed" not in there else [variable]
    if not set(needed) <= set(there):
        also = ["speed"] if {"velocity_x", "velocity_y"} <= set(there) else []
        choice = ", ".join(sorted(there) + also) or "nothing"
        raise UsageError(f"{path} has no frames of {variable!r}: choose from {choice}")
    return opened[[*needed, *(name for name in ("solid", "length") if name in opened)]]


def _one_run(film: xr.Dataset, path: Path, *, trajectory: int, member: int, init_time: int | None) -> xr.Dataset:
    """One trajectory (of a forecast: one member from one start) with the dimensions (time, y, x)."""
    choice = {"trajectory": trajectory}
    if "lead_time" in film.dims:
        starts = film["init_time"].values.tolist()
        if init_time is not None and init_time not in starts:
            raise UsageError(f"init time {init_time}: {path} starts from {', '.join(map(str, starts[:20]))}")
        choice |= {"member": member, "init_time": 0 if init_time is None else starts.index(init_time)}
    elif member or init_time is not None:
        raise UsageError(f"{path} is no forecast: it has no members and no init times to choose from")
    for dim, many in (("trajectory", "trajectories"), ("member", "members")):
        if dim in choice and not 0 <= choice[dim] < film.sizes[dim]:
            raise UsageError(f"{dim} {choice[dim]}: {path} has {many} 0 to {film.sizes[dim] - 1}")
    film = film.isel(choice)
    if "lead_time" in film.dims:
        film = film.drop_vars("time", errors="ignore").rename_dims({"lead_time": "time"})
    if {"velocity_x", "velocity_y"} <= set(film.data_vars):
        film["speed"] = np.hypot(film["velocity_x"], film["velocity_y"])
    return film


def _pictures(values: np.ndarray, solid: np.ndarray | None, variable: str, limit: float | None) -> np.ndarray:
    """RGB frames (time, y, x, 3) by the scale that suits the field."""
    flow = values if solid is None else values[:, ~solid]
    sign = "from zero" if np.nanmin(flow) >= 0 else "about zero"
    scale = SCALES.get(variable, sign)
    if scale.startswith("about"):
        middle = float(np.nanmean(flow)) if scale == "about the mean" else 0.0
        top = limit or float(np.nanpercentile(np.abs(flow - middle), 99.5)) or 1.0
        return colours(values - middle, top, solid)
    low = 0.0 if scale == "from zero" else min(float(np.nanpercentile(flow, 0.5)), 0.0)
    return colours(values, limit or float(np.nanpercentile(flow, 99.5)) or 1.0, solid, low=low)


def _save(target: Path, pictures: np.ndarray, enlarge: int, fps: float) -> None:
    from io import BytesIO

    from PIL import Image

    large = pictures.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    first, *rest = [Image.fromarray(picture) for picture in large]
    stream = BytesIO()
    options = {"quality": 80, "method": 2} if target.suffix.lower() == ".webp" else {"optimize": False}
    first.save(
        stream,
        format=target.suffix[1:].upper(),
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
        **options,
    )
    store.write_atomically(target, stream.getvalue())
