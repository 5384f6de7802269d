"""Random numbers as a pure function of what they are for, without torch: seeds and NumPy generators (see noise.py)."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Seed (63 bits) of the stream called `names`: equal names give equal streams, others independent ones."""
    text = json.dumps([int(seed), *[n if isinstance(n, str) else int(n) for n in names]])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (Philox) at the start of the stream called `names`."""
    return np.random.Generator(np.random.Philox(stream_seed(seed, *names)))
