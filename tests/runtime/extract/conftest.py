"""Tests of collections do not wait for the disk, except where that is what they test."""

from __future__ import annotations

import pytest

from generators.collection import System
from layertap.extract import disk


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure during the tests may lose their files."""
    monkeypatch.setattr(disk, "os", System())
