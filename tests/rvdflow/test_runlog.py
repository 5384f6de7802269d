"""The log of a run: nothing lost, nothing twice, whatever kinds of rows there are and whenever it was killed."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbm.errors import UsageError
from rvdflow import runlog
from rvdflow import tensorboard as board
from rvdflow.runlog import RunLog

TRAINING = {"loss": 0.5, "diffusion": 0.4, "mean": 0.1, "learning_rate": 1e-3, "gradient_norm": 2.0}
VALIDATION = {"validation_crps": 0.1, "validation_spread_skill": [0.9, 1.1]}


def _table(folder):
    with open(folder / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def _row(step, *parts):
    return {"step": step, "seconds": float(step), **{k: v for part in parts for k, v in part.items()}}


def test_rows_of_different_kinds_keep_all_their_columns(tmp_path):
    log = RunLog(tmp_path)
    rows = [_row(1, TRAINING), _row(1, VALIDATION), _row(2, TRAINING), _row(3, TRAINING, VALIDATION)]
    for row in rows:
        log.write(row)
    assert runlog.read(tmp_path) == rows
    for found, row in zip(_table(tmp_path), rows, strict=True):
        assert {k: json.loads(v) for k, v in found.items() if v} == row


names = st.sampled_from(["loss", "mean", "validation_crps", "learning_rate", "a,b", 'quote"'])
values = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9), st.lists(st.integers(0, 9)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(names, values), max_size=6), st.integers(0, 7))
def test_the_table_holds_what_the_lines_hold_before_and_after_a_resume(tmp_path_factory, parts, kept):
    folder = tmp_path_factory.mktemp("run")
    rows = [{"step": k + 1, **part} for k, part in enumerate(parts)]
    log = RunLog(folder)
    for row in rows:
        log.write(row)
    RunLog(folder, keep_until=kept)
    wanted = rows[:kept]
    assert runlog.read(folder) == wanted
    assert [{k: json.loads(v) for k, v in row.items() if v} for row in _table(folder)] == wanted


def test_a_resumed_log_goes_on_after_the_last_row_that_is_kept(tmp_path):
    log = RunLog(tmp_path)
    for step in (2, 4, 6):
        log.write(_row(step, TRAINING))
    with open(tmp_path / "log.jsonl", "a") as stream:
        stream.write('{"step": 8, "lo')  # killed while it was writing
    resumed = RunLog(tmp_path, keep_until=4)
    assert resumed.seconds == 4
    resumed.write(_row(6, VALIDATION))
    assert [row["step"] for row in runlog.read(tmp_path)] == [2, 4, 6]
    assert [int(row["step"]) for row in _table(tmp_path)] == [2, 4, 6]


def test_numbers_that_are_not_finite_are_null_in_the_lines(tmp_path):
    RunLog(tmp_path).write({"step": 1, "loss": float("nan"), "validation_spread_skill": [float("inf"), 1.0]})
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "loss": None, "validation_spread_skill": [None, 1.0]}


# ------------------------------------------------------------------ TensorBoard


class Events:
    """A SummaryWriter as far as ours uses it; its file holds one line per scalar."""

    def __init__(self, log_dir, purge_step=None):
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        number = len(list(Path(log_dir).iterdir()))
        self.path = Path(log_dir) / f"events.out.tfevents.{number}"
        self.path.write_text(json.dumps({"purge": purge_step}) + "\n")
        self.held = ""

    def add_scalar(self, tag, value, step):
        self.held += json.dumps([tag, float(value), int(step)]) + "\n"

    def flush(self):
        with open(self.path, "a") as stream:
            stream.write(self.held)
        self.held = ""

    close = flush


def _scalars(folder):
    """What TensorBoard shows: {tag: [(step, value)]}; a later file makes steps from its purge_step on void."""
    found: dict = {}
    for path in sorted((folder / "tensorboard").glob("events.*")):
        head, *lines = (json.loads(line) for line in path.read_text().splitlines())
        found = {tag: [point for point in points if point[0] < head["purge"]] for tag, points in found.items()}
        for tag, value, step in lines:
            found.setdefault(tag, []).append((step, value))
    return found


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Events))


def test_tensorboard_has_every_number_of_every_row_at_its_step(tmp_path, events):
    log = RunLog(tmp_path, tensorboard=True)
    log.write(_row(1, TRAINING))
    log.write(_row(2, TRAINING, VALIDATION))
    found = _scalars(tmp_path)  # on disk before it is closed: a run may be killed
    assert found["training/loss"] == [(1, 0.5), (2, 0.5)]
    assert found["validation/crps"] == [(2, 0.1)]
    assert set(found) == {board.tag(name) for name in [*TRAINING, "validation_crps"]}


def test_tensorboard_shows_no_step_twice_and_none_too_few_after_a_resume(tmp_path, events):
    log = RunLog(tmp_path, tensorboard=True)
    for step in (1, 2, 3):
        log.write(_row(step, TRAINING))
    file = log.board.writer.path
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + "\n")  # the machine went down: not all is on disk
    resumed = RunLog(tmp_path, keep_until=2, tensorboard=True)
    resumed.write(_row(3, {**TRAINING, "loss": 0.25}))
    resumed.close()
    assert _scalars(tmp_path)["training/loss"] == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert file.exists()  # a TensorBoard that reads it would not look further if it were gone


def test_a_missing_tensorboard_is_named_with_what_to_do_and_the_log_is_untouched(tmp_path, monkeypatch):
    RunLog(tmp_path).write(_row(1, TRAINING))
    before = (tmp_path / "log.jsonl").read_bytes()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        RunLog(tmp_path, tensorboard=True)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_tensorboard_is_imported_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    RunLog(tmp_path).write(_row(1, TRAINING))
    assert not (tmp_path / "tensorboard").exists()
