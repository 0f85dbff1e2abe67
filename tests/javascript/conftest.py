"""The runtimes for JavaScript that the tests run programs in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from javascript_runtime import Browser, Runtime, missing


def _started(kind: type[Runtime], factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    reason = missing(chromium=kind is Browser)
    if reason:
        pytest.skip(reason)
    runtime = kind(factory.mktemp(kind.name))
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """node, with onnxruntime-node."""
    yield from _started(Runtime, tmp_path_factory)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """Chromium, with onnxruntime-web."""
    yield from _started(Browser, tmp_path_factory)


@pytest.fixture(params=["node", "chromium"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each of both."""
    found: Runtime = request.getfixturevalue(request.param)
    return found
