"""One small model of each family of `keras.applications`, with all of its layers."""

from __future__ import annotations

import pytest

from conformance.families import APPLICATIONS, Family
from conformance.measuring import measure

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.usefixtures("keras")]


@pytest.mark.parametrize("family", APPLICATIONS, ids=lambda family: family.name)
def test_every_layer_matches_keras(family: Family) -> None:
    measured = measure(next(iter(family.members.values())))
    assert measured.scaled < 1e-5
    assert measured.alone < 1e-5
    assert measured.checked < 1e-4
    assert measured.transposes <= family.transposes[0]
    assert measured.layers > 20
