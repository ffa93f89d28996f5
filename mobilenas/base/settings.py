"""Plain data with a schema: from a preset and overrides, or from a file; an error is one line."""

import difflib
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import core_schema

from mobilenas.base.errors import BadInput, shortened
from mobilenas.base.resources import read_preset, read_value

T = TypeVar("T")
_SHOWN = 40  # characters of a value in a message
_LARGEST = 10**18  # whose sums and squares are still finite


def is_number(value: Any) -> bool:
    """Whether it is a number that can have been measured: finite, and not of hundreds of digits."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _number(value: object) -> object:
    if not is_number(value):
        raise ValueError(f"must be a number, not {shortened(str(value))!r}")
    return value


Number = Annotated[int | float, PlainValidator(_number)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]


def _no_booleans(schema: Any) -> Any:
    """A schema of pydantic whose numbers are none but numbers: it would take true for 1."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_no_booleans, schema))
    if not isinstance(schema, dict):
        return schema
    inner = {key: _no_booleans(part) for key, part in schema.items()}
    if inner.get("type") not in ("int", "float"):
        return inner
    return core_schema.no_info_before_validator_function(_no_boolean, inner)


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


class Record(BaseModel):
    """Immutable plain data; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return _no_booleans(handler(source))


def validated(shape: type[T], data: object, where: object, whole: str = "the file") -> T:
    """`data` as a `Record`, or any type that pydantic knows.

    where: the file or preset that it comes from. whole: what the message calls the data as a whole.
    Raises BadInput, `where: key: what is wrong`, for the first error.
    """
    try:
        value: T = _adapter(shape).validate_python(data)
    except ValidationError as error:
        known = getattr(shape, "model_fields", {})
        raise BadInput(f"{where}: {first_error(error, whole, list(known))}") from None
    return value


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def first_error(error: ValidationError, whole: str, known: list[str] | None = None) -> str:
    """The first of pydantic's errors on one line, `key: message`; known: the keys at the top."""
    first = error.errors()[0]
    # Beside keys and indices pydantic names the member of a union that it tried: a class of specs.
    parts = [str(part) for part in first["loc"] if "[" not in f"{part}" and "Spec" not in f"{part}"]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("dict_type", "model_type"):
        message = "must be a mapping of keys to values"
    if first["type"] == "literal_error" and isinstance(first["input"], str | int | float):
        message += f", not {str(first['input'])[:_SHOWN]!r}"
    if first["type"] == "extra_forbidden":
        message = "there is no such key"
        if len(parts) == 1 and known:
            near = difflib.get_close_matches(parts[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
            message = f"{message}; {hint}"
    return f"{'.'.join(parts) or whole}: {message}"


def load_settings(shape: type[T], kind: str, reference: str, overrides: list[str]) -> T:
    """A preset of configs/KIND by name, or a YAML file, with `key=value` overrides.

    Raises BadInput naming the preset and the key.
    """
    where = f"config {reference}"
    try:
        data: dict[str, Any] = read_preset(reference, kind) | dict(map(read_value, overrides))
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return validated(shape, data, where, "the config")
