"""Threads and what they take for zero."""

import subprocess
import sys

import pytest
import torch

from lbm.errors import UsageError
from rvdflow.device import choose_threads

TINY = """
import torch
from rvdflow.device import choose_threads, denormals_as_zero

def left():
    product = torch.full((4_000_000,), 1e-30) * 1e-10  # 1e-40: below the smallest normal number, 1.2e-38
    return int((product != 0).sum())

with denormals_as_zero():
    choose_threads(2)
    print(torch.get_num_threads(), left(), float(torch.full((), 1e-37) * 1.0) > 0)
torch.set_num_threads(1)
print(left())
"""


def test_numbers_too_small_for_full_precision_are_zero_in_every_thread_and_come_back():
    done = subprocess.run([sys.executable, "-c", TINY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0", "True", "4000000"]


def test_threads_are_as_many_as_asked_for_and_at_least_one():
    before = torch.get_num_threads()
    try:
        assert choose_threads(1) == torch.get_num_threads() == 1
        with pytest.raises(UsageError, match="at least 1"):
            choose_threads(0)
    finally:
        torch.set_num_threads(before)
