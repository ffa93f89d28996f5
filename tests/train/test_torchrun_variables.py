"""What torchrun says by variables is checked before processes wait for each other."""

import pytest

from mobilenas.base.errors import BadInput
from mobilenas.base.process import TORCHRUN
from mobilenas.train.distributed import joined


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "one"), ("WORLD_SIZE", "-2"), ("MASTER_PORT", ""), ("RANK", "2")]
)
def test_variables_that_are_no_numbers_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, number in zip(TORCHRUN, ("0", "2", "0", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(key, number)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name} "), joined():
        pass
