"""Which software wrote a dataset. There is no clock in it, so equal runs stay equal to the bit."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any


@functools.cache
def _git_commit() -> str | None:
    """The commit of the checkout this package runs from; None when installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def provenance(*extra: str) -> dict[str, Any]:
    """Attributes saying which software wrote a dataset: `versions` ("name number, ...") and `git_commit` ("" if none).

    Both are text, which every format that xarray writes can hold.

    `extra` names further distributions (such as "torch"). There is no date in it: a dataset resumed
    tomorrow equals one written today to the bit.
    """
    names = ("rvdflow", "numpy", "numba", "zarr", "numcodecs", "xarray", *extra)
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": ", ".join(f"{k} {v}" for k, v in versions.items()), "git_commit": _git_commit() or ""}
