"""LPIPS: how different two pictures look, measured by the features of a network trained on photographs.

    d(a, b) = sum_l mean_{y,x} sum_c w_lc (fa_lcyx - fb_lcyx)^2

f_l is the output of layer l of the trunk (AlexNet or VGG16, trained on ImageNet), divided at each place by its norm
over channels; w_l >= 0 are the published linear heads, fitted to human judgements. Zhang et al. (2018),
doi:10.1109/CVPR.2018.00068. The trunk is a file of torchvision, the heads, version 0.1, are data files of the `lpips`
package; neither is part of this package (see `evaluation.weights`), and neither of those packages is imported.

The features of a truth are computed once, not once for each member: M + 1 passes through the trunk instead of 2 M.

Frames are (..., y, x) or (..., y, x, 3); grey is repeated three times; values are mapped to [-1, 1]. Frames with a side
below `SMALLEST` pixels, the size of the patches that the heads were fitted on, are enlarged bilinearly by the smallest
whole factor that brings both sides there: in smaller ones the last layers would see little but padding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from .dims import Dims, average, pair
from .errors import EvaluationError, MissingValueError
from .statistics import NanPolicy
from .weights import Unavailable, described, fill, find, read_tensors, sha256

if TYPE_CHECKING:
    import torch

Trunk = Literal["alex", "vgg"]
Features = list["torch.Tensor"]

FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
SMALLEST = 64
_TITLES = {"alex": "AlexNet", "vgg": "VGG16"}
_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_PIXELS = {"alex": 1 << 19, "vgg": 1 << 17}  # in one pass: some 100 MiB of activations
_EPSILON = 1e-10  # of the heads' authors: keeps 0 / 0 away from places without any feature
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # statistics of ImageNet on [-1, 1]
_HOW = (
    "LPIPS needs the ImageNet weights of {title} from torchvision, a file named {file}: put it there, or give its "
    "path; it is not shipped"
)


def build_trunk(trunk: Trunk) -> torch.nn.ModuleList:
    """The convolutional layers of a trunk in five stages, an output after each; parameters named as in torchvision."""
    from torch import nn

    def convolution(old: int, new: int, size: int, stride: int = 1, padding: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(old, new, size, stride, padding), nn.ReLU(inplace=True)]

    stages: list[list[nn.Module]]
    if trunk == "alex":
        stages = [
            convolution(3, 64, 11, 4, 2),
            [nn.MaxPool2d(3, 2), *convolution(64, 192, 5, padding=2)],
            [nn.MaxPool2d(3, 2), *convolution(192, 384, 3)],
            convolution(384, 256, 3),
            convolution(256, 256, 3),
        ]
    else:
        stages, old = [], 3
        for repeats, new in zip((2, 2, 3, 3, 3), _CHANNELS["vgg"], strict=True):
            stage: list[nn.Module] = [nn.MaxPool2d(2, 2)] if stages else []
            for _ in range(repeats):
                stage += convolution(old, new, 3)
                old = new
            stages.append(stage)
    named, number = nn.ModuleList(), 0
    for stage in stages:
        part = nn.Sequential()
        for layer in stage:
            part.add_module(str(number), layer)
            number += 1
        named.append(part)
    return named


def read_heads(trunk: Trunk) -> tuple[list[np.ndarray], str]:
    """The published linear heads (one float32 array of channels per layer) and a line on their file.

    Found in the installed `lpips` package without importing it, which would import torchvision. Unavailable without.
    """
    package = importlib.util.find_spec("lpips")
    folder = next(iter(package.submodule_search_locations or []), "") if package else ""
    path = Path(folder) / "weights" / "v0.1" / f"{trunk}.pth"
    if not folder or not path.is_file():
        raise Unavailable("LPIPS: unavailable, its linear heads are data of the Python package lpips: install lpips")
    tensors = read_tensors(path, "LPIPS heads")
    heads = []
    for layer, channels in enumerate(_CHANNELS[trunk]):
        head = tensors.get(f"lin{layer}.model.1.weight")
        if head is None or head.numel() != channels:
            raise EvaluationError(f"{path} holds no LPIPS heads of {_TITLES[trunk]}: install lpips 0.1.4 again")
        heads.append(head.numpy().astype(np.float32).ravel())
    return heads, described(path, sha256(path))


class Lpips:
    """The LPIPS distance: a trunk and its heads, read-only, on one device. Any number of threads may use it at once.

    `trunk` says which, `description` which files (with their SHA-256); `smallest` is the least side in pixels.
    """

    def __init__(
        self,
        stages: torch.nn.ModuleList,
        heads: list[np.ndarray],
        *,
        trunk: Trunk = "alex",
        description: str = "a trunk without a file",
        device: str = "cpu",
        smallest: int = SMALLEST,
    ):
        import torch

        self.trunk, self.description, self.device, self.smallest = trunk, description, device, smallest
        self._stages = stages.eval().requires_grad_(False).to(device)
        for weight in self._stages.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._heads = [torch.from_numpy(np.array(h, np.float32))[:, None, None].to(device) for h in heads]
        self._shift = torch.tensor(_SHIFT, device=device)[:, None, None]
        self._scale = torch.tensor(_SCALE, device=device)[:, None, None]

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        trunk: Trunk = "alex",
        *,
        device: str = "cpu",
        smallest: int = SMALLEST,
    ) -> Lpips:
        """LPIPS with the published weights: trunk from `path` or PyTorch's cache, heads from the `lpips` package.

        Raises Unavailable, with a sentence on how to get it, if either is absent; EvaluationError for a file that is
        damaged or is something else (such as the heads given as the trunk).
        """
        if trunk not in FILES:
            raise EvaluationError(f'unknown trunk {trunk!r}: choose "alex" or "vgg"')
        title, name = _TITLES[trunk], FILES[trunk]
        file = find(path, [name], f"LPIPS ({title})", _HOW.format(title=title, file=name))
        stages = build_trunk(trunk)
        heads, heads_line = read_heads(trunk)
        tensors = {k.removeprefix("features."): t for k, t in read_tensors(file, "trunk").items() if "features." in k}
        if not tensors:
            raise EvaluationError(f"{file} holds no {title} trunk: wanted torchvision's {name}, with features.0.weight")
        for stage in stages:
            fill(stage, tensors, file, f"{title} trunk", "features.")
        digest = sha256(file)
        line = f"{title}: {described(file, digest, name.split('-')[-1][:8])}; heads v0.1: {heads_line}"
        return cls(stages, heads, trunk=trunk, description=line, device=device, smallest=smallest)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.trunk, self.description, self.smallest, id(self))

    def enlargement(self, y: int, x: int) -> int:
        """The whole factor by which frames of y x x pixels are enlarged (1: as they are)."""
        return max(1, -(-self.smallest // min(y, x)))

    def features(self, frames: np.ndarray, value_range: tuple[float, float] | None = None) -> Features:
        """Normalised features of each layer, (frame, channel, y, x), of frames (frame, y, x[, 3]). In one pass."""
        import torch

        with torch.inference_mode():
            x = to_unit(frames, value_range)
            batch = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
            batch = batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)
            factor = self.enlargement(*batch.shape[-2:])
            if factor > 1:
                batch = torch.nn.functional.interpolate(
                    batch, scale_factor=factor, mode="bilinear", align_corners=False
                )
            batch = ((batch - self._shift) / self._scale).contiguous(memory_format=torch.channels_last)
            found = []
            for stage in self._stages:
                batch = stage(batch)
                found.append(batch / (torch.linalg.vector_norm(batch, dim=1, keepdim=True) + _EPSILON))
            return found

    def distance(
        self, truth_features: Features, frames: np.ndarray, value_range: tuple[float, float] | None = None
    ) -> np.ndarray:
        """LPIPS (float64) between frames (frame, y, x[, 3]) and the features of as many truths, or of one."""
        import torch

        with torch.inference_mode():
            total = torch.zeros(len(frames), dtype=torch.float64, device=self.device)
            for head, a, b in zip(self._heads, truth_features, self.features(frames, value_range), strict=True):
                difference = b.sub_(a)  # features of the frames are needed no more
                total += (difference.square_() * head).sum(1).mean((1, 2)).double()
            return total.cpu().numpy()

    def ensemble(
        self,
        members: np.ndarray,
        truth: np.ndarray,
        value_range: tuple[float, float] | None = None,
        fluid: np.ndarray | None = None,
    ) -> np.ndarray:
        """LPIPS (M, lead) of members (M, lead, y, x[, 3]) against truth (lead, y, x[, 3]), memory bounded.

        Cells outside of `fluid` (y, x) are grey in both.
        """
        if members.shape[1:] != truth.shape:
            raise EvaluationError(f"members have shape {members.shape}, truth {truth.shape}: they do not fit together")
        _check_frames(truth)
        for values in (members, truth):
            _check_range(values, value_range)
        truth = grey_walls(truth, fluid, value_range)
        out = np.empty(members.shape[:2])
        side = self.enlargement(*truth.shape[1:3])
        batch = max(1, _PIXELS[self.trunk] // (truth.shape[1] * truth.shape[2] * side**2))
        for leads, rows in _batches(len(members), len(truth), batch):
            wanted = self.features(truth[leads], value_range)
            for row in rows:
                frames = members[row, leads]
                flat = grey_walls(frames.reshape(-1, *truth.shape[1:]), fluid, value_range)
                out[row, leads] = self.distance(wanted, flat, value_range).reshape(frames.shape[:2])
        return out


def _batches(members: int, leads: int, size: int) -> Iterator[tuple[slice, list[slice]]]:
    """Leads taken together, and the members of each pass: one lead and many members, or many leads and one member."""
    if members >= min(size, leads):
        for lead in range(leads):
            yield slice(lead, lead + 1), [slice(m, min(m + size, members)) for m in range(0, members, size)]
    else:
        for start in range(0, leads, size):
            yield slice(start, min(start + size, leads)), [slice(m, m + 1) for m in range(members)]


def grey_walls(frames: np.ndarray, fluid: np.ndarray | None, value_range: tuple[float, float] | None) -> np.ndarray:
    """Frames (..., y, x) or (..., y, x, colour) with the middle of the range where `fluid` (y, x) is False."""
    if fluid is None or fluid.all():
        return frames
    colour = frames.shape[-2:] != fluid.shape
    grey = np.asarray(sum(value_range or (0, 255)) / 2, frames.dtype)
    return np.where(fluid[..., None] if colour else fluid, frames, grey)


def to_unit(frames: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Values in [-1, 1] as float32: uint8 / 127.5 - 1, or from `value_range`, beyond which values are clipped."""
    _check_range(frames, value_range)
    if value_range is None:
        return frames.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)
    low, high = value_range
    scaled = (frames.astype(np.float32, copy=False) - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)
    return np.clip(scaled, -1, 1, out=scaled)


def _check_range(frames: np.ndarray, value_range: tuple[float, float] | None) -> None:
    if value_range is None and frames.dtype != np.uint8:
        raise EvaluationError(
            f"{frames.dtype} values need value_range=(lowest, highest), which becomes black and white; "
            "only uint8 has one of its own"
        )
    if value_range is not None and not (np.isfinite(value_range).all() and value_range[0] < value_range[1]):
        raise EvaluationError(f"value_range {value_range} must be two finite numbers, the lower one first")


def _check_frames(truth: np.ndarray) -> None:
    if truth.ndim not in (3, 4) or (truth.ndim == 4 and truth.shape[-1] not in (1, 3)):
        raise EvaluationError(f"truth has shape {truth.shape}: (lead, y, x), or (lead, y, x, 3) in colour, is needed")
    if min(truth.shape[1:3]) < 1:
        raise EvaluationError(f"truth has shape {truth.shape}: there are no pixels")


def lpips(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    network: Lpips,
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
    value_range: tuple[float, float] | None = None,
    space: tuple[str, str] = ("y", "x"),
    channel_dim: str = "channel",
) -> xr.DataArray:
    """Mean over members of LPIPS(member, truth); no unit, >= 0, 0 is best (identical pictures).

        sum_l mean_{y,x} sum_c w_lc (fa_lcyx - fb_lcyx)^2       (see the head of this module)

    It rewards pictures that look like the truth to a network trained on photographs: sharp edges in the right places
    more than right values. It scores each member by itself, so that spread costs, right or wrong; it is no proper
    score. Zhang et al. (2018), doi:10.1109/CVPR.2018.00068.

    `network` comes from `Lpips.load`. `value_range` (lowest, highest) becomes [-1, 1], values beyond are clipped; uint8
    needs none. `channel_dim` is used where the data has it (3 channels, or 1). Frames are reduced over `space`; `dim`,
    `weights` and `nan_policy` are about what remains. Under "omit" cells where the truth is NaN are walls: both
    pictures are grey there, and members with a NaN elsewhere are left out; under "propagate" a NaN anywhere makes the
    frame NaN.

    Raises DimensionError for dimensions that do not match, EvaluationError for floats without `value_range`,
    MissingValueError for a NaN under "raise".
    """
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    frame = [*space, *([channel_dim] if channel_dim in truth.dims else [])]
    missing = [d for d in space if d not in truth.dims]
    if missing:
        raise EvaluationError(f"no dimension {missing} in {tuple(truth.dims)}: say space=(...)")
    if forecast.chunks is not None:
        forecast = forecast.chunk(dict.fromkeys((member_dim, *frame), -1))
    if truth.chunks is not None:
        truth = truth.chunk(dict.fromkeys(frame, -1))
    score = xr.apply_ufunc(
        _points,
        forecast,
        truth,
        input_core_dims=[[member_dim, *frame], frame],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
        kwargs={"network": network, "value_range": value_range, "nan_policy": nan_policy, "depth": len(frame)},
    )
    attrs = {"long_name": "LPIPS", "units": "1", "network": network.description, "members": forecast.sizes[member_dim]}
    factor = network.enlargement(*(truth.sizes[d] for d in space))
    score = score.rename("lpips").assign_attrs(attrs, enlarged=factor)
    return average(score, dim, weights, nan_policy)


def _points(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    network: Lpips,
    value_range: tuple[float, float] | None,
    nan_policy: str,
    depth: int,
) -> np.ndarray:
    """LPIPS (...) of forecast (..., member, y, x[, c]) against truth (..., y, x[, c])."""
    points = truth.shape[: truth.ndim - depth]
    out = np.empty(int(np.prod(points)))
    pairs = zip(
        forecast.reshape(-1, *forecast.shape[-depth - 1 :]), truth.reshape(-1, *truth.shape[-depth:]), strict=True
    )
    for k, (members, frame) in enumerate(pairs):
        if value_range is not None:
            members, frame = _without_missing(members, frame, value_range, nan_policy)
        out[k] = np.nan if frame is None else network.ensemble(members[:, None], frame[None], value_range).mean()
    return out.reshape(points)


def _without_missing(
    members: np.ndarray, frame: np.ndarray, value_range: tuple[float, float], nan_policy: str
) -> tuple[np.ndarray, Any]:
    """Walls made grey; None in place of a frame that has no score."""
    wall, bad = np.isnan(frame), np.isnan(members)
    if nan_policy == "raise" and (wall.any() or bad.any()):
        raise MissingValueError('the data holds NaN: mask walls and use nan_policy="omit", or use "propagate"')
    if nan_policy != "omit":
        return members, None if wall.any() or bad.any() else frame
    members = members[~(bad & ~wall).reshape(len(members), -1).any(1)]
    if wall.all() or not len(members):
        return members, None
    grey = frame.dtype.type(sum(value_range) / 2)
    return (np.where(wall, grey, members), np.where(wall, grey, frame)) if wall.any() else (members, frame)
