"""The network sorts, and the compiled code serves every ensemble size."""

import itertools

import numba
import numpy as np
import pytest

from evaluation import kernels
from evaluation.pointwise import NAMES, count_ranks, ensemble_scores


def through_network(columns):
    rows = list(columns)
    for i, j in zip(*kernels.sorting_network(len(rows)), strict=True):
        rows[i], rows[j] = np.minimum(rows[i], rows[j]), np.maximum(rows[i], rows[j])
    return np.array(rows)


@pytest.mark.parametrize("members", range(2, 13))
def test_network_sorts_every_zero_one_sequence(members):
    """By the zero-one principle (Knuth, TAOCP 3, 5.3.4, theorem Z) it then sorts everything."""
    columns = np.array(list(itertools.product([0, 1], repeat=members)), np.uint8).T
    np.testing.assert_array_equal(through_network(columns), np.sort(columns, axis=0))


@pytest.mark.parametrize("members", [1, 13, 16, 31, 64, 100, 257])
def test_network_sorts_any_number_of_members(members):
    columns = np.random.default_rng(members).normal(size=(members, 50))
    np.testing.assert_array_equal(through_network(columns), np.sort(columns, axis=0))


@pytest.mark.parametrize(("members", "comparators"), [(1, 0), (2, 1), (4, 5), (8, 19), (16, 63), (32, 191)])
def test_network_has_the_known_number_of_comparators(members, comparators):
    """(p^2 - p + 4) 2^(p - 2) - 1 for 2^p inputs (Knuth, 5.3.4, exercise)."""
    assert len(kernels.sorting_network(members)[0]) == comparators


def test_one_compilation_serves_every_size_and_every_statistic():
    def call(members, names):
        values = np.random.default_rng(0).normal(size=(members, 300)).astype(np.float32)
        values.flags.writeable = members % 2 == 0  # as memory maps and dask hand over
        ensemble_scores(values, np.zeros(300, np.float32), axis=0, names=names)

    call(3, NAMES)
    for members in (2, 5, 16):
        call(members, ["crps"])
        call(members, ["rank", "variance"])
    assert len(kernels.SCORE["float32", "float32"].signatures) == 1


def test_no_cached_function_has_two_signatures():
    """Else processes that compile different ones together can load each other's code (see `kernels._cached`)."""
    for forecast, truth in itertools.product([np.uint8, np.float32, np.float64], repeat=2):
        ensemble_scores(np.ones((2, 3), forecast), np.ones(3, truth), axis=0, names=NAMES)
    ensemble_scores(np.ones((4097, 3), np.uint8), np.ones(3, np.uint8), axis=0, names=["crps"])
    for order in ("C", "F"):
        count_ranks(np.zeros((4, 3), np.int64, order=order), np.zeros((4, 3), np.int32), members=2)
    assert [len(f.signatures) for f in (*kernels.SCORE.values(), kernels.add_ranks)] == [1] * 5


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch):
    real = numba.njit

    def no_cache(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(numba, "njit", no_cache)
    assert kernels._cached(lambda x: x + 1)(2) == 3
