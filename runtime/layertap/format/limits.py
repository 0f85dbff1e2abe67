"""Sizes in bytes at which files are written or read in another way."""

from __future__ import annotations

REFERENCE_BYTES = 1024
"""Bytes of weights from which on they may stay in the file: a reference takes some hundred."""

MAPPED_BYTES = 100_000_000
"""Bytes of a file from which on weights stay in it: below, copying them costs next to nothing."""

INLINE_BYTES = 2**31 - 2**24
"""Bytes that a model file may have with all its weights inside; protobuf reads 2^31 - 1. The rest
is room for the card."""

PROTOBUF_BYTES = 2**31 - 1
"""Bytes of the largest message that protobuf reads; larger models keep weights in other files."""
