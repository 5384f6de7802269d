"""What is told of a run is what its log and checkpoints say; its curves are the rows of its log."""

import json
import os
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from typer.testing import CliRunner

from lbm.errors import DataError, UsageError
from rvdflow import checkpoint, runlog
from rvdflow.build import build_model
from rvdflow.cli import app
from rvdflow.curves import Log, _names, curves_figure, draw_curves, running_mean
from rvdflow.info import describe
from rvdflow.info_words import in_words
from rvdflow.run_folder import prepare_folder
from rvdflow.runlog import RunLog

BATCH, EVERY, PACE = 8, 20, 0.5  # clips per step, steps per row, seconds per step


def write_log(folder, steps=400, *, keep_until=0, validations=(200, 400), pause=30.0, first=0, skipped=0):
    """Rows of a run of constant pace, whose validations take `pause` seconds each."""
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, keep_until)
    for step in range(first + EVERY, steps + 1, EVERY):
        seconds = 10.0 + PACE * step + pause * sum(v <= step for v in validations)  # 10 s until the first step
        row = {"step": step, "samples": BATCH * step, "seconds": seconds, "skipped": skipped * (step > 100)}
        row |= {"loss": 1 + 100 / step, "diffusion": 0.9 + 90 / step, "learning_rate": 1e-3, "gradient_norm": 0.5}
        row |= {"memory_mib": 300.0 + step / 100, "clips_per_second": BATCH / PACE}
        if step in validations:
            row |= {"validation_crps": 0.1 + abs(step - 200) / 1e4, "validation_crps_error": 0.01}
        log.write(row)
    return folder


@pytest.fixture
def begun(tmp_path, tiny, flow):
    """A run folder that training has begun in, with a log and no checkpoint."""
    folder = tmp_path / "begun"
    prepare_folder(folder, flow, tiny(batch_size=BATCH, steps=1000), resume=False, overwrite=False)
    return write_log(folder, skipped=3)


# ------------------------------------------------------------------ numbers


def test_speed_is_that_of_training_whatever_start_and_validations_took(begun, tiny):
    training = describe(begun)["training"]
    assert training["clips_per_second"] == pytest.approx(BATCH / PACE)
    assert training["seconds_per_step"] == pytest.approx(PACE)
    assert training["frames_per_second"] == pytest.approx(BATCH / PACE * tiny().model.clip_frames)


def test_the_best_validation_is_the_smallest_crps_with_its_step_and_time(begun):
    best = describe(begun)["training"]["validation"]
    assert (best["step"], best["value"], best["standard_error"], best["validations"]) == (200, 0.1, 0.01, 2)
    assert best["minutes"] == pytest.approx((10 + PACE * 200 + 30) / 60, abs=1e-3)


def test_losses_of_different_steps_are_not_compared(tmp_path, tiny, flow):
    """Their unit shrinks while the mean is learned: the smallest may be the worst."""
    prepare_folder(tmp_path / "run", flow, tiny(), resume=False, overwrite=False)
    log = RunLog(tmp_path / "run")
    for step, loss in ((4, 0.5), (8, 0.7)):
        log.write({"step": step, "validation_loss": loss, "seconds": 1.0 * step})
    found = describe(tmp_path / "run")
    assert found["training"]["validation"]["step"] == 8
    assert "best" not in "\n".join(in_words(found))
    (line,) = curves_figure([Log("run", log.rows)]).axes[0].lines  # and no star
    assert list(line.get_ydata()) == [0.5, 0.7]


def test_a_run_without_a_checkpoint_yet_is_told_from_its_log_and_settings(begun):
    found = describe(begun)
    assert (found["finished"], found["checkpoints"], found["config"]["preset"]) == (False, [], "small")
    training = found["training"]
    assert (training["steps"], training["steps_wanted"], training["skipped"]) == (400, 1000, 3)
    assert training["peak_memory_mib"] == 304.0
    text = "\n".join(in_words(found))
    for words in ("not finished", "400 of 1,000 steps in 4 min 30 s", "16 clips/s", "3 steps whose", "304 MiB",
                  "fair CRPS 0.1 ± 0.01", "no checkpoint yet"):  # fmt: skip
        assert words in text


def test_a_budget_of_minutes_is_told_as_such(tmp_path, tiny, flow):
    prepare_folder(tmp_path / "run", flow, tiny(minutes=30), resume=False, overwrite=False)
    write_log(tmp_path / "run")
    found = describe(tmp_path / "run")
    assert (found["training"]["steps_wanted"], found["training"]["minutes_wanted"]) == (None, 30)
    assert "400 steps in 4 min 30 s of 30 min 00 s" in "\n".join(in_words(found))


def test_a_finished_run_is_told_as_its_checkpoint_says(trained, tiny):
    found = describe(trained)
    kept = checkpoint.read(checkpoint.find(trained))
    model = build_model(tiny(), (1, 8, 16))
    assert found["finished"]
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["training"]["validation"]["value"] == kept.meta["validation_crps"]
    assert found["training"]["peak_memory_mib"] > 0
    text = "\n".join(in_words(found))
    assert text.splitlines()[0] == f"{trained}: finished"
    assert f"residual inflated by {kept.meta['inflation']:.3g}" in text
    assert f"{found['parameters']:,} parameters" in text
    assert kept.sha256[:12] in text


def test_check_reads_every_checkpoint_and_names_the_damaged_one(trained, tmp_path):
    import shutil

    run = shutil.copytree(trained, tmp_path / "run")
    oldest = checkpoint.step_files(run / "checkpoints")[0]
    oldest.write_bytes(oldest.read_bytes()[:-7])
    assert describe(run)["checked"] == [checkpoint.find(run).name]
    with pytest.raises(DataError, match=f"{oldest.name}: damaged"):
        describe(run, check=True)


def test_who_trains_is_told_while_the_process_lives(begun):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = begun.with_name("begun.lock")
    for pid, host, alive in (
        (os.getpid(), socket.gethostname(), True),
        (ended.pid, socket.gethostname(), False),
        (1, "elsewhere", True),
    ):
        lock.write_text(f"process {pid} on {host}\n")
        assert describe(begun)["writer"] == (f"process {pid} on {host}" if alive else None)
    lock.write_text("nonsense")
    assert describe(begun)["writer"] is None


def test_the_command_tells_several_runs_and_draws_them(begun, trained, tmp_path):
    picture = tmp_path / "both.svg"
    answer = CliRunner().invoke(app, ["info", str(begun), str(trained), "--json", "--curves", str(picture)])
    assert answer.exit_code == 0, answer.output
    assert [one["path"] for one in json.loads(answer.stdout)] == [str(begun), str(trained)]
    text = "".join(ET.parse(picture).getroot().itertext())
    assert "begun" in text
    assert trained.name in text


# ------------------------------------------------------------------ curves


def _lines(figure, title):
    (axes,) = [a for a in figure.axes if a.get_title(loc="left").startswith(title)]
    return axes, {to_hex(line.get_color()): line for line in axes.lines}


def test_the_curves_are_the_rows_of_the_log(tmp_path):
    rows = runlog.read(write_log(tmp_path / "run"))
    figure = curves_figure([Log("run", rows)])
    axes, _ = _lines(figure, "Loss")
    loss, part = axes.lines
    steps = [row["step"] for row in rows]
    for line, name in ((loss, "loss"), (part, "diffusion")):
        assert list(line.get_xdata()) == steps
        assert list(line.get_ydata()) == [row[name] for row in rows]
    validation = _lines(figure, "Validation")[0].lines
    assert list(validation[0].get_xdata()) == [200, 400]
    assert validation[1].get_xydata().tolist() == [[200, 0.1]]  # the star


def test_minutes_stand_above_the_steps_they_were_reached_at(tmp_path):
    rows = runlog.read(write_log(tmp_path / "run"))
    figure = curves_figure([Log("run", rows)])
    (above,) = figure.axes[0].child_axes
    to_minutes, to_steps = above._functions
    steps = np.array([row["step"] for row in rows], dtype=float)
    minutes = np.array([row["seconds"] for row in rows]) / 60
    np.testing.assert_allclose(to_minutes(steps), minutes, rtol=1e-6)
    np.testing.assert_allclose(to_steps(minutes), steps, rtol=1e-6)


def test_the_axis_may_count_minutes(tmp_path):
    rows = runlog.read(write_log(tmp_path / "run"))
    figure = curves_figure([Log("run", rows, "minutes")])
    assert list(figure.axes[0].lines[0].get_xdata()) == [row["seconds"] / 60 for row in rows]
    assert not figure.axes[0].child_axes


def test_a_resumed_run_is_drawn_once(tmp_path):
    run = write_log(tmp_path / "run", 300)
    write_log(run, 400, keep_until=200, first=200)
    figure = curves_figure([Log("run", runlog.read(run))])
    assert list(figure.axes[0].lines[0].get_xdata()) == list(range(EVERY, 401, EVERY))


def test_two_objectives_are_compared_in_one_picture_each_in_its_colour(tmp_path):
    logs = [Log(n, runlog.read(write_log(tmp_path / n, 400 + 100 * k))) for k, n in enumerate(("a", "b"))]
    for row in logs[1].rows:
        row["crps"] = row.pop("diffusion")
    figure = curves_figure(logs)
    shown = {text.get_text(): to_hex(line.get_color()) for line, text in
             zip(figure.legends[0].get_lines(), figure.legends[0].get_texts(), strict=True)}  # fmt: skip
    assert shown.keys() == {"a", "b"}
    assert shown["a"] != shown["b"]
    _, rates = _lines(figure, "Learning rate")
    for log in logs:
        assert list(rates[shown[log.name]].get_xdata()) == [row["step"] for row in log.rows]
    assert len(figure.axes[0].child_axes) == 2  # minutes of each


def test_a_loss_that_was_not_finite_is_a_gap_and_skipped_steps_are_marked(tmp_path):
    run = write_log(tmp_path / "run", 200, skipped=2)
    log = RunLog(run, keep_until=200)
    log.write({"step": 220, "loss": float("nan"), "gradient_norm": float("inf"), "skipped": 3, "seconds": 130.0})
    figure = curves_figure([Log("run", runlog.read(run))])
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[-1])
    gradient, _ = _lines(figure, "Norm of the gradient")
    assert list(gradient.lines[-1].get_xdata()) == [120, 220]
    assert gradient.get_legend().get_texts()[0].get_text() == "3 steps skipped"


def test_panels_without_numbers_are_left_out(tmp_path):
    figure = curves_figure([Log("run", runlog.read(write_log(tmp_path / "run", validations=())))])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss and its parts", "Learning rate", "Norm of the gradient"]


def test_one_row_is_enough_and_a_line_cut_short_does_no_harm(tmp_path):
    run = write_log(tmp_path / "run", EVERY)
    with open(run / "log.jsonl", "a") as stream:
        stream.write('{"step": 40, "lo')
    draw_curves([run], tmp_path / "c.png")


@given(st.lists(st.floats(-10, 10) | st.just(float("nan")), min_size=1, max_size=40), st.integers(1, 9))
def test_the_running_mean_is_the_mean_of_what_is_known_around(values, half):
    width = 2 * half + 1
    if width > len(values):
        return
    found = running_mean(np.array(values), width)
    for k in range(len(values)):
        known = [v for v in values[max(0, k - half) : k + half + 1] if v == v]
        if known:
            assert found[k] == pytest.approx(sum(known) / len(known), abs=1e-9)
        else:
            assert np.isnan(found[k])


def test_the_suffix_chooses_the_format_and_equal_logs_give_equal_files(tmp_path):
    run = write_log(tmp_path / "run")
    png, svg = (draw_curves([run], tmp_path / f"c.{suffix}") for suffix in ("png", "svg"))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert ET.parse(svg).getroot().tag.endswith("svg")
    again = draw_curves([run], tmp_path / "again.svg")
    assert again.read_bytes() == svg.read_bytes()


def test_nothing_is_overwritten_unasked_and_mistakes_are_named(tmp_path):
    run, picture = write_log(tmp_path / "run"), tmp_path / "c.png"
    picture.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        draw_curves([run], picture)
    assert picture.read_text() == "mine"
    draw_curves([run], picture, overwrite=True)
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        draw_curves([run], tmp_path / "c.doc")
    with pytest.raises(UsageError, match="wanted steps or minutes"):
        draw_curves([run], tmp_path / "d.png", by="hours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no log with rows"):
        draw_curves([tmp_path / "empty"], tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    runs = [tmp_path / "small" / "seed-0", tmp_path / "large" / "seed-0"]
    assert _names(runs) == ["small/seed-0", "large/seed-0"]
    assert _names(runs[:1]) == ["seed-0"]
