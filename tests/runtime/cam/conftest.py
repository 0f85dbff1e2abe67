"""A model with gradients, and what is run of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap._engine import session

Made = Callable[..., layertap.Model]


@pytest.fixture(scope="session")
def differentiable() -> Made:
    """Opens `tiny.differentiable` with these options; each is made once."""
    made: dict[Any, layertap.Model] = {}

    def get(**options: Any) -> layertap.Model:
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = layertap.open(tiny.differentiable(**options).SerializeToString())
        return made[key]

    return get


@pytest.fixture
def images() -> np.ndarray:
    """Three of them, (3, 8, 6, 3)."""
    return np.random.default_rng(0).normal(size=(3, 8, 6, 3)).astype(np.float32)


class Run(NamedTuple):
    """One run of a session."""

    outputs: list[str]
    rows: dict[str, int]
    """How many rows were fed, by input."""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """All runs of sessions, as they happen."""
    seen: list[Run] = []
    plain = session.Session.run

    def run(self: Any, outputs: Any, feeds: Any, on_device: bool = False) -> Any:
        seen.append(Run(list(outputs), {name: len(value) for name, value in feeds.items()}))
        return plain(self, outputs, feeds, on_device)

    monkeypatch.setattr(session.Session, "run", run)
    return seen
