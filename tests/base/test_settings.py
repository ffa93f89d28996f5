"""Settings: what is said, on one line, of the first key that is wrong."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mobilenas.base.errors import BadInput
from mobilenas.base.settings import Record, first_error, load_settings, validated


class Inner(Record):
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()


class Shape(Record):
    rate: Annotated[float, Field(gt=0)] = 0.1
    count: int = 3
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _small(self) -> "Shape":
        if self.count > 100:
            raise ValueError(f"count {self.count} is too large")
        return self


def refusal(data: object) -> str:
    with pytest.raises(BadInput) as refused:
        validated(Shape, data, "my.yaml")
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_what_is_right_comes_back_with_its_types() -> None:
    found = validated(Shape, {"rate": 1, "inner": {"sizes": [1, 2]}}, "my.yaml")
    assert found == Shape(rate=1.0, inner=Inner(sizes=(1, 2)))
    with pytest.raises(ValidationError, match="frozen"):
        found.rate = 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rat": 1}, "my.yaml: rat: there is no such key; did you mean rate?"),
        ({"xyz": 1}, "my.yaml: xyz: there is no such key; known keys are rate, count, inner"),
        ({"inner": {"size": 1}}, "my.yaml: inner.size: there is no such key"),
        ({"count": 101}, "my.yaml: the file: count 101 is too large"),
        ({"rate": -1, "count": "x"}, "my.yaml: rate: Input should be greater than 0"),
    ],
)
def test_the_first_error_is_named(data: object, message: str) -> None:
    assert refusal(data) == message


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"inner": {"kind": "c"}}, "inner.kind"),
        ({"inner": {"sizes": [1, "x"]}}, "inner.sizes.1"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ([], "the file"),
        (None, "the file"),
    ],
)
def test_the_key_of_an_error_is_named_wherever_it_is(data: object, key: str) -> None:
    assert refusal(data).startswith(f"my.yaml: {key}: ")


def test_an_error_without_keys_is_of_the_whole() -> None:
    with pytest.raises(ValidationError) as error:
        TypeAdapter(int).validate_python("x")
    assert first_error(error.value, "the number").startswith("the number: ")


def test_settings_are_a_preset_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rate: 0.5\ncount: 7\n")
    assert load_settings(Shape, "supernet", str(path), ["count=8"]) == Shape(rate=0.5, count=8)
    for overrides, words in (
        (["count"], ["override 'count'"]),
        (["count=x"], ["config", "count: "]),
        (["cuont=1"], ["did you mean count?"]),
        (["count=1000"], ["the config: count 1000"]),
    ):
        with pytest.raises(BadInput) as refused:
            load_settings(Shape, "supernet", str(path), overrides)
        message = str(refused.value)
        assert message.startswith(f"config {path}: ")
        assert "\n" not in message
        assert [word for word in words if word not in message] == [], message
    with pytest.raises(BadInput, match="config none: 'none' is neither"):
        load_settings(Shape, "supernet", "none", [])
