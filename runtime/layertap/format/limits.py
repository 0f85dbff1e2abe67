"""Thresholds in bytes: how weights are stored and read depends on them."""

from __future__ import annotations

REFERENCE_BYTES = 1024
"""Smallest tensor to store outside a message, by reference; a reference takes some 100 bytes."""

MAPPED_BYTES = 100_000_000
"""Smallest file whose weights are referred to instead of copied; copying fewer bytes is cheap."""

INLINE_BYTES = 2**31 - 2**24
"""Largest model file with all weights inside. The margin below protobuf's limit is for the card."""

PROTOBUF_BYTES = 2**31 - 1
"""Largest message that protobuf can read. Larger models keep their weights in other files."""
