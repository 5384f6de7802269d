"""A trajectory as a film: colours diverge about zero, the obstacle is grey, written by Pillow.

The colour of value v in [-limit, limit] runs blue - white - red through fixed stops, so no plotting
library is needed and a film has the same colours everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lbm import dataset, store
from lbm.errors import DataError, UsageError

# Diverging stops from -1 to 1 (ColorBrewer RdBu, reversed: colour-blind safe).
STOPS = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ],
    dtype=float,
)  # fmt: skip
SOLID = (128, 128, 128)
MISSING = (255, 255, 255)
WIDTH = 512  # pixels a film is enlarged to, about
MAX_PIXELS = 400_000_000  # of all frames together, in memory


def colours(values: np.ndarray, limit: float, solid: np.ndarray | None = None) -> np.ndarray:
    """RGB (..., y, x, 3) uint8 of a field (..., y, x); -limit is blue, 0 white, +limit red.

    `solid` (y, x) pixels are grey, NaN is white. Values beyond the limit take the end colours.
    """
    table = _table()
    scaled = np.nan_to_num(np.clip(values / limit, -1, 1))
    rgb = table[np.round((scaled + 1) / 2 * (len(table) - 1)).astype(np.intp)]
    rgb[np.isnan(values)] = MISSING
    if solid is not None:
        rgb[..., solid, :] = SOLID
    return rgb


def _table(length: int = 255) -> np.ndarray:
    """The colour stops interpolated to an odd number of entries, so that zero has one of its own."""
    at = np.linspace(0, len(STOPS) - 1, length)
    channels = [np.interp(at, np.arange(len(STOPS)), STOPS[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def animate(
    path: Path | str,
    output: Path | str | None = None,
    *,
    variable: str = "vorticity",
    trajectory: int = 0,
    start: int = 0,
    frames: int | None = None,
    scale: int | None = None,
    fps: float = 20.0,
    limit: float | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write `frames` frames (at most 200 unless said) of a trajectory as WebP or GIF; returns the path.

    Fields with a mean far from zero (velocity_x, density) are shown about their mean. `limit` defaults
    to the 99.5th percentile of the magnitude outside obstacles. Row 0 (y = 0) is at the bottom. Raises
    `UsageError` for options that do not fit the dataset, `DataError` for the dataset itself.
    """
    path = Path(path)
    target = Path(output) if output is not None else path.with_suffix(".webp")
    _check_target(target, overwrite)
    if not 0 < fps <= 1000:
        raise UsageError(f"--fps {fps:g}: wanted more than 0, at most 1000")
    ds = dataset.open_dataset(path, allow_incomplete=allow_incomplete, chunks=None)
    films = [str(name) for name, array in ds.data_vars.items() if array.dims == ("trajectory", "time", "y", "x")]
    if variable not in films:
        raise UsageError(f"{path} has no frames of {variable!r}: choose from {', '.join(films) or 'nothing'}")
    sizes = ds.sizes
    stop = min(sizes["time"], start + (200 if frames is None else frames))
    if not 0 <= trajectory < sizes["trajectory"] or not 0 <= start < stop:
        raise UsageError(
            f"trajectory {trajectory}, frames {start} to {stop}: {path} has trajectories 0 to "
            f"{sizes['trajectory'] - 1} and frames 0 to {sizes['time'] - 1}"
        )
    enlarge = scale if scale is not None else max(1, round(WIDTH / sizes["x"]))
    if enlarge < 1 or (stop - start) * sizes["y"] * sizes["x"] * enlarge**2 > MAX_PIXELS:
        raise UsageError(f"{stop - start} frames enlarged {enlarge} times: lower --frames or --scale")
    values = ds[variable].isel(trajectory=trajectory, time=slice(start, stop)).values
    values = values[np.isfinite(values).any(axis=(1, 2))]
    if not len(values):
        raise DataError(f"{path}: none of these frames is written yet")
    solid = ds["solid"].isel(trajectory=trajectory).values if "solid" in ds else None
    _save(target, _pictures(values, solid, limit), enlarge, fps)
    return target


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix.lower() not in (".webp", ".gif"):
        raise UsageError(f"{target}: films are written as .webp or .gif")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: add --overwrite to replace it")


def _pictures(values: np.ndarray, solid: np.ndarray | None, limit: float | None) -> np.ndarray:
    """RGB frames (time, y, x, 3), y upwards."""
    flow = values if solid is None else values[:, ~solid]
    mean = np.nanmean(flow)
    if abs(mean) > np.nanstd(flow):  # not a field about zero
        values, flow = values - mean, flow - mean
    if limit is None:
        limit = float(np.nanpercentile(np.abs(flow), 99.5)) or 1.0
    if not limit > 0:
        raise UsageError(f"--limit {limit:g}: wanted more than 0")
    return colours(values, limit, solid)[:, ::-1]


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
