"""Later sources win, and whatever is wrong is refused with the key, the source and the nearest key."""

import contextlib
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from lbm.errors import UsageError
from lbm.settings import parse_assignment, resolve


class Train(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    steps: int = 100


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int = 0
    name: str = "run"
    sizes: tuple[int, ...] = (1, 2)
    train: Train = Train()


def resolved(tmp_path, toml="", sets=(), **flags):
    file = tmp_path / "config.toml"
    file.write_text(toml)
    return resolve(Config, file=file, sets=sets, flags=flags)


def test_defaults_stand_when_nothing_is_given():
    config = resolve(Config, file=None, sets=[], flags={"seed": None})
    assert config == Config()
    assert config.model_fields_set == set()


def test_precedence_is_defaults_file_then_sets_and_flags(tmp_path):
    toml = 'seed = 1\nname = "file"\n[train]\nsteps = 7\nlearning_rate = 0.5\n'
    config = resolved(tmp_path, toml, ["train.steps=8", "name=from set"], seed=3)
    assert (config.seed, config.name) == (3, "from set")
    assert (config.train.steps, config.train.learning_rate) == (8, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ("a=1e-3", ("a", 1e-3)),
        ("a = [1, 2]", ("a", [1, 2])),
        ("a=true", ("a", True)),
        ("a=cylinder", ("a", "cylinder")),
        ("a=64x128", ("a", "64x128")),
        ("a=x=y", ("a", "x=y")),
        ("a=1\nb=2", ("a", "1\nb=2")),
        ("a=", ("a", "")),
    ],
)
def test_set_values_are_toml_and_bare_words_are_text(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ("toml", "sets", "message"),
    [
        ("sede = 1", [], r"config\.toml: unknown key 'sede'; did you mean 'seed'"),
        ("[train]\nstep = 1", [], "unknown key 'train.step'; did you mean 'train.steps'"),
        ("", ["trian.steps=1"], "--set trian.steps.*did you mean 'train"),
        ('seed = "many"', [], r"config\.toml: seed: got 'many'.*integer"),
        (
            "",
            ["train.learning_rate=-1"],
            "--set train.learning_rate: got -1: .*greater than 0",
        ),
        ("", ["seed.x=1"], "seed"),
        ("", ["seed"], "KEY=VALUE"),
        ("", ["=3"], "KEY=VALUE"),
        ("", ["a..b=3"], "KEY=VALUE"),
        ("seed = ", [], r"config\.toml is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, [], "nested too deeply"),
        ("a = " + "[" * 40 + "]" * 40, [], "nested too deeply"),
        ("x = 1\n" * 400_000, [], "larger than"),
    ],
)
def test_hostile_configurations_are_refused_with_the_reason(tmp_path, toml, sets, message):
    with pytest.raises(UsageError, match=message) as caught:
        resolved(tmp_path, toml, sets)
    assert len(str(caught.value).splitlines()) <= 2
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_wrong_flag_is_named_as_it_was_typed(tmp_path):
    with pytest.raises(UsageError, match="--seed: got 'x'"):
        resolved(tmp_path, seed="x")


def test_missing_binary_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        resolve(Config, file=tmp_path / "none.toml", sets=[], flags={})
    with pytest.raises(UsageError, match="cannot read"):
        resolve(Config, file=tmp_path, sets=[], flags={})
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="not valid TOML"):
        resolve(Config, file=tmp_path / "binary.toml", sets=[], flags={})


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_text_of_set_is_accepted_or_refused_cleanly(texts):
    with contextlib.suppress(UsageError):
        resolve(Config, file=None, sets=texts, flags={})
