"""What this package raises when it cannot score what it was given. Each message: got, wanted, what to do."""


class EvaluationError(ValueError):
    """The data cannot be scored; `exit_code` is what a command line returns for it."""

    exit_code = 4


class DimensionError(EvaluationError):
    """Names, sizes or coordinates of dimensions do not match: nothing is ever broadcast silently."""


class MissingValueError(EvaluationError):
    """A NaN was found under nan_policy="raise"."""
