"""A run's log for TensorBoard: the numbers of each row as scalars `training/loss`, `validation/crps`, ...

A resumed run begins an event file with all rows of its log, headed by the word that everything of this run in earlier
files is void (`purge_step`): TensorBoard then shows what the log holds, also where it was watching all the time (it
stays with a file that is deleted under it, so none is). Look at all runs of a folder with `tensorboard --logdir runs`.
The package is optional and imported here only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lbm.errors import UsageError

NOT_SCALARS = ("step", "samples", "seconds")  # axes of every curve


class Board:
    """Writes rows as scalars into a new event file in `folder`, which makes earlier ones there void.

    UsageError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        self.writer = _summary_writer()(str(folder), purge_step=0)

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


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"train.tensorboard needs the package tensorboard, which is not installed ({error}): "
            "pip install tensorboard, or leave the setting out (log.csv and `rvdflow info --curves` need nothing)"
        ) from error
    return SummaryWriter
