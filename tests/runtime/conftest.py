"""The model that most tests of the runtime are run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import layertap


@pytest.fixture
def classifier(tiny_file: Callable[[str], Path]) -> layertap.Model:
    return layertap.open(tiny_file("image_classifier"))
