"""What can go wrong when a model that comes with layertap is built.

layertap.LayertapError
`-- WeightsError    a weights file that cannot be read, or is another model's
"""

from __future__ import annotations

from layertap.errors import LayertapError


class WeightsError(LayertapError):
    """A weights file that cannot be read, or holds the weights of another model."""
