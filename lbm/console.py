"""How every command behaves on a terminal: exit codes, one-line errors, stopping, progress.

Nothing heavy is imported here (rich only once a bar is drawn), so `--help` stays fast.
Results go to standard output; progress, warnings and errors go to standard error, so that
`--json` output can be piped.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# One declaration for every command: `run` acts on the flag, wherever it stands in the line.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback when something fails.")]

_DISK = {
    errno.ENOSPC: "no space left on the device",
    errno.EFBIG: "file larger than the allowed size",
    errno.EDQUOT: "disk quota exceeded",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "read-only file system",
}
_PLAIN_INTERVAL = 10.0  # seconds between two progress lines where there is no terminal


def run(app: typer.Typer) -> NoReturn:
    """Run a typer application as a program; never returns.

    Exit codes: 0 success, 2 usage, 3 numerical failure, 4 data, 5 disk or permission, 130/143 after
    SIGINT/SIGTERM, 1 anything else. An error prints one or two lines on standard error, and its
    traceback only with `--debug`.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        code = app(args=[a for a in arguments if a != "--debug"], standalone_mode=False)
    except (SystemExit, KeyboardInterrupt) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 130
    except BrokenPipeError:  # `lbm info x | head`: the reader left, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        else:  # reads of other chunks that Zarr had under way must not add tracebacks of their own
            import logging

            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        code, text = describe(error)
        print(text, file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception and the one or two lines shown for it."""
    code = getattr(error, "exit_code", None)
    if hasattr(error, "format_message"):  # typer's and click's own exceptions
        context = getattr(error, "ctx", None)
        hint = f"\nTry '{context.command_path} --help' for help." if context is not None else ""
        return code if isinstance(code, int) else 2, f"error: {error.format_message()}{hint}"
    if isinstance(code, int):
        return code, f"error: {error}"
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        return 5, f"error: {where}{_DISK[error.errno]}"
    if isinstance(error, FileNotFoundError):
        return 4, f"error: {error.filename}: no such file or directory"
    if isinstance(error, MemoryError):
        return 5, f"error: not enough memory{f' ({error})' if str(error) else ''}: ask for less at once"
    name = type(error).__name__
    return 1, f"error: unexpected {name}: {error}\nThis is a bug; --debug shows where it happened."


class Stop:
    """Turns the first SIGINT or SIGTERM into a request that a loop can honour at a good moment.

    `with Stop() as stop:` then `if stop.requested: save(); stop.exit()`. `requested` is the number of
    the signal, or 0. A second signal ends the process at once. Outside the main thread, where Python
    cannot install handlers, nothing is ever requested.
    """

    def __init__(self, what: str = "stopping: saving what is done (once more to quit at once)") -> None:
        self.requested = 0
        self._what = what
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)  # threads inside compiled code would keep sys.exit waiting
        self.requested = number
        os.write(2, f"\n{self._what}\n".encode())  # print() is not allowed to re-enter itself

    def exit(self) -> NoReturn:
        """Leave with 130 (SIGINT) or 143 (SIGTERM)."""
        raise SystemExit(128 + self.requested)


class Progress:
    """Counts finished units from any thread and shows them; made by `progress`."""

    def __init__(self, total: int, label: str, *, unit: str, quiet: bool = False, done: int = 0) -> None:
        self.total, self.label, self.unit, self.quiet = total, label, unit, quiet
        self.done = self._start_done = done
        self._lock = threading.Lock()
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._began = self._printed = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            self._bar, self._task = _rich_bar(self.label, self.unit, self.total, self.done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self.quiet and kind is None and self._printed > self._began:
            self._line("")  # the last word, where earlier lines were printed

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` (a loss, a speed) is shown beside them."""
        with self._lock:
            self.done += n
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done, note=note)
            elif not self.quiet and time.monotonic() - self._printed >= _PLAIN_INTERVAL:
                self._line(note)

    def _line(self, note: str) -> None:
        self._printed = now = time.monotonic()
        elapsed = now - self._began
        new = self.done - self._start_done
        left = (self.total - self.done) * elapsed / new if new else float("nan")
        eta = f"{duration(left)} left" if self.done < self.total else f"took {duration(elapsed)}"
        percent = 100 * self.done / self.total if self.total else 100
        text = f"{self.label}: {self.done}/{self.total} {self.unit} ({percent:.0f} %), {eta}"
        print(f"{text}, {note}" if note else text, file=sys.stderr, flush=True)


def progress(total: int, label: str, *, unit: str, quiet: bool = False, done: int = 0) -> Progress:
    """A context manager with `.advance(n=1, note="")` that shows progress with the time left.

    A rich bar on a terminal; otherwise a plain line at most every ten seconds. `done` units count as
    finished before the start (resumed work) and do not enter the estimate.
    """
    return Progress(total, label, unit=unit, quiet=quiet, done=done)


def _rich_bar(label: str, unit: str, total: int, done: int) -> tuple[RichProgress, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    return bar, bar.add_task(label, total=total, completed=done, note="")


def duration(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `2 min 05 s`, `3 h 10 min`."""
    if not seconds < float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(octets: float) -> str:
    """A number of bytes in MiB or GiB, whichever reads better."""
    return f"{octets / 2**30:.3g} GiB" if octets >= 2**30 else f"{octets / 2**20:.3g} MiB"


def say(text: str, *, quiet: bool = False) -> None:
    """One line of result for people, on standard output (silent with `quiet`)."""
    if not quiet:
        print(text, flush=True)


def warn(text: str, *, quiet: bool = False) -> None:
    """One line that deserves attention, on standard error (silent with `quiet`)."""
    if not quiet:
        print(f"warning: {text}", file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """One JSON document on standard output, for `--json`."""
    print(json.dumps(value, indent=2, default=str, allow_nan=True), flush=True)
