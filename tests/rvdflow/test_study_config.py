"""A study's file: what it may say, what it means, and what is refused before anything is trained."""

from pathlib import Path

import pytest

from lbm.errors import UsageError
from rvdflow.study_config import expand, flatten, read_study, run_config
from rvdflow.study_jobs import chosen, jobs, parse_part

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "study").glob("*.toml"))
HEAD = "[budget]\nsteps = 3\n"
CELL = "[[cell]]\nname = 'base'\n"


def study(tmp_path, text):
    file = tmp_path / "study.toml"
    file.write_text(text)
    return read_study(file)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_studies_load_and_say_what_they_take(path):
    read = read_study(path)
    assert len(jobs(read)) >= len(read.cells)
    head = path.read_text().split("\n\n")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert f"Made by: rvdflow study configs/study/{path.name}" in head
    assert "core" in head


def test_the_shipped_studies_have_every_kind_of_cell_but_stores():
    kinds = {cell.kind for path in CONFIGS for cell in read_study(path).cells}
    assert kinds == {"trained", "run", "weights", "method", "perfect"}


def test_the_samplers_are_studied_on_the_weights_of_the_skill_study():
    read = {path.stem: read_study(path) for path in CONFIGS}
    runs = [cell.run.as_posix() for cell in read["samplers"].cells if cell.run is not None]
    trained = [f"studies/skill/runs/{job.run}" for job in jobs(read["skill"]) if job.cell.kind == "trained"]
    assert set(runs) <= set(trained)


def test_settings_of_a_cell_are_those_of_the_base_and_its_own_in_either_spelling(tmp_path):
    read = study(
        tmp_path,
        HEAD + "[base]\npreset = 'small'\n[base.model]\nwidth = 8\n" + CELL
        + "[[cell]]\nname = 'dotted'\nset = { 'model.mean_loss' = 0.0, 'train.batch_size' = 2 }\n"
        + "[[cell]]\nname = 'nested'\n[cell.set.model]\nmean_loss = 0.5\n",
    )  # fmt: skip
    dotted = run_config(read, read.cell("dotted"), 5)
    assert (dotted.model.mean_loss, dotted.model.width) == (0.0, 8)
    assert (dotted.train.batch_size, dotted.train.steps, dotted.train.seed) == (2, 3, 5)
    assert run_config(read, read.cell("nested"), 0).model.mean_loss == 0.5
    assert expand(flatten({"a": {"b": {"c": 1}, "d": [2]}})) == {"a": {"b": {"c": 1}, "d": [2]}}


def test_a_preset_in_a_cell_replaces_the_base_but_not_the_budget(tmp_path):
    read = study(
        tmp_path, HEAD + "[base]\npreset = 'small'\n[base.model]\nwidth = 8\n" + CELL
        + "[[cell]]\nname = 'paper'\npreset = 'paper-64'\n",
    )  # fmt: skip
    paper = run_config(read, read.cell("paper"), 0)
    assert paper.model.width == 48
    assert paper.train.steps == 3


def test_minutes_are_the_budget_of_every_cell(tmp_path):
    read = study(tmp_path, "[budget]\nminutes = 2\n" + CELL)
    assert run_config(read, read.cells[0], 0).train.minutes == 2


REFUSED = {
    "empty budget": ("[budget]\n" + CELL, "exactly one"),
    "no budget": (CELL, "base is to be trained: a [budget] says"),
    "a run that is trained": (HEAD + "[[cell]]\nname = 'b'\nrun = 'r'\nset.model.width = 8\n", "run needs none"),
    "two budgets": ("[budget]\nsteps = 3\nminutes = 1\n" + CELL, "exactly one"),
    "unknown key": (HEAD + "[protocol]\nmember = 3\n" + CELL, "did you mean 'protocol.members'"),
    "unknown setting": (HEAD + CELL + "set.model.mean_los = 0\n", "cell base: unknown key 'model.mean_los'; did you"),
    "bad setting": (HEAD + CELL + "set.model.width = 1\n", "cell base: model.width: got 1"),
    "no preset": (HEAD + CELL + "preset = 'huge'\n", "preset 'huge' is not known"),
    "own budget": (HEAD + CELL + "set.train.steps = 9\n", "train.steps is the same for every cell"),
    "own seed": (HEAD + "[base.train]\nseed = 1\n" + CELL, "base: train.seed is the same for every cell"),
    "same name": (HEAD + CELL + CELL, "two cells are called base"),
    "same settings": (HEAD + CELL + "[[cell]]\nname = 'b'\nset.train.batch_size = 4\n", "equal those of base"),
    "no such weights": (HEAD + CELL + "[[cell]]\nname = 'b'\nweights = 'c'\nsampler = {steps = 2}\n", "not a trained"),
    "weights alone": (HEAD + CELL + "[[cell]]\nname = 'b'\nweights = 'base'\n", "give a sampler, or method"),
    "sampler alone": (HEAD + CELL + "sampler = {steps = 2}\n", "sampler needs weights"),
    "bad sampler": (HEAD + CELL + "[[cell]]\nname = 'b'\nweights = 'base'\nsampler = {name = 'x'}\n", "b: sampler"),
    "mean alone": (HEAD + CELL + "[[cell]]\nname = 'b'\nmethod = 'mean'\n", "no other, need weights"),
    "two kinds": (HEAD + CELL + "[[cell]]\nname = 'b'\nmethod = 'analog'\nperfect = true\n", "exclude each other"),
    "reference that trains": (HEAD + CELL + "method = 'analog'\nset.model.width = 8\n", "are for training"),
    "no such against": (HEAD.replace("[budget]", "against = 'x'\n[budget]") + CELL, "against 'x' is not a cell"),
    "groups of nothing": (HEAD + "[protocol.groups]\na = [[1, 2]]\n" + CELL, "groups and group_by go together"),
    "empty range": (HEAD + "[protocol]\ngroup_by = 'n'\ngroups = {a = [[2, 1]]}\n" + CELL, "groups.a: the range"),
    "bad init times": (HEAD + "[protocol]\ninit_times = 'now'\n" + CELL, "wanted frames as"),
    "name of a file elsewhere": (HEAD + "[[cell]]\nname = '../x'\n", "cell.0.name: got '../x'"),
    "one call": (
        HEAD + CELL + "set.model.objective = 'crps'\n[[cell]]\nname = 'b'\nweights = 'base'\nsampler = {steps = 2}\n",
        "cell b: base draws a frame in one step",
    ),
    "no mean": (
        HEAD
        + CELL
        + "set.model = {mean = 'zero', mean_loss = 0}\n[[cell]]\nname = 'b'\nweights = 'base'\nmethod = 'mean'\n",
        "cell b: base has mean = zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_or_told_apart_is_refused_by_name(tmp_path, what):
    text, words = REFUSED[what]
    with pytest.raises(UsageError) as refused:
        study(tmp_path, text)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 2


MANY = HEAD + "".join(
    f"[[cell]]\nname = 't{i}'\nset.model.width = {8 * (i + 1)}\n"
    f"[[cell]]\nname = 's{i}'\nweights = 't{i}'\nsampler = {{steps = 2}}\n"
    for i in range(3)
)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_parts_are_disjoint_together_the_whole_and_never_divide_a_family(tmp_path, count):
    text = "seeds = [0, 1]\n" + MANY + "[[cell]]\nname = 'p'\nmethod = 'persistence'\n"
    read = study(tmp_path, text)
    parts = [chosen(read, part=(k, count)) for k in range(1, count + 1)]
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs(read))
    families = [{job.run or job.name for job in part} for part in parts]
    assert sum(map(len, families)) == len(set().union(*families)) == 7


def test_weights_come_before_what_is_drawn_from_them_and_first_seeds_before_second(tmp_path):
    names = [job.name for job in jobs(study(tmp_path, "seeds = [0, 1]\n" + MANY))]
    assert names.index("t2-seed0") < names.index("s2-seed0") < names.index("t0-seed1")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="K/N"):
        parse_part(text)


def test_a_cell_that_does_not_exist_cannot_be_chosen(tmp_path):
    with pytest.raises(UsageError, match=r"--only x: no such cell; there are t0"):
        chosen(study(tmp_path, MANY), ["t0", "x"])
