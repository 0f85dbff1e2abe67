"""Small backbones of Keras Hub with random weights: their inputs are integers, dicts and masks."""

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
def test_every_layer_matches_keras(family: Family) -> None:
    (build,) = family.members.values()
    measured = measure(build)
    assert measured.scaled < 1e-5
    assert measured.alone < 1e-5
    assert measured.checked < 1e-4
