"""Weight files of published networks: where they may lie, which file it is, and a plain word when there is none.

Nothing is ever downloaded. A file comes from the path that the user gives, or from the folder where PyTorch keeps its
downloads: `$TORCH_HOME/hub/checkpoints`, by default `~/.cache/torch/hub/checkpoints`. What was read is recorded by its
SHA-256. Only tensors are read (`weights_only`), never pickled code.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EvaluationError

if TYPE_CHECKING:
    import torch


class Unavailable(EvaluationError):
    """Weights that a score needs are not on this machine; the message says what they are and how to get them.

    A verification goes on without the score and writes this message in its place.
    """


def cache_folder() -> Path:
    """Where PyTorch keeps weights that it downloaded."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return (Path(os.environ.get("TORCH_HOME", default)) / "hub" / "checkpoints").expanduser()


def find(path: str | Path | None, names: Sequence[str], what: str, how: str) -> Path:
    """The file at `path`, or the first of `names` in the cache. Unavailable when there is none."""
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise Unavailable(f"{what}: unavailable, there is no file {file}. {how}")
        return file
    for name in names:
        if (cache_folder() / name).is_file():
            return cache_folder() / name
    raise Unavailable(f"{what}: unavailable, no {' or '.join(names)} in {cache_folder()}. {how}")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(path: Path, digest: str, published: str = "") -> str:
    """One line on a file for the record: its name, its hash, and whether that is the published one.

    `published` holds the leading digits of the hash where they are known; torchvision puts eight of them into the
    name of each file.
    """
    known = published or "".join(re.findall(r"-([0-9a-f]{8})\.pth$", path.name))
    same = "the published file" if digest.startswith(known) else f"NOT the published file ({known}...)"
    return f"{path.name}, sha256 {digest}" + (f", {same}" if known else "")


def read_tensors(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The state dict in a file, on the CPU. EvaluationError in one line for anything else."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises what its bytes happen to mean: a dozen types
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise EvaluationError(f"{path} is damaged or holds no {what}: {reason}; get the file again") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not (isinstance(found, Mapping) and found and all(isinstance(t, torch.Tensor) for t in found.values())):
        raise EvaluationError(f"{path} holds a {type(found).__name__}, not the named tensors of {what}")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def fill(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str, prefix: str = ""
) -> None:
    """Copy tensors into the network of the same names and shapes; further tensors are ignored.

    EvaluationError names the first that is missing, has another shape or is not finite, with `prefix` before it.
    """
    import torch

    state: dict[str, Any] = network.state_dict()
    for name, own in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in tensors:
            have = ", ".join(prefix + n for n in list(tensors)[:3])
            raise EvaluationError(f"{path} holds no {what}: {prefix}{name} is missing (it holds {have}, ...)")
        if tensors[name].shape != own.shape:
            got, wanted = tuple(tensors[name].shape), tuple(own.shape)
            raise EvaluationError(f"{path} holds no {what}: {prefix}{name} has shape {got}, wanted {wanted}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise EvaluationError(f"{path} is damaged: {prefix}{name} holds values that are not finite")
    network.load_state_dict({name: tensors.get(name, own) for name, own in state.items()})
    network.eval().requires_grad_(False)
