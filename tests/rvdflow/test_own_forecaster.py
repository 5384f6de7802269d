"""A forecaster of one's own, what a forecast will take, and the page that explains both."""

import re
from pathlib import Path

import numpy as np
import pytest

from lbm import dataset as store
from rvdflow.baselines import Persistence
from rvdflow.forecast import forecast
from rvdflow.forecaster import Forecaster, Seen
from rvdflow.frames import Frames
from rvdflow.plan import plan
from rvdflow.portions import Truth, trial


class Fading(Forecaster):
    """The last frame, fading away: all that a method must have."""

    method = "fading"

    def roll(self, seen, cases, members, lead, seed):
        frame = seen.frames[:, None, -1:]
        for _ in range(lead):
            frame = 0.9 * frame
            yield np.repeat(frame, len(members), axis=1)


def test_a_forecaster_of_your_own_is_written_and_scored_like_any_other(flow, tmp_path):
    from evaluation.verification import verify

    opened = store.open_dataset(flow).load()
    forecast(Fading(), flow, tmp_path / "f.zarr", members=2, lead=4, context=1, quiet=True)
    written = store.open_dataset(tmp_path / "f.zarr").load()
    assert written.attrs["method"] == "fading"
    last = opened["vorticity"].sel(time=written["init_time"], trajectory=3).values
    for k in range(4):
        np.testing.assert_allclose(written["vorticity"].values[0, :, 1, k], 0.9 ** (k + 1) * last, rtol=1e-5)
    drawn = Fading().draw(Seen.of(last[:, None, None]), [(3, 0)] * len(last), range(2), 4, 0)
    np.testing.assert_allclose(drawn[:, :, :, 0], written["vorticity"].values[0], rtol=1e-6)
    scores = verify(opened, {"fading": written, "persistence": Persistence().forecast(opened, lead=4, context=1)},
                    families=["points"])  # fmt: skip
    assert np.isfinite(scores["crps"].sel(method="fading")).any()


@pytest.mark.parametrize("wrong", ["float64", "too few", "too many", "another shape"])
def test_a_method_that_draws_something_else_is_told_what_was_wanted(wrong, flow):
    class Wrong(Forecaster):
        method = "wrong"

        def roll(self, seen, cases, members, lead, seed):
            count = {"too few": 3, "too many": 5}.get(wrong, 4)
            shape = (len(cases), 1 if wrong == "another shape" else len(members), count, *seen.frames.shape[2:])
            yield np.zeros(shape, np.float64 if wrong == "float64" else np.float32)

    with pytest.raises(TypeError, match=r"wrong drew .*wanted"):
        Wrong().forecast(store.open_dataset(flow), members=2, lead=4)


# ------------------------------------------------------------------ estimates


def test_a_trial_scales_what_a_few_frames_take(monkeypatch, flow):
    import rvdflow.portions as module

    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))  # every look at it takes a second
    opened = store.open_dataset(flow)
    frames = Frames(opened, ["vorticity"])
    chosen = plan(opened, frames, members=3, lead=10, context=2, cases=1)
    # One member: one second for each frame; three members would take 3 x 2 s, less than what a trial may take.
    assert trial(Fading(), Truth.of(opened, frames), chosen).seconds == 10
    monkeypatch.setattr(module, "TRIAL_SECONDS", 5)
    estimated = trial(Fading(), Truth.of(opened, frames), chosen)
    assert (estimated.seconds, estimated.on) == (30, "the first frames of one member")


# ------------------------------------------------------------------ the page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "forecast.md"


def test_the_examples_of_the_page_run(flow, trained, tmp_path, monkeypatch):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))
    for old, new in (
        ('"flow.zarr"', repr(str(flow))), ('"runs/wake"', repr(str(trained))), ("lead=16", "lead=2"),
        ("members=32", "members=3"),
    ):  # fmt: skip
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    known: dict = {}
    exec(code, known)
    assert store.open_dataset(tmp_path / "forecast.zarr").sizes["member"] == 3
    assert known["dressed"].method == "mean-dressed"
    assert known["fading"].attrs["method"] == "fading"


def test_every_command_of_the_page_exists():
    from typer.main import get_command

    from rvdflow.cli import app

    lines = re.findall(r"^(?:torchrun --nproc-per-node 4 -m )?rvdflow (\w+) (.*)$", PAGE.read_text(), re.M)
    assert len(lines) >= 8
    for name, words in lines:
        known = {option for parameter in get_command(app).commands[name].params for option in parameter.opts}
        assert {word for word in words.split() if word.startswith("-")} <= known, words
