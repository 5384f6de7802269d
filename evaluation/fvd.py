"""Fréchet Video Distance: how different two sets of clips look to a network that recognises actions in videos.

    FVD = |mu_f - mu_t|^2 + tr(C_f + C_t - 2 (C_f^1/2 C_t C_f^1/2)^1/2)

mu and C are mean and covariance of the 400 logits of an Inception-I3D (`evaluation.i3d`) over clips of the forecast and
of the truth. Unterthiner et al. (2018), arXiv:1812.01717. Two published files serve, neither shipped (see
`evaluation.weights`):

    i3d_torchscript.pt       TorchScript, called detector(x, rescale=False, resize=False, return_features=True)
    i3d_pretrained_400.pt    state dict of the public PyTorch port, into our own network

Both get the same input: grey repeated three times, values in [-1, 1], frames resized to 224 x 224 bilinearly (without
keeping the aspect ratio), at least 10 frames. Their logits are not the same, so distances are comparable only within
one file, one number of clips and one length; see `evaluation.frechet` on floors and small samples. It is known to
weigh the look of single frames above motion (Ge et al. 2024, arXiv:2404.12391) and to need more clips than most
studies have (Luo et al. 2025, arXiv:2410.05203).
"""

from __future__ import annotations

import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .dims import Dims, pair
from .errors import EvaluationError
from .frechet import SPLITS, check_clip_dims, clip_distances, clip_features
from .lpips import grey_walls, to_unit
from .statistics import NanPolicy
from .weights import described, fill, find, read_tensors, sha256

if TYPE_CHECKING:
    import torch

FILES = ("i3d_torchscript.pt", "i3d_pretrained_400.pt")
FEATURES = 400
LEAST_FRAMES = 10
SIDE = 224
_HOW = (
    "FVD needs the weights of an Inception-I3D trained on Kinetics-400, a file named i3d_torchscript.pt or "
    "i3d_pretrained_400.pt: put one there, or give its path; it is not shipped"
)
Network = Callable[["torch.Tensor"], "torch.Tensor"]


class FvdNetwork:
    """Clips to the 400 logits of an I3D. `description` says which file, with its SHA-256."""

    def __init__(self, network: Network, description: str = "a network without a file", *, device: str = "cpu"):
        self.description, self.device = description, device
        self._network = network
        self._source: Path | None = None

    @classmethod
    def load(cls, path: str | Path | None = None, *, device: str = "cpu") -> FvdNetwork:
        """The network from a file of either kind, given or in PyTorch's cache.

        Raises Unavailable, with a sentence on how to get it, if there is none; EvaluationError for a damaged file or
        one that holds something else. A TorchScript file is a program: take it from its publisher only.
        """
        file = find(path, FILES, "FVD", _HOW)
        network = _read_script(file, device) if _is_script(file) else _read_state(file, device)
        loaded = cls(network, f"I3D: {described(file, sha256(file))}", device=device)
        loaded._source = file
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is not None:  # a TorchScript module cannot be pickled
            return _load_again, (str(self._source), self.device)
        return type(self), (self._network, self.description)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.description, id(self))

    def features(
        self,
        clips: np.ndarray,
        value_range: tuple[float, float] | None = None,
        fluid: np.ndarray | None = None,
    ) -> np.ndarray:
        """Logits (n, 400), float64, of clips (n, time, y, x[, 3]); one clip at a time, so that memory is bounded.

        uint8, or other numbers with `value_range` (lowest, highest), beyond which values are clipped. Cells outside of
        `fluid` (y, x) are grey. A clip with a value that is not finite has NaN features. EvaluationError for fewer
        than 10 frames.
        """
        import torch

        if clips.ndim not in (4, 5) or (clips.ndim == 5 and clips.shape[-1] not in (1, 3)):
            raise EvaluationError(f"clips have shape {clips.shape}: (n, time, y, x), or (n, time, y, x, 3), is needed")
        if clips.shape[1] < LEAST_FRAMES:
            raise EvaluationError(
                f"FVD needs at least {LEAST_FRAMES} frames, got {clips.shape[1]}: its network sees actions"
            )
        out = np.full((len(clips), FEATURES), np.nan)
        with torch.inference_mode():
            for row, clip in zip(out, clips, strict=True):
                values = torch.from_numpy(
                    np.ascontiguousarray(to_unit(grey_walls(clip, fluid, value_range), value_range))
                )
                if bool(torch.isfinite(values).all()):
                    logits = self._network(prepared(values.to(self.device)))
                    if tuple(logits.shape) != (1, FEATURES):
                        raise EvaluationError(
                            f"the network returned {tuple(logits.shape)}, wanted (1, {FEATURES}) logits of Kinetics-400"
                        )
                    row[:] = logits[0].double().cpu().numpy()
        return out


def _load_again(path: str, device: str) -> FvdNetwork:
    return FvdNetwork.load(path, device=device)


def prepared(clip: torch.Tensor) -> torch.Tensor:
    """A clip (time, y, x[, channel]) in [-1, 1] as the networks want it: (1, 3, time, 224, 224)."""
    from torch.nn.functional import interpolate

    frames = clip[:, None] if clip.ndim == 3 else clip.permute(0, 3, 1, 2)
    frames = interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return frames.expand(-1, 3, -1, -1).transpose(0, 1)[None]


def _is_script(file: Path) -> bool:
    """TorchScript archives hold code beside tensors."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("constants.pkl") or "/code/" in name for name in archive.namelist())


def _read_script(file: Path, device: str) -> Network:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but files in it are what was published
            detector = torch.jit.load(str(file), map_location=device).eval()
    except Exception as error:  # whatever its bytes happen to mean
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise EvaluationError(f"{file} is damaged or holds no TorchScript network: {reason}; get it again") from error
    lock = threading.Lock()  # the first calls of a script compile it

    def network(x: torch.Tensor) -> torch.Tensor:
        try:
            with lock:
                return detector(x, rescale=False, resize=False, return_features=True)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise EvaluationError(f"{file} is not the FVD detector that was expected: {reason}") from error

    return network


def _read_state(file: Path, device: str) -> Network:
    from .i3d import I3D

    tensors = read_tensors(file, "I3D")
    network = I3D()
    fill(network, tensors, file, "I3D of 400 classes")
    return network.to(device)


def fvd(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    network: FvdNetwork,
    member_dim: str | None = "member",
    time_dim: str = "lead_time",
    dim: Dims = None,
    group_dim: str = "trajectory",
    value_range: tuple[float, float] | None = None,
    nan_policy: NanPolicy = "propagate",
    space: tuple[str, str] = ("y", "x"),
    channel_dim: str = "channel",
    splits: int = SPLITS,
    seed: int = 0,
) -> xr.Dataset:
    """Fréchet Video Distance between the members and the truth, and its floor; no unit (squared logits).

    Returns a Dataset of `distance`, `floor` (what a perfect forecast scores at this number of clips: the best value),
    `distance_all` (all clips: FVD as others define it), `mmd` and `clips`, see `frechet.clip_distance`. It rewards
    members that look and move, as a set, like the true clips do to a network trained on videos of people; not whether
    each case was forecast well. Never compare its values with those of other studies: they depend on the file of
    weights, the number and length of clips, and on how frames were resized. Formula and sources at the head of this
    module.

    `network` comes from `FvdNetwork.load`. A clip is one member of one case over all of `time_dim`, at least 10 frames;
    `dim` names the dimensions whose cases are pooled (None: all that remain), the others are kept. `value_range`
    (lowest, highest) becomes [-1, 1]; uint8 needs none. Under nan_policy "omit" cells where a truth is ever NaN are
    walls, grey in both; members with a NaN elsewhere are left out. There are no weights.

    Raises EvaluationError for too few frames or cases, or floats without `value_range`; DimensionError for dimensions
    that do not match; MissingValueError for a NaN under "raise".
    """
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    check_clip_dims(truth, time_dim, space)
    frame = (time_dim, *space, *([channel_dim] if channel_dim in truth.dims else []))
    if truth.sizes[time_dim] < LEAST_FRAMES:
        raise EvaluationError(f"FVD needs at least {LEAST_FRAMES} frames, got {truth.sizes[time_dim]} along {time_dim}")
    extract = _Extract(network, value_range)
    vectors = clip_features(
        forecast, truth, extract, FEATURES, member_dim=member_dim, frame=frame, nan_policy=nan_policy
    )
    found = clip_distances(
        *vectors, dim, group_dim, nan_policy, member_dim, standardise=False, splits=splits, seed=seed
    )
    return found.assign_attrs(long_name="Fréchet Video Distance", features=FEATURES, network=network.description)


class _Extract:
    """Logits of clips whose walls are made grey."""

    def __init__(self, network: FvdNetwork, value_range: tuple[float, float] | None):
        self.network, self.value_range = network, value_range

    def __call__(self, clips: np.ndarray, fluid: np.ndarray, _scale: float) -> np.ndarray:
        return self.network.features(clips, self.value_range, fluid)
