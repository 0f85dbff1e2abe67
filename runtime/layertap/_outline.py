"""The outline of a file: the layers that its card tells of, without a look at its graph.

A table of layers needs no more; the graph's index takes as long as Python takes to start.
"""

from __future__ import annotations

from ._source import BytesSource, FileSource, describe
from ._wire import LEN, Buffer, WireError, fields, find_text
from .card import KEY, read_layers
from .errors import ModelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._layer import Layer


def read_outline(source: FileSource | BytesSource) -> tuple[Layer, ...] | None:
    """The layers of the file's card; `None` where it has no card.

    Raises:
        ModelFileError: no ONNX model, or a damaged card.
        CardVersionError: the card was written by a newer layertap.
    """
    with source.read(sparsely=True) as buffer:
        try:
            card = _card(buffer)
        except WireError as exc:
            raise refusal(source.name, buffer, exc) from exc
    return None if card is None else read_layers(card, source.name)


def _card(buffer: Buffer) -> str | None:
    card, graphs = None, 0
    for number, kind, _, start, end in fields(buffer, 0, len(buffer)):
        if kind == LEN and number == 7:
            graphs += 1
        elif kind == LEN and number == 14 and find_text(buffer, start, end, 1) == KEY:
            card = find_text(buffer, start, end, 2)
    if not graphs:
        raise WireError("there is no graph in it")
    return card


def refusal(name: str, buffer: Buffer, exc: WireError) -> ModelFileError:
    """The error for a file that is no ONNX model."""
    looks = describe(bytes(buffer[:512]))
    if looks:
        return ModelFileError(f"{name} is not an ONNX model. It looks like {looks}.")
    return ModelFileError(
        f"{name} is not an ONNX model, or is cut off ({exc}). Copy or export it again."
    )
