"""The log of a run: the same rows as JSONL (to parse) and CSV (to plot), and in TensorBoard when asked for.

A row says what is known of one step: training rows hold losses, the learning rate and the gradient's norm, validation
rows the scores of an ensemble. `log.jsonl` is the log; the others are made from it, and made anew on a resume, when
rows of steps beyond the checkpoint are dropped: no log has a row twice, or lacks one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from rvdflow.checkpoint import replace_file

FIRST = ("step", "samples", "loss", "validation_crps", "validation_loss", "learning_rate", "gradient_norm", "skipped",
         "seconds")  # fmt: skip


class RunLog:
    """Appends rows to `folder/log.jsonl` and `folder/log.csv`; `keep_until` drops rows of later steps.

    With `tensorboard` also to event files in `folder/tensorboard` (UsageError where the package is missing).
    """

    def __init__(self, folder: Path, keep_until: int = 0, *, tensorboard: bool = False):
        self.csv, self.jsonl = folder / "log.csv", folder / "log.jsonl"
        self.board = _board(folder) if tensorboard else None
        self.rows = [row for row in read(folder) if row["step"] <= keep_until]
        self.seconds = float(self.rows[-1].get("seconds", 0.0)) if self.rows else 0.0
        self.columns = _columns(self.rows)
        replace_file(self.jsonl, "".join(_line(row) for row in self.rows).encode())
        replace_file(self.csv, _table(self.rows, self.columns, header=True).encode())
        if self.board:
            self.board.write(self.rows)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row. Columns that no earlier row had are added to the CSV, which is then written anew."""
        self.rows.append(row)
        with open(self.jsonl, "a") as stream:
            stream.write(_line(row))
        if set(row) <= set(self.columns):
            with open(self.csv, "a") as stream:
                stream.write(_table([row], self.columns, header=False))
        else:
            self.columns = _columns(self.rows)
            replace_file(self.csv, _table(self.rows, self.columns, header=True).encode())
        if self.board:
            self.board.write([row])

    def close(self) -> None:
        """Close the event file, if there is one; rows are on disk at all times."""
        if self.board:
            self.board.close()


def _board(folder: Path) -> Any:
    from rvdflow.tensorboard import Board

    return Board(folder / "tensorboard")


def _table(rows: list[dict[str, Any]], columns: list[str], *, header: bool) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header and columns:
        table.writeheader()
    table.writerows({k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every name that any row has: the familiar ones first, the others as they came."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [*(name for name in FIRST if name in names), *(name for name in names if name not in FIRST)]


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: _finite(value) for name, value in row.items()}) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log, oldest first; a last line cut short by a crash is left out."""
    rows = []
    path = folder / "log.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
