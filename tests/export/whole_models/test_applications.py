"""One model of each family of `keras.applications`, small, with all its layers."""

from __future__ import annotations

import pytest

from conformance.families import APPLICATIONS, Family
from conformance.measuring import measure

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.usefixtures("keras")]


@pytest.mark.parametrize("family", APPLICATIONS, ids=lambda family: family.name)
def test_every_layer_is_what_keras_computes(family: Family) -> None:
    found = measure(next(iter(family.members.values())))
    assert found.scaled < 1e-5
    assert found.alone < 1e-5
    assert found.checked < 1e-4
    assert found.transposes == 0
    assert found.layers > 20
