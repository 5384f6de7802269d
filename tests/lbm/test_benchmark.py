"""The arithmetic of the speed report, with a clock that the test winds itself where time enters."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from lbm import benchmark as module
from lbm.benchmark import Arrays, benchmark, bound, channel, table, take_turns
from lbm.errors import UsageError
from lbm.flow import check_parameters


class Clock:
    """Replaces `time` in the module: it goes forward only when told, and by `step` at each look."""

    def __init__(self, step=0.0):
        self.now, self.step = 0.0, step

    def perf_counter(self):
        self.now += self.step
        return self.now


def test_bounds_are_bandwidth_over_bytes_moved():
    # 27 GB/s over 27 words of 4 bytes: 27e9 / 108 = 250 million updates; in place moves two thirds, fused one third.
    assert bound(27, module.TWO_ARRAYS, "float32") == pytest.approx(250)
    assert bound(27, module.IN_PLACE, "float32") == pytest.approx(375)
    assert bound(27, module.FUSED, "float32") == pytest.approx(750)
    assert bound(27, module.TWO_ARRAYS, "float64") == pytest.approx(125)


def test_rates_are_updates_over_time_and_every_run_gets_as_many_turns(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    cells = {"ours": 1000, "theirs": 4000, "slow": 4_000_000}
    speed = {"ours": 100e6, "theirs": 50e6, "slow": 1e6}  # updates per second

    def run(name, ticks):
        clock.now += ticks * cells[name] / speed[name]

    rates = take_turns({name: functools.partial(run, name) for name in cells}, cells, seconds=1.0)
    assert rates["ours"] == pytest.approx([100] * len(rates["ours"]))
    assert rates["theirs"] == pytest.approx([50] * len(rates["theirs"]))
    assert rates["slow"] == pytest.approx([1])  # 16 s for one turn of four ticks: it gets no second one
    assert len(rates["ours"]) == pytest.approx(len(rates["theirs"]), abs=1)
    assert len(rates["ours"]) >= 4


def test_loops_compute_what_they_are_named_after():
    rng = np.random.default_rng(0)
    a, b, c = rng.random((3, 1001))
    wanted = 3 * a
    module.update(a, 3.0)
    np.testing.assert_array_equal(a, wanted)
    module.copy(a, b)
    np.testing.assert_array_equal(a, b)
    module.triad(a, b, c, 0.5)
    np.testing.assert_allclose(a, b + 0.5 * c, rtol=1e-15)  # one rounding less where it is fused


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_counts_write_allocates(monkeypatch, threads):
    arrays = Arrays(size=1_000_000)  # 8 MB each
    monkeypatch.setattr(module, "time", Clock(step=1e-3))  # each loop takes a millisecond
    assert arrays.bandwidth(threads) == pytest.approx({"update": 16, "copy": 24, "triad": 32})  # GB/s


def test_report_adds_up(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Arrays", functools.partial(Arrays, size=20_000))
    monkeypatch.chdir(tmp_path)
    report = benchmark(sizes=((32, 64), (64, 96)), dtypes=("float32", "float64"), threads=2, seconds=0.02)
    assert json.loads(json.dumps(report)) == report
    assert list(tmp_path.iterdir()) == []  # nothing is written
    assert len(report["rows"]) == 2 * 2 * 3
    for row in report["rows"]:
        word = {"float32": 4, "float64": 8}[row["dtype"]]
        rates = report["bandwidth"]["threads"][str(row["threads"])]
        limit = max(rates.values()) * 1e3 / (27 * word)
        assert row["mlups"] >= row["mlups_median"] > 0
        assert row["two_array_bound"] == pytest.approx(limit, abs=0.06)
        assert row["fused_bound"] == pytest.approx(3 * limit, abs=0.06)
        assert row["of_two_array_bound"] == pytest.approx(row["mlups"] / limit, abs=0.006 + 0.06 / limit)
        assert row["of_fused_bound"] == pytest.approx(row["mlups"] / limit / 3, abs=0.006 + 0.06 / limit)
        runs = 2 if row["what"] == "runs" else 1
        assert row["populations_mib"] == pytest.approx(runs * 9 * row["ny"] * row["nx"] * word / 2**20, abs=0.051)
    lines = table(report).splitlines()
    assert sum(line.lstrip().startswith(("32x64", "64x96")) for line in lines) == 12
    assert max(map(len, lines)) <= 120


def test_one_thread_needs_no_parallel_figures(monkeypatch):
    monkeypatch.setattr(module, "Arrays", functools.partial(Arrays, size=20_000))
    report = benchmark(sizes=((32, 64),), dtypes=("float32",), threads=1, seconds=0.02)
    assert [row["what"] for row in report["rows"]] == ["one thread"]
    assert list(report["bandwidth"]["threads"]) == ["1"]


@pytest.mark.parametrize("size", [*module.SIZES, (32, 32), (32, 64)])
def test_the_timed_flow_is_one_the_solver_recommends(size):
    p = channel(*size)
    assert check_parameters(p) == []
    assert p.reynolds == pytest.approx(100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ()}, "no grid"),
        ({"sizes": ((128,),)}, "two whole numbers"),
        ({"sizes": ((128, 128.5),)}, "two whole numbers"),
        ({"sizes": ((128, 8),)}, "at least 32"),
        ({"sizes": ((-128, -128),)}, "at least 32"),
        ({"sizes": ((10**6, 10**6),)}, "GiB of memory"),
        ({"dtypes": ("float16",)}, "float32 or float64"),
        ({"dtypes": ()}, "float32 or float64"),
        ({"threads": 0}, "threads"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
    ],
)
def test_nonsense_is_refused_before_anything_is_allocated(monkeypatch, options, message):
    monkeypatch.setattr(module, "Arrays", None)  # calling it would fail with another error
    with pytest.raises(UsageError, match=message):
        benchmark(**options)


def test_machine_says_what_ran():
    about = module.machine()
    assert about["cores"] >= 1
    assert about["free_memory_gib"] > 0
    assert "numba" in about["versions"]


def test_page_of_the_peers_sets_the_faster_of_ours_against_each_goal():
    path = Path(__file__).parents[2] / "benchmarks" / "lbm_peers_page.py"
    spec = importlib.util.spec_from_file_location("lbm_peers_page", path)
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)

    def row(code, threads, mlups):
        case = {"ny": 1024, "nx": 2048, "dtype": "float64", "threads": threads, "two_array_bound": 120.0}
        return {**case, "code": code, "mlups": mlups, "mlups_median": mlups / 2}

    rows = [row("ours", 1, 240.0), row("lbmpy, two arrays", 1, 120.0), row("pylbm", 1, 20.0)]
    rows += [row("ours, bands", 2, 250.0), row("ours, runs", 2, 300.0), row("lbmpy, two arrays", 2, 150.0)]
    reached = {what.split("float64, ")[1]: (wanted, got) for what, wanted, got in peers.goals({"rows": rows})}
    assert reached == {
        "1 thread: / lbmpy, two arrays": (2.2, 2.0),
        "1 thread: / pylbm": (10.0, 12.0),
        "1 thread: / two-array bound": (1.2, 2.0),
        "2 threads: / lbmpy, two arrays": (2.2, 2.0),
    }
