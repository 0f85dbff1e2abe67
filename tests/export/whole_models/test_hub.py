"""Backbones of Keras Hub, small and random: integers, dicts and masks go in."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from conformance.families import HUB, Family
from conformance.measuring import measure

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.usefixtures("keras"),
    pytest.mark.skipif(find_spec("keras_hub") is None, reason="needs the hub extra"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # of Keras Hub
]


@pytest.mark.parametrize("family", HUB, ids=lambda family: family.name)
def test_every_layer_is_what_keras_computes(family: Family) -> None:
    (build,) = family.members.values()
    found = measure(build)
    assert found.scaled < 1e-5
    assert found.alone < 1e-5
    assert found.checked < 1e-4
