"""The log of a run: the same lines as CSV (to plot) and JSONL (to parse).

After a resume the lines written beyond the checkpoint are dropped, so a log never has a step twice.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from rvdflow.checkpoint import replace_file

FIRST = ("step", "samples", "loss", "validation_loss", "learning_rate", "gradient_norm", "skipped", "seconds")


class RunLog:
    """Appends rows to `folder/log.csv` and `folder/log.jsonl`; `keep_until` drops rows of later steps."""

    def __init__(self, folder: Path, keep_until: int = 0):
        self.csv, self.jsonl = folder / "log.csv", folder / "log.jsonl"
        rows = [row for row in read(folder) if row["step"] <= keep_until]
        self.seconds = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
        self.columns: list[str] = _columns(rows[0]) if rows else []
        replace_file(self.jsonl, "".join(_line(row) for row in rows).encode())
        replace_file(self.csv, self._csv(rows, header=True).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; the columns of the CSV are those of the first."""
        header = not self.columns
        if header:
            self.columns = _columns(row)
        with open(self.jsonl, "a") as stream:
            stream.write(_line(row))
        with open(self.csv, "a") as stream:
            stream.write(self._csv([row], header))

    def _csv(self, rows: list[dict[str, Any]], header: bool) -> str:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore", lineterminator="\n")
        if header and self.columns:
            table.writeheader()
        table.writerows(rows)
        return text.getvalue()


def _columns(row: dict[str, Any]) -> list[str]:
    return [*FIRST, *(name for name in row if name not in FIRST)]


def _line(row: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"


def read(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log, oldest first; a last line cut short by a crash is left out."""
    rows = []
    path = folder / "log.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
