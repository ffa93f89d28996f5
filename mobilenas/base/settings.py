"""Plain data with a schema: from a preset and overrides, or from a file; an error is one line."""

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mobilenas.base.errors import BadInput
from mobilenas.base.resources import read_preset, read_value

T = TypeVar("T")


class Record(BaseModel):
    """Immutable plain data; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def validated(shape: type[T], data: object, where: object, whole: str = "the file") -> T:
    """`data` as a `Record`, or any type that pydantic knows.

    where: the file or preset that it comes from. whole: what the message calls the data as a whole.
    Raises BadInput, `where: key: what is wrong`, for the first error.
    """
    try:
        return TypeAdapter(shape).validate_python(data)
    except ValidationError as error:
        known = getattr(shape, "model_fields", {})
        raise BadInput(f"{where}: {first_error(error, whole, list(known))}") from None


def first_error(error: ValidationError, whole: str, known: list[str] | None = None) -> str:
    """The first of pydantic's errors on one line, `key: message`; known: the keys at the top."""
    first = error.errors()[0]
    # Beside keys and indices pydantic names the member of a union that it tried: a class of specs.
    parts = [str(part) for part in first["loc"] if "[" not in f"{part}" and "Spec" not in f"{part}"]
    message = first["msg"].removeprefix("Value error, ")
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
        data: dict[str, Any] = read_preset(kind, reference) | dict(map(read_value, overrides))
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return validated(shape, data, where, "the config")
