"""Reading a TOML file into a pydantic model, so that a mistake in it is told in the file's own words."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from crowdlearn_device.platform.files import not_to_read
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from crowdlearn_host.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
MAX_BYTES = 1 << 20
MOST_SHOWN, MOST_LISTED = 200, 1000
"""Characters of a value, and of a reason, that an error shows."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,60}$"
"""Names that can be those of folders, on phones as well."""
ADDRESS = r"^.*:[0-9]{1,5}$"
"""Addresses with a port."""
_PATTERNS = {
    NAME: "should be 1 to 61 of the letters a to z, digits, - and _, with a letter or digit first",
    ADDRESS: "should be HOST:PORT, as in 0.0.0.0:8765",
}


class Section(BaseModel):
    """A table of a configuration file: immutable, and a key that is not read is a mistake, not a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and not {bool, Any} & {field.annotation, *get_args(field.annotation)}:
            raise ValueError("should not be true or false")
        return value

    @classmethod
    def parse(cls, values: dict[str, Any], source: str, folder: Path = Path()) -> Self:
        """Return the table with these values, whose paths are those from `folder`. Raises ConfigError that
        names every mistake, with `source` as the file's name.
        """
        return parse_config(values, cls, source, folder)


@dataclass(frozen=True)
class Origin:
    """The file that is read: its name in messages, and the folder from which its paths are."""

    source: str
    folder: Path = Path()


class Description(Section):
    """A whole file, which may as well be made in Python: a mistake is a ConfigError then, too."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the class, with its own validators inside what makes their errors ours."""

        def build(values: Any, make: ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo) -> Any:
            try:
                return make(values)
            except ValidationError as error:
                name = info.context.source if isinstance(info.context, Origin) else cls.__name__
                raise _mistakes(error, cls, name) from error

        return core_schema.with_info_wrap_validator_function(build, handler(source))


def located(written: Path, info: ValidationInfo) -> Path:
    """Return a path in a configuration, which is relative to that file, as an absolute one."""
    folder = info.context.folder if isinstance(info.context, Origin) else Path()
    return Path(os.path.realpath(folder / written))


Location = Annotated[Path, AfterValidator(located)]
"""A file or folder that a configuration names."""


def load_toml(
    path: str | Path, model: type[Model], folder: Path | None = None, overrides: Sequence[str] = ()
) -> Model:
    """Read the file at `path`, validated as `model`; `folder` is where it lay if it was copied from
    elsewhere. Each of `overrides` ("table.key=VALUE", VALUE as in TOML) takes the place of the file's.

    Raises ConfigError naming the file and, for each mistake, key, value and what is allowed.
    """
    values = read_toml(path)
    for override in overrides:
        _override(values, override)
    return parse_config(values, model, str(path), folder or Path(path).parent)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the tables of the file at `path`. Raises ConfigError if it is no readable TOML file."""
    path = Path(path)
    try:
        if why := not_to_read(path, MAX_BYTES):
            raise ConfigError(f"{path} {why}; is it a configuration file?")
        return tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin a file with a mark
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a readable TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} has arrays or tables within each other, too many to read") from error


def _override(values: dict[str, Any], override: str) -> None:
    """Set one key of nested tables. A value that is no TOML is taken as text."""
    key, equals, text = override.partition("=")
    *tables, name = (part.strip() for part in key.split("."))
    if not equals or not all((*tables, name)):
        raise ConfigError(f"--set {override!r}: give KEY=VALUE, as in training.epochs=3")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    table = values
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {part} is no table")
    table[name] = value


def parse_config(values: dict[str, Any], model: type[Model], source: str, folder: Path = Path()) -> Model:
    """Validate `values` as `model`, its paths those from `folder`; ConfigError names every mistake, with
    `source` as the file's name.
    """
    try:
        return model.model_validate(values, context=Origin(source, folder))
    except ValidationError as error:
        raise _mistakes(error, model, source) from error


def _mistakes(error: ValidationError, model: type[BaseModel], source: str) -> ConfigError:
    """Return the error that names every mistake, but for those that only follow from one further inside."""
    mistakes: list[dict[str, Any]] = [dict(mistake) for mistake in error.errors()]
    places = [mistake["loc"] for mistake in mistakes]
    lines = [
        _tell(source, mistake, model)
        for mistake in mistakes
        if not any(place[: len(mistake["loc"])] == mistake["loc"] != place for place in places)
    ]
    return ConfigError("; ".join(lines))


def _tell(source: str, mistake: dict[str, Any], model: type[BaseModel]) -> str:
    key = _short(".".join(str(part) for part in mistake["loc"]))
    value = _short(repr(mistake["input"]))
    if mistake["type"] == "extra_forbidden":
        return (
            f"{source}: {key} is not a key; allowed here are {', '.join(_keys_beside(mistake['loc'], model))}"
        )
    if mistake["type"] == "missing":
        return f"{source}: {key} is missing; add it"
    if mistake["type"] == "string_pattern_mismatch":
        return f"{source}: {key} = {value}: {_PATTERNS[mistake['ctx']['pattern']]}"
    allowed = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if isinstance(mistake["input"], dict) and mistake["type"] == "value_error":  # a whole section
        return f"{source}: {key + ': ' if key else ''}{allowed}"
    return f"{source}: {key or 'the file'} = {value}: {_short(allowed, MOST_LISTED)}"


def _short(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text as an error shows it."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _keys_beside(location: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    """Return the keys allowed in the table that holds `location`, as far as models and lists of them tell."""
    table = model
    for part in location[:-1]:
        if isinstance(part, int):  # a place in a list, whose tables are alike
            continue
        fields = {field.alias or name: field for name, field in table.model_fields.items()}
        inner = _tables_in(fields[part].annotation) if part in fields else []
        if len(inner) != 1:
            return ["those of the documentation"]
        table = inner[0]
    return sorted(field.alias or name for name, field in table.model_fields.items())


def _tables_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that a field's type has: itself, or those in a list or a choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables_in(part)]
