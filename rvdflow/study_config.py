"""What a study is: a base configuration, cells that differ from it in named settings, one budget, one protocol.

    [base]       settings of a run, as in configs/rvdflow/*.toml
    [budget]     steps or minutes of training, the same for every cell that is trained
    [protocol]   which forecasts are made and scored, the same for every cell
    [[cell]]     one row of the table; see `Cell` for what it may be
    [report]     if there is one: all forecasts are verified together, too

A trained cell is `[base]` with the settings of its `set` on top; the budget and the seed come last, so that no cell can
have more of either. Nothing here needs torch, except for cells of systems other than residual video diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lbm.errors import UsageError
from lbm.settings import explain, load_toml
from rvdflow.config import SamplerConfig, Settings
from rvdflow.methods import method
from rvdflow.train_config import RunConfig, merge

OF_WEIGHTS = ("mean", "mean-dressed", "dressed", "deep-ensemble")  # other forecasts with weights that are there
EQUAL = ("train.steps", "train.minutes", "train.seed")  # what no cell may choose for itself


class Budget(Settings):
    """Training that every trained cell gets: gradient steps, or minutes."""

    steps: int | None = Field(None, ge=1, le=10**8, description="gradient steps")
    minutes: float | None = Field(None, gt=0, le=10**6, description="minutes of training")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a budget is steps or minutes: give exactly one of them")
        return self


class Protocol(Settings):
    """Which forecasts are made and scored."""

    members: int = Field(32, ge=2, le=10_000, description="members of each ensemble")
    lead: int = Field(16, ge=1, le=10_000, description="frames forecast")
    context: int = Field(4, ge=1, le=1000, description="frames seen")
    split: Literal["test", "validation", "train"] = Field("test", description="which runs")
    init_times: tuple[int, ...] | None = Field(None, description='frames to start from: [20, 60] or "20:380:20"')
    stride: int | None = Field(None, ge=1, description="frames between init times; default: lead")
    cases: int | None = Field(None, ge=1, description="at most so many cases, spread evenly")
    seed: int = Field(0, ge=0, description="of the noise of the forecasts")
    variable: str | None = Field(None, description="what is scored; default: vorticity, or the only one")
    group_by: str | None = Field(None, description="a number of each run, such as reynolds")
    groups: dict[str, tuple[tuple[float, float], ...]] = Field(
        {}, description="name = [[low, high], ...]: runs whose number lies in a range, both ends included"
    )

    @field_validator("init_times", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            parts = [int(part) for part in value.split(":")]
            if len(parts) not in (2, 3):
                raise ValueError
            return tuple(range(*parts))
        except ValueError:
            raise ValueError("wanted frames as [20, 60] or '20:380:20'") from None

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if bool(self.groups) != (self.group_by is not None):
            raise ValueError("groups and group_by go together: group_by names the number whose ranges groups are")
        for name, ranges in self.groups.items():
            for low, high in ranges:
                if low > high:
                    raise ValueError(f"groups.{name}: the range [{low:g}, {high:g}] is empty")
        if self.init_times is not None and not self.init_times:
            raise ValueError("init_times is empty: name at least one")
        return self


class Report(Settings):
    """A page on all forecasts together, and a table as papers print them."""

    protocol: str | None = Field(None, description="a published way of scoring, such as rvd")
    families: tuple[str, ...] | None = Field(None, description="groups of statistics; default: all that there are")
    fvd_weights: Path | None = Field(None, description="weights of the network of FVD")


class Cell(Settings):
    """One row of the table, in one of six kinds.

    trained     [base] and what `set` changes (with `preset`: that preset instead of [base]); one run for each seed
    run         a run that exists, with whatever budget it was trained
    weights     drawn from the weights of the trained cell or run `weights`, with another `sampler`, or by a `method`:
                "mean" or "mean-dressed" (of a residual diffusion), "dressed" (of a deterministic network), or
                "deep-ensemble" (a member for the training of each seed)
    method      a reference forecast, such as "analog"
    store       a forecast that exists
    perfect     the perfect-model ensemble of `lbm ensemble`, for a dataset with saved states
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$", description="row of the table, and of its files")
    description: str = Field("", description="a few words")
    set: dict[str, Any] = Field({}, description="settings that differ from [base], as model.mean_loss = 0.0")
    preset: str | None = Field(None, description="start from this preset instead of [base]")
    run: Path | None = Field(None, description="a run that exists: its folder, a checkpoint or an exported model")
    weights: str | None = Field(None, description="a trained cell or run whose weights are used")
    sampler: dict[str, Any] = Field({}, description="name, steps and other settings of a sampler, with weights")
    method: str | None = Field(
        None, description="a reference forecast; with weights: mean, mean-dressed, dressed or deep-ensemble"
    )
    store: Path | None = Field(None, description="a forecast that exists")
    perfect: bool = Field(False, description="the solver's own ensemble")

    @field_validator("set", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return flatten(value) if isinstance(value, Mapping) else value

    @property
    def pooled(self) -> bool:
        """Whether it takes the trainings of all seeds together."""
        return self.method == "deep-ensemble"

    @property
    def kind(self) -> Literal["trained", "run", "weights", "method", "store", "perfect"]:
        if self.run is not None:
            return "run"
        if self.weights is not None:
            return "weights"
        if self.method is not None:
            return "method"
        return "store" if self.store is not None else "perfect" if self.perfect else "trained"

    @model_validator(mode="after")
    def _one_kind(self) -> Cell:
        given = [k for k in ("run", "weights", "method", "store", "perfect") if getattr(self, k)]
        if len(given) > 1 and given != ["weights", "method"]:
            raise ValueError(f"{self.name}: {' and '.join(given)} exclude each other: a cell is one kind of forecast")
        if given and (self.set or self.preset):
            raise ValueError(f"{self.name}: set and preset are for training, {given[0]} needs none: leave them out")
        if self.weights is not None and bool(self.sampler) == (self.method is not None):
            raise ValueError(f"{self.name}: with weights give a sampler, or method: one of {', '.join(OF_WEIGHTS)}")
        if self.sampler and self.weights is None:
            raise ValueError(f"{self.name}: sampler needs weights; a trained cell sets model.sampler.name and .steps")
        if (self.method in OF_WEIGHTS) != (self.weights is not None and self.method is not None):
            these = ", ".join(OF_WEIGHTS)
            raise ValueError(f"{self.name}: method {self.method!r}: {these}, and no other, need weights")
        for key in EQUAL:
            if key in self.set:
                raise ValueError(f"{self.name}: {key} is the same for every cell: it belongs to [budget] or seeds")
        return self


class Study(Settings):
    """A list of cells to be trained and scored alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    title: str = Field("Study", description="heading of the table")
    base: dict[str, Any] = Field({}, description="settings of a run that the cells start from")
    budget: Budget | None = Field(None, description="training of every cell that is trained")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="trainings of every cell")
    protocol: Protocol = Field(Protocol(), description="what is forecast and scored")
    report: Report | None = Field(None, description="verify all forecasts together, too")
    against: str | None = Field(None, description="the cell that changes are told against; default: the first trained")
    cells: tuple[Cell, ...] = Field(alias="cell", min_length=1, description="rows of the table, in its order")

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        names = [cell.name for cell in self.cells]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two cells are called {name}: give each its own name")
        trained = [cell.name for cell in self.cells if cell.kind == "trained"]
        if trained and self.budget is None:
            raise ValueError(f"{trained[0]} is to be trained: a [budget] says for how many steps or minutes")
        for cell in self.cells:
            if cell.weights is not None and cell.weights not in self.with_weights:
                there = ", ".join(self.with_weights) or "none"
                raise ValueError(
                    f"{cell.name}: weights {cell.weights!r} is not a trained cell or a run; there: {there}"
                )
        if self.against is not None and self.against not in names:
            raise ValueError(f"against {self.against!r} is not a cell: choose one of {', '.join(names)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} hold one twice")
        return self

    @property
    def against_cell(self) -> str:
        """The cell that the others are compared with."""
        return self.against or (self.with_weights or [self.cells[0].name])[0]

    @property
    def with_weights(self) -> list[str]:
        """Cells that have weights of their own: those that are trained, and runs that exist."""
        return [cell.name for cell in self.cells if cell.kind in ("trained", "run")]

    def cell(self, name: str) -> Cell:
        """The cell called `name`."""
        return next(cell for cell in self.cells if cell.name == name)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: {"model": {"width": 8}} -> {"model.width": 8}."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def expand(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables, the inverse of `flatten`."""
    found: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        one: dict[str, Any] = {last: value}
        for parent in reversed(parents):
            one = {parent: one}
        found = merge(found, one)
    return found


def read_study(file: Path) -> Study:
    """The study in a TOML file, every cell of it checked. UsageError names the cell and the key that is wrong."""
    try:
        study = Study.model_validate(load_toml(file))
    except ValidationError as error:
        raise UsageError(explain(error, Study, {"": str(file)})) from None
    check(study)
    return study


def check(study: Study) -> None:
    """Refuse before anything is trained what could not be trained, drawn or told apart. UsageError."""
    for key in EQUAL:
        if key in flatten(study.base):
            raise UsageError(f"base: {key} is the same for every cell: it belongs to [budget] or seeds")
    configs: dict[str, RunConfig] = {}
    for cell in study.cells:
        if cell.kind == "trained":
            config = run_config(study, cell, study.seeds[0])
            for name, other in configs.items():
                if config == other:
                    raise UsageError(f"cell {cell.name}: its settings equal those of {name}: nothing to compare")
            configs[cell.name] = config
    _check_report(study)
    for cell in study.cells:
        if cell.weights is None:
            continue
        if cell.pooled and (len(study.seeds) < 2 or cell.weights not in configs):
            raise UsageError(f"cell {cell.name}: a deep ensemble needs weights that are trained with two or more seeds")
        if cell.weights not in configs:  # a run that exists is read when its turn comes
            sampler_config(SamplerConfig(), cell)
            continue
        model, system = configs[cell.weights].model, configs[cell.weights].system
        if cell.pooled:
            continue
        dressed = system != "rvd" and not method(system)[1].stochastic
        if (cell.method == "dressed" and not dressed) or (cell.method != "dressed" and system != "rvd"):
            what = f"method {cell.method}" if cell.method else "a sampler"
            raise UsageError(f"cell {cell.name}: {what} is not for weights of {system}")
        if system != "rvd":
            continue
        if cell.sampler:
            sampler_config(model.sampler, cell)
        if cell.sampler and model.objective == "crps":
            raise UsageError(f"cell {cell.name}: {cell.weights} draws a frame in one step: it has no sampler to choose")
        if cell.method and model.mean == "zero":
            raise UsageError(f"cell {cell.name}: {cell.weights} has mean = zero: it has no mean to forecast with")


def _check_report(study: Study) -> None:
    """UsageError for a report that could not be made of the study's forecasts."""
    from evaluation.layout import FAMILIES
    from evaluation.protocols import PROTOCOLS

    report, cases = study.report, study.protocol
    if report is None:
        return
    if report.protocol is not None and report.protocol not in PROTOCOLS:
        raise UsageError(f"report.protocol: {report.protocol!r} is not known: use {', '.join(PROTOCOLS)}")
    for name in report.families or ():
        if name not in FAMILIES:
            raise UsageError(f"report.families: {name!r} is not known: use {', '.join(FAMILIES)}")
    asked = PROTOCOLS[report.protocol] if report.protocol is not None else None
    if asked is None or asked.init_time is None:
        return
    if asked.init_time not in (cases.init_times or ()) or cases.lead < asked.leads:
        raise UsageError(
            f"report.protocol {report.protocol} scores leads 1 to {asked.leads} after frame {asked.init_time}: "
            "protocol.init_times and protocol.lead must hold these"
        )


def run_config(study: Study, cell: Cell, seed: int) -> RunConfig:
    """The configuration of the run that trains `cell` with `seed`. UsageError when it is not one."""
    given = merge({"preset": cell.preset} if cell.preset else study.base, expand(cell.set))
    given_budget = {} if study.budget is None else study.budget.model_dump()
    budget = {k: v for k, v in given_budget.items() if v is not None or k == "minutes"}
    try:
        return RunConfig.model_validate(merge(given, {"train": {**budget, "seed": seed}}))
    except ValidationError as error:
        raise UsageError(f"cell {cell.name}: {explain(error, RunConfig, {})}") from None


def sampler_config(trained_with: SamplerConfig, cell: Cell) -> SamplerConfig:
    """The sampler of a cell: its own settings over those the weights come with. UsageError when it is not one."""
    try:
        return SamplerConfig.model_validate({**trained_with.model_dump(), **cell.sampler})
    except ValidationError as error:
        raise UsageError(f"cell {cell.name}: sampler: {explain(error, SamplerConfig, {})}") from None


def described(model: BaseModel) -> dict[str, Any]:
    """A configuration as plain JSON data."""
    return model.model_dump(mode="json")


def kind_of(cell: Cell) -> str:
    """A few words on what a cell is."""
    if cell.kind == "trained":
        changes = ", ".join(f"{key} = {value}" for key, value in cell.set.items())
        return changes or (f"preset {cell.preset}" if cell.preset else "base")
    if cell.kind == "weights":
        how = cell.method or " ".join(str(v) for v in cell.sampler.values())
        return f"{how}, weights of {cell.weights}"
    names = {"method": str(cell.method), "store": str(cell.store), "run": str(cell.run), "perfect": "perfect model"}
    return names[cell.kind]
