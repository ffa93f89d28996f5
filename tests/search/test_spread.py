"""Archs spread over a front."""

from typing import Any

import pytest

from mobilenas.search.front import spread_archs


def rows(*points: tuple[float, float], **more: Any) -> list[dict[str, Any]]:
    return [
        {"arch": f"a{number}", "flops": 1000 * cost, "accuracy": quality} | more
        for number, (cost, quality) in enumerate(points)
    ]


FRONT = rows((1, 0.5), (2, 0.6), (5, 0.7), (9, 0.76), (10, 0.8))


@pytest.mark.parametrize(
    ("n", "archs"),
    [
        (1, "a4"),
        (2, "a0 a4"),
        (3, "a0 a2 a4"),
        (4, "a0 a1 a2 a4"),
        (5, "a0 a1 a2 a3 a4"),
        (9, "a0 a1 a2 a3 a4"),
    ],
)
def test_the_ends_first_then_what_is_farthest(n: int, archs: str) -> None:
    assert spread_archs(FRONT, n) == spread_archs(FRONT[::-1], n) == archs.split()


def test_by_score_and_another_cost() -> None:
    front = [
        row | {"score": -row["flops"], "params": 7 - number} for number, row in enumerate(FRONT)
    ]
    assert spread_archs(front, 2, "params") == ["a4", "a0"]


def test_equal_points_and_a_front_of_one() -> None:
    assert spread_archs(rows((1, 0.5), (1, 0.5), (2, 0.6)), 3) == ["a0", "a1", "a2"]
    assert spread_archs(rows((1, 0.5)), 4) == ["a0"]
