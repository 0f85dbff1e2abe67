"""How far a file may be from Keras."""

from __future__ import annotations

from collections.abc import Iterable

DEFAULT_TOLERANCE = 1e-4
"""Largest scaled error that passes in float32 and float64 unless the caller says otherwise."""

TOLERANCE_BY_DTYPE = {"float16": 1e-2, "bfloat16": 5e-2}
"""The same where Keras computes in this type.

These are three times what was measured: with seeded weights the worst layer of MobileNetV2,
DenseNet121, ResNet50 and EfficientNetB0 was off by 2.8e-3 under `mixed_float16` and by 1.6e-2 under
`mixed_bfloat16`. It is Keras that is further from the truth then: it rounds after every operation.
"""


def tolerance_for(dtypes: Iterable[str]) -> float:
    """The tolerance for a model whose layers compute in these types."""
    return max(
        [DEFAULT_TOLERANCE, *(TOLERANCE_BY_DTYPE.get(dtype, DEFAULT_TOLERANCE) for dtype in dtypes)]
    )
