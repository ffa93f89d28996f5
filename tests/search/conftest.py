import os

import pytest


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """Counts syncs instead of doing them: slow, and only a power cut would show the difference."""
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    return calls
