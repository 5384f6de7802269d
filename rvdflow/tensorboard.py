"""A run's log for TensorBoard: the numbers of each row as scalars `training/loss`, `validation/crps`, ...

Event files are made from the rows of the log alone, and made anew when a run is resumed, so they never disagree with
it. Look at all runs of a folder with `tensorboard --logdir runs`. The package is optional and imported here only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lbm.errors import UsageError

NOT_SCALARS = ("step", "samples", "seconds")  # axes of every curve


class Board:
    """Writes rows as scalars into event files in `folder`; those of an earlier start are removed.

    `make(folder, purge_step)` opens a writer (by default torch's SummaryWriter). UsageError where TensorBoard is
    not installed. `purge_step=0` tells a TensorBoard that is watching to forget what it has read of this run.
    """

    def __init__(self, folder: Path, make: Callable[[Path, int], Any] | None = None):
        make = make or _summary_writer()
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = make(folder, 0)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the numbers of `rows` at their steps, and flush."""
        for row in rows:
            for name, value in row.items():
                if name not in NOT_SCALARS and isinstance(value, int | float):
                    self.writer.add_scalar(tag(name), value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def tag(name: str) -> str:
    """Where a column stands in TensorBoard: validation scores together, the rest under `training`."""
    rest = name.removeprefix("validation_")
    return f"validation/{rest}" if rest != name else f"training/{name}"


def _summary_writer() -> Callable[[Path, int], Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"train.tensorboard needs the package tensorboard, which is not installed ({error}): "
            "pip install tensorboard, or leave the setting out (log.csv and `rvdflow info --curves` need nothing)"
        ) from error
    return lambda folder, purge: SummaryWriter(str(folder), purge_step=purge)
