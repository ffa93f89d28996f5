"""The strategy that docs/strategies.md shows is one."""

import re
from pathlib import Path
from typing import Any

import torch
from toys import PLANTED, Steps, Toy, choices, configured

from mobilenas.strategies.learned import LearnedStrategy

PAGE = Path(__file__).parents[2] / "docs/strategies.md"


def test_the_one_of_the_page_finds_what_is_right() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    kind: type[LearnedStrategy] = names["Independent"]
    strategy = kind(choices(3, 3), configured(kind), seed=0)
    steps = Steps(Toy(2), strategy.config)
    for n in range(150):
        strategy.step(steps(n))
    probabilities = strategy.probabilities()
    assert [int(p.argmax()) for p in probabilities] == [PLANTED, PLANTED]
    for p in probabilities:
        torch.testing.assert_close(p.sum(), torch.ones(()))
