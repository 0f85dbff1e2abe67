"""What a comparison needs to know about a file: a card, or the draft of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from layertap.format.card import Gradients, TensorInfo
from layertap.format.layer import Layer


class CardLike(Protocol):
    """A card, or the draft of one."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The model's own outputs, in order."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, with the tensor that shows it in the file."""

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How an image becomes an input."""

    @property
    def gradients(self) -> Gradients | None:
        """The gradients that the file has."""
