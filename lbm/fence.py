"""Who may work on a trajectory, told through small files in the dataset's `restart` folder.

    restart/session              "<session> go" or "<session> stop", by the process that holds the lock
    restart/trajectory-<k>.claim the newest attempt at run k, by the worker that makes it

A worker looks at both, so it needs nothing but the file system it writes to. A worker that was given up (its machine
froze, its connection broke) finds a newer claim, or a newer session, when it wakes up, and leaves the dataset alone.
Each look opens the file anew, which makes network file systems ask their server.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from lbm import store
from lbm.trajectory import GO, LEAVE, STOP

LOOK_EVERY = 0.1  # seconds


class Session:
    """The right to order workers of one dataset about; made by the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, uuid.uuid4().hex
        self._order(GO)

    def stop(self) -> None:
        """Let all workers save and stop."""
        self._order(STOP)

    def _order(self, order: str) -> None:
        store.write_atomically(self.folder / "session", f"{self.name} {order}".encode(), durable=False)


class Claim:
    """One attempt at one trajectory; calling it answers go, stop or leave."""

    def __init__(self, folder: Path, session: str, number: int) -> None:
        self.folder, self.session, self.file = folder, session, folder / f"trajectory-{number}.claim"
        self.name = f"{uuid.uuid4().hex} process {os.getpid()}"
        self._looked, self._order = 0.0, LEAVE
        if self._session_order() != LEAVE:
            store.write_atomically(self.file, self.name.encode(), durable=False)

    def __call__(self) -> str:
        if self._order == GO and time.monotonic() - self._looked < LOOK_EVERY:
            return GO
        self._looked = time.monotonic()
        self._order = self._session_order() if _read(self.file) == self.name else LEAVE
        return self._order

    def release(self) -> None:
        """The run has ended: whoever else works on it leaves."""
        self.file.unlink(missing_ok=True)

    def _session_order(self) -> str:
        name, _, order = _read(self.folder / "session").partition(" ")
        return order if name == self.session and order in (GO, STOP) else LEAVE


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
