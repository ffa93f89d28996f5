"""Fixtures of the tests of kernels."""

import pytest

from mobilenas.nn.kernels import bottleneck


@pytest.fixture
def no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size are one function."""
    monkeypatch.setattr(bottleneck, "_MIN_ELEMENTS", 0)
