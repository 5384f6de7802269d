"""Checkpoints: whole or absent, verified, never executed."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from lbm.errors import DataError
from rvdflow import checkpoint


def saved(folder, step=3):
    state = {"weights": {"w": torch.arange(1000.0), "n": torch.tensor(7)}}
    return checkpoint.save_step(folder, step, {"step": step, "pi": 3.141592653589793}, state)


def test_what_is_saved_is_read_back(tmp_path):
    path = saved(tmp_path)
    loaded = checkpoint.read(path)
    assert loaded.meta["pi"] == 3.141592653589793
    assert loaded.state["weights"]["w"].equal(torch.arange(1000.0))
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "latest").read_text().split() == ["checkpoints/step-000003.pt", loaded.sha256]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_flipped_bit_is_refused_by_name(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        spoiled = bytearray(content)
        spoiled[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(spoiled)
        with pytest.raises(DataError, match=r"step-000003\.pt: damaged, its SHA-256"):
            checkpoint.read(path)
    path.write_bytes(content)
    checkpoint.read(path)


def test_a_truncated_or_empty_file_is_refused_by_name(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"step-000003\.pt: damaged"):
            checkpoint.read(path)


def test_truncation_is_refused_even_with_a_matching_checksum(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        with_checksum(path, content[:length])
        with pytest.raises(DataError, match="not a checkpoint of rvdflow"):
            checkpoint.read(path)


def test_a_missing_or_empty_checksum_is_refused(tmp_path):
    path = saved(tmp_path)
    checkpoint.checksum_path(path).write_text("")
    with pytest.raises(DataError, match="damaged"):
        checkpoint.read(path)
    checkpoint.checksum_path(path).unlink()
    with pytest.raises(DataError, match=r"step-000003\.pt\.sha256 is missing"):
        checkpoint.read(path)


def with_checksum(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    checkpoint.checksum_path(path).write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


class Harmful:
    """Unpickling this would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def torch_file(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [pickle.dumps, torch_file, lambda h: torch_file({"meta": "{}", "weights": h})])
def test_code_in_a_checkpoint_is_never_executed(tmp_path, wrap):
    trap = tmp_path / "trap"
    with_checksum(tmp_path / "evil.pt", wrap(Harmful(str(trap))))
    with pytest.raises(DataError, match=r"evil\.pt: not a checkpoint of rvdflow, refused"):
        checkpoint.read(tmp_path / "evil.pt")
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [{}, [], {"meta": 3}, {"meta": "no json"}, {"meta": "[]"}, {"meta": '{"format": "x", "version": 1}'}],
)
def test_files_without_our_description_are_refused(tmp_path, content):
    with_checksum(tmp_path / "other.pt", torch_file(content))
    with pytest.raises(DataError, match=r"other\.pt"):
        checkpoint.read(tmp_path / "other.pt")


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(tmp_path):
    module = torch.nn.Linear(3, 2)
    with pytest.raises(DataError, match="do not fit the network"):
        checkpoint.load_weights(module, torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    broken = {k: torch.full_like(v, torch.nan) for k, v in module.state_dict().items()}
    with pytest.raises(DataError, match="weight holds numbers that are not finite"):
        checkpoint.load_weights(module, broken, tmp_path / "a.pt")


def test_only_the_last_two_checkpoints_are_kept_and_the_best_wins_then_the_final_one(tmp_path):
    for step in (5, 10, 15, 20):
        saved(tmp_path, step)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    kept = ["step-000015.pt", "step-000020.pt"]
    assert names == sorted(kept + [f"{name}.sha256" for name in kept])
    assert checkpoint.find(tmp_path).name == "step-000020.pt"
    for name in ("final.pt", "best.pt"):
        checkpoint.write(tmp_path / "checkpoints" / name, {}, {})
        assert checkpoint.find(tmp_path).name == name


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning_that_names_it(tmp_path, capsys):
    assert checkpoint.newest_whole(tmp_path) is None
    older, newer = saved(tmp_path, 5), saved(tmp_path, 10)
    assert checkpoint.newest_whole(tmp_path) == newer
    assert capsys.readouterr().err == ""
    newer.write_bytes(newer.read_bytes()[:-1])
    assert checkpoint.newest_whole(tmp_path) == older
    message = capsys.readouterr().err
    assert "step-000010.pt: damaged" in message
    assert "going on from step-000005.pt" in message
    older.write_bytes(b"")
    with pytest.raises(DataError, match=r"step-000010\.pt: damaged"):
        checkpoint.newest_whole(tmp_path)


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(DataError, match="no such run folder"):
        checkpoint.find(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a run folder"):
        checkpoint.find(tmp_path)
    with pytest.raises(DataError, match="no trained run under"):
        checkpoint.newest_run(tmp_path)


def test_killed_while_saving_there_is_always_a_whole_newest_checkpoint(tmp_path):
    """Ten children save without end and are killed at random moments; one process, so torch is imported once."""
    script = """
        import os, random, signal, sys, time, torch
        from pathlib import Path
        from rvdflow import checkpoint
        torch.set_num_threads(1)
        random.seed(1)
        step = 1
        run = Path(sys.argv[1])
        state = lambda s: {"weights": {"w": torch.full((300_000,), float(s))}}
        checkpoint.save_step(run, step, {}, state(step))
        for trial in range(10):
            child = os.fork()
            if not child:
                while True:
                    step += 1
                    checkpoint.save_step(run, step, {}, state(step))
            time.sleep(0.03 + 0.1 * random.random())
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            newest = checkpoint.newest_step(run)
            step = int(newest.name[5:11])
            assert checkpoint.read(newest).state["weights"]["w"].unique().tolist() == [step]
            for path in checkpoint.step_files(newest.parent):
                checkpoint.read(path)
        checkpoint.save_step(run, step + 1, {}, state(step + 1))
        assert len(checkpoint.step_files(run / "checkpoints")) == 2  # what the killed ones left is cleared away
        print(step)
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 10
