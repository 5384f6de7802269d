"""One trajectory's values of one variable, appended along one dimension and written chunk by chunk.

    append(values) ... -> a full chunk is written at once, `flush` writes the open one as far as it goes

`start` goes on after an interruption: it reads the open chunk back, so that its next write loses nothing.
"""

from __future__ import annotations

import numpy as np

from lbm.writer import Writer


class Series:
    """`count` values of variable `name` along dimension `along`, which must be neither first nor `trajectory`.

    All dimensions but these two are in one chunk.
    """

    def __init__(self, writer: Writer, name: str, trajectory: int, along: str) -> None:
        array, dims = writer.array(name), writer.dims(name)
        self.writer, self.name, self.trajectory, self.along = writer, name, trajectory, along
        self.axis = [dim for dim in dims if dim != "trajectory"].index(along)
        self.length, self.chunk = (int(n[dims.index(along)]) for n in (array.shape, array.chunks))
        shape = [int(n) for n, dim in zip(array.shape, dims, strict=True) if dim != "trajectory"]
        shape[self.axis] = min(self.chunk, self.length)
        self.fill = np.asarray(array.fill_value, array.dtype)
        self._chunk = np.full(shape, self.fill)
        self._rows = np.moveaxis(self._chunk, self.axis, 0)  # a view with the values first
        self.row_shape = self._rows.shape[1:]
        self.count = self._written = 0

    def start(self, count: int) -> None:
        """Go on after the first `count` values, which are on disk."""
        self.count = self._written = count
        begin = count - count % self.chunk
        self._chunk[...] = self.fill
        if count > begin:
            region = [self.trajectory if dim == "trajectory" else slice(None) for dim in self.writer.dims(self.name)]
            region[self.writer.dims(self.name).index(self.along)] = slice(begin, count)
            stored = np.asarray(self.writer.array(self.name)[tuple(region)])
            self._rows[: count - begin] = np.moveaxis(stored, self.axis, 0)

    def append(self, values: np.ndarray) -> None:
        """Add values, (n, ...) with the remaining dimensions in the variable's order."""
        done = 0
        while done < len(values):
            at = self.count % self.chunk
            n = min(len(values) - done, self.chunk - at)
            self._rows[at : at + n] = values[done : done + n]
            self.count, done = self.count + n, done + n
            if self.count % self.chunk == 0 or self.count == self.length:
                self.flush()

    def flush(self) -> None:
        """Write what the open chunk holds."""
        if self.count == self._written:
            return
        begin = (self.count - 1) // self.chunk * self.chunk
        part = np.moveaxis(self._rows[: self.count - begin], 0, self.axis)
        region = {self.along: slice(begin, self.count)}
        self.writer.write(self.name, part, trajectory=self.trajectory, **region)
        self._written = self.count
