"""Errors a user can cause, and the exit code each one ends a command with.

The text of an error is one or two lines: what was got, what was wanted, what to do.
Everything else (a bug) stays an ordinary Python exception.

| code | meaning | class |
|---|---|---|
| 1 | any other failure | `FlowError` |
| 2 | usage or configuration | `UsageError` |
| 3 | numerical failure | `NumericalError` |
| 4 | bad, damaged or unfinished data | `DataError` |
| 5 | disk, permission, lock | `ResourceError` |
"""


class FlowError(Exception):
    """Base of every error with a meaning for the user; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(FlowError, ValueError):
    """An option, a configuration key or a function argument that cannot be honoured."""

    exit_code = 2


class NumericalError(FlowError):
    """The computation left the range where it means anything: divergence, a NaN, a Mach number too high."""

    exit_code = 3


class DataError(FlowError):
    """A dataset or checkpoint that is missing, damaged, unfinished or does not fit the other input."""

    exit_code = 4


class ResourceError(FlowError, OSError):
    """The machine refused: disk full, no permission, another process holds the lock."""

    exit_code = 5
