"""Obstacles as a user names them, one table each, and what is filled in where a table leaves something open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lbm.errors import UsageError
from lbm.parsing import flat_pairs, numbers

if TYPE_CHECKING:
    from lbm.obstacles import Obstacle

Finite = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[tuple[Finite, Finite], BeforeValidator(numbers)]
OPEN = ("size", "centre", "angle", "spin")  # filled in from the short form: diameter, centre, angle, spin


class ObstacleConfig(BaseModel):
    """One obstacle. Lengths in cells, angles in degrees; fields as `lbm.obstacles.Obstacle`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Literal["cylinder", "ellipse", "square", "polygon", "naca", "image"]
    centre: Pair | None = Field(None, description="x,y (cells); of an aerofoil the middle of its chord")
    size: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="cells: diameter; first axis of an ellipse, side of a square, chord of an aerofoil, width of an "
        "image, diameter of the circle around a polygon of `corners`, unit length of one with `vertices`",
    )
    angle: Annotated[float, Field(ge=-360, le=360)] | None = Field(
        None, description="degrees, counter-clockwise; the angle of attack of an aerofoil is -angle"
    )
    aspect: float = Field(1.0, gt=0, le=100, description="ellipse: second axis / first axis")
    corners: int = Field(6, ge=3, le=100, description="of a regular polygon")
    vertices: Annotated[tuple[Pair, ...], BeforeValidator(flat_pairs), Field(max_length=1000)] = Field(
        (), description="corners x,y,x,y,... of another polygon, relative to the centre, in units of size"
    )
    profile: str = Field("0012", pattern=r"^\d{4}$", description="NACA four-digit profile")
    file: str = Field("", max_length=4096, description="image: its dark pixels are solid")
    spin: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="rotation of a cylinder's surface (rad/tick), counter-clockwise"
    )

    @model_validator(mode="after")
    def _check(self) -> ObstacleConfig:
        # What a shape has no use for would be ignored without a word.
        owner = {"aspect": "ellipse", "corners": "polygon", "vertices": "polygon", "profile": "naca", "file": "image"}
        for name in sorted(self.model_fields_set & set(owner)):
            if self.shape != owner[name] and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"a {self.shape} has no {name}: that belongs to {owner[name]}")
        if self.vertices and len(self.vertices) < 3:
            raise ValueError(f"{len(self.vertices)} vertices make no polygon: at least 3 are needed")
        if self.shape == "image" and not self.file:
            raise ValueError("an image needs a file: file=shape.png")
        return self


def filled(
    tables: Sequence[ObstacleConfig],
    short: dict[str, float | tuple[float, float] | None],
    defaults: dict[str, float | tuple[float, float]],
    swept: frozenset[str],
) -> tuple[ObstacleConfig, ...]:
    """The tables with open sizes, centres, angles and spins taken from the `short` form, else from `defaults`.

    What is in `swept` stays open: each run fills it in. Raises `UsageError` when several obstacles leave their place
    open, or when the short form says something that no obstacle takes.
    """
    if len(tables) > 1 and any(table.centre is None for table in tables):
        number = next(n for n, table in enumerate(tables, 1) if table.centre is None)
        raise UsageError(f"obstacle {number} of {len(tables)} has no centre: say where each one stands (centre=X,Y)")
    option = {"size": "diameter"}
    for name in OPEN:
        word = option.get(name, name)
        given = short[name] is not None or word in swept
        if given and (word in swept or tables) and not any(getattr(table, name) is None for table in tables):
            why = "every obstacle has its own" if tables else "there is no obstacle"
            raise UsageError(f"{word} is given, but {why}: leave one of them out")
    result = []
    for table in tables:
        update = {
            name: short[name] if short[name] is not None else defaults[name]
            for name in OPEN
            if getattr(table, name) is None and option.get(name, name) not in swept
        }
        result.append(table.model_copy(update=update))
    return tuple(result)


def bodies(tables: Sequence[ObstacleConfig]) -> tuple[Obstacle, ...]:
    """The obstacles of one run as the solver takes them."""
    from lbm.obstacles import Obstacle

    return tuple(Obstacle(**table.model_dump()) for table in tables)
