"""Runs of every kind, for the tests of reports."""

from pathlib import Path

import pytest
from reported import make_runs


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests read it and leave it as it is."""
    return make_runs(tmp_path_factory.mktemp("job"))
