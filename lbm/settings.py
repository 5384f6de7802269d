"""From defaults, a TOML file, `--set a.b=c` and named flags to one checked pydantic model.

Later sources win: defaults < file < `--set` and named flags. Configurations are untrusted input:
size and nesting are bounded, and whatever is wrong is a `UsageError` that names the key, where it
came from, and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lbm.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound="BaseModel")

MAX_BYTES = 1_000_000
MAX_DEPTH = 12  # our own configurations need 3


def resolve(model_class: type[Model], *, file: Path | None, sets: Sequence[str], flags: Mapping[str, Any]) -> Model:
    """Merge all sources and validate them as `model_class`.

    `flags` maps (dotted) keys to values or tables of values, `None` meaning that the flag was not given; `sets` are
    texts `a.b=c` whose value is read as TOML, a bare word being a string. `model_fields_set` of the result
    tells what was given and what is a default. Raises `UsageError`.
    """
    from pydantic import ValidationError

    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if file is not None:
        _merge(merged, load_toml(file), str(file), origin)
    for text in sets:
        key, value = parse_assignment(text)
        _assign(merged, key, value, f"--set {key}", origin)
    for key, value in flags.items():
        option = f"--{key.split('.')[-1].replace('_', '-')}"
        if isinstance(value, Mapping):  # each of its keys replaces that key of the file's table, not the table
            origin[key] = option
            for name, one in value.items():
                _assign(merged, f"{key}.{name}", one, f"{option} {name}", origin)
        elif value is not None:
            _assign(merged, key, value, option, origin)
    try:
        return model_class.model_validate(merged)
    except ValidationError as error:
        raise UsageError(explain(error, model_class, origin)) from None


def load_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file as nested dictionaries. Raises `UsageError`."""
    try:
        with open(file, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {file}: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{file} is larger than {MAX_BYTES:,} bytes: that is no configuration")
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply (limit {MAX_DEPTH} levels)") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{file} is not valid TOML: {error}") from None
    if _deeper_than(table, MAX_DEPTH):
        raise UsageError(f"{file} is nested too deeply (limit {MAX_DEPTH} levels)")
    return table


def parse_assignment(text: str) -> tuple[str, Any]:
    """`a.b=c` as ("a.b", value). Raises `UsageError` when there is no `=` or no key."""
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key or not all(key.split(".")) or key.count(".") >= MAX_DEPTH:
        raise UsageError(f"--set wants KEY=VALUE, such as seed=3 or train.steps=100; got {text[:80]!r}")
    if len(raw) > MAX_BYTES:
        raise UsageError(f"the value of --set {key} is too long")
    try:
        table = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return key, raw
    # A line break could smuggle in further keys: then it is text, not TOML.
    return key, table["value"] if set(table) == {"value"} else raw


def explain(error: ValidationError, model_class: type[BaseModel], origin: Mapping[str, str]) -> str:
    """At most two lines about what pydantic refused."""
    problems = error.errors(include_url=False)
    lines = [_one_line(problem, model_class, origin) for problem in problems[:2]]
    if len(problems) > 2:
        lines[-1] += f" (and {len(problems) - 2} more)"
    return "\n".join(lines)


def _one_line(problem: Any, model_class: type[BaseModel], origin: Mapping[str, str]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    source = _source(location, origin)
    prefix = f"{source}: " if source else ""
    if problem["type"] == "extra_forbidden":
        near = nearest(key, known_keys(model_class))
        return f"{prefix}unknown key {key!r}" + (f"; did you mean {near!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return f"{prefix}{message}"
    where = source if source.startswith("--") else prefix + key
    if isinstance(problem["input"], Mapping):  # a table: the message says which of its keys
        return f"{where}: {message[:1].lower() + message[1:]}"
    got = repr(problem["input"])
    got = got if len(got) <= 60 else got[:57] + "..."
    return f"{where}: got {got}: {message[:1].lower() + message[1:]}"


def known_keys(model_class: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key a model understands, nested models included."""
    from pydantic import BaseModel

    keys = []
    for name, field in model_class.model_fields.items():
        keys.append(prefix + name)
        for kind in _types_in(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += known_keys(kind, f"{prefix}{name}.")
    return keys


def _types_in(annotation: Any) -> Iterator[Any]:
    """An annotation and everything it is made of: unions, tuples, what is annotated."""
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _types_in(part)


def nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key most like `key`, compared whole and by its last part; None when nothing is near."""
    key = key[-80:]
    whole = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if whole:
        return whole[0]
    last = {name.split(".")[-1]: name for name in reversed(known)}
    match = difflib.get_close_matches(key.split(".")[-1], list(last), n=1, cutoff=0.6)
    return last[match[0]] if match else None


def _source(location: Sequence[str], origin: Mapping[str, str]) -> str:
    for length in range(len(location), 0, -1):
        key = ".".join(location[:length])
        if key in origin:
            return origin[key]
    return ""


def _merge(
    into: dict[str, Any], table: Mapping[str, Any], source: str, origin: dict[str, str], prefix: str = ""
) -> None:
    for key, value in table.items():
        origin[prefix + key] = source
        if isinstance(value, Mapping):
            child = into.setdefault(key, {})
            _merge(child, value, source, origin, f"{prefix}{key}.")
        else:
            into[key] = value


def _assign(into: dict[str, Any], key: str, value: Any, source: str, origin: dict[str, str]) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        origin.setdefault(".".join(parents[: depth + 1]), source)
        child = into.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UsageError(f"{source}: {parent!r} is a value, it has no key {last!r}")
        into = child
    into[last] = value
    origin[key] = source


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)
