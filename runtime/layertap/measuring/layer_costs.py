"""What each layer costs, as a record, a table and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layertap._public import public
from layertap._record import Record, as_json
from layertap.format.text import Readable, megabytes

from .columns import Column, count_text, in_order, table


@public
class LayerCost(Record):
    """What one layer costs, for one sample."""

    name: str
    type: str
    """Keras class name; in a file without a card, the ONNX op type."""
    index: int
    """Index in `Model.layers`."""
    multiply_adds: int
    """Multiplications with the addition that follows, in convolutions and products of matrices:
    `Conv`, `ConvTranspose`, `MatMul`, `Gemm`, `Einsum`, `LSTM`, `GRU`, `RNN` and attention. What
    works element by element is not counted. Those of the layers inside of this one are included."""
    parameters: int
    """Number of weights, see `Layer.parameters`."""
    nbytes: int | None
    """Bytes of the layer's activations; `None` if the file does not expose them, or if their size
    is free and the model's outputs do not depend on them."""
    crossing: int | None
    """Bytes of all tensors that cross a cut after this layer; `None` if the file does not expose
    it, or if the model's outputs do not depend on it."""
    tensors: int | None
    """The number of these tensors."""
    cut: tuple[str, ...] | None
    """The layers that `layertap cut` takes to cut here, after `--to` and after `--from`; `None` if
    over 4 tensors cross, or if some of them are not layers."""
    milliseconds: float | None
    """Measured time of the operators of the layer and of the layers inside of it; `None` if it was
    not measured. Operators that onnxruntime fuses into a convolution or a product are part of its
    time."""
    milliseconds_before: float | None
    """Measured time of all layers before the cut, this one included."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return as_json(self)


@public
class LayerCosts(Readable):
    """What the layers of a model cost, for one sample. Made by `Model.cost`."""

    rows: tuple[LayerCost, ...]
    """One for each layer, in the order requested."""
    all_rows: tuple[LayerCost, ...]
    """One for each layer of the model."""
    model: str
    """The name of the file."""
    inputs: dict[str, tuple[int, ...]]
    """The shape of each input."""
    input_bytes: int
    """The bytes of all inputs together."""
    multiply_adds: int
    """Of the whole model, up to its outputs."""
    parameters: int
    """Of the whole model: its layers that are not inside of others."""
    milliseconds: float | None
    """Measured time of a whole run without a profile, the median; `None` if not measured."""
    unassigned: float | None
    """Milliseconds of operators that belong to no layer."""
    device: str
    """Where it was measured."""

    def __init__(
        self,
        rows: Sequence[LayerCost],
        all_rows: Sequence[LayerCost],
        *,
        model: str,
        inputs: dict[str, tuple[int, ...]],
        input_bytes: int,
        multiply_adds: int,
        parameters: int,
        milliseconds: float | None,
        unassigned: float | None,
        device: str,
    ) -> None:
        self.rows, self.all_rows = tuple(rows), tuple(all_rows)
        self.model, self.inputs, self.input_bytes = model, inputs, input_bytes
        self.multiply_adds, self.parameters = multiply_adds, parameters
        self.milliseconds, self.unassigned, self.device = milliseconds, unassigned, device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> LayerCost:
        """The row of a layer.

        Raises:
            KeyError: it is not among them.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def head(self) -> str:
        """The whole model in one line."""
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
        time = "" if self.milliseconds is None else f", {self.milliseconds:.2f} ms on {self.device}"
        return (
            f"{self.model} for {shapes}: {self.multiply_adds:,} multiply-adds, "
            f"{self.parameters:,} parameters{time}"
        )

    def __str__(self) -> str:
        """A table."""
        lines = [self.head, "", table(self.rows, self._columns)]
        if self.unassigned:
            lines += ["", f"Operators of no layer: {self.unassigned:.3f} ms"]
        return "\n".join(lines)

    def sorted(self, column: str) -> LayerCosts:
        """The same with the rows in the order of a column, the largest number first.

        Args:
            column: its title in the table: `"multiply-adds"`, `"ms"`, `"MB"`.

        Raises:
            UsageError: the table has no such column.
        """
        return in_order(self, self._columns, column)

    @property
    def _columns(self) -> tuple[Column, ...]:
        """The columns of the table, after index, name and class."""
        whole = self.milliseconds
        if whole is None:
            return COLUMNS
        time = Column(
            "ms", lambda row: row.milliseconds, lambda spent: f"{spent:.3f}" if spent else ""
        )
        share = Column(
            "%",
            lambda row: row.milliseconds,
            lambda spent: f"{100 * spent / whole:.1f}" if spent else "",
        )
        return (*COLUMNS, time, share)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-compatible values."""
        return {
            "model": self.model,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "multiply_adds": self.multiply_adds,
            "parameters": self.parameters,
            "milliseconds": self.milliseconds,
            "unassigned": self.unassigned,
            "device": self.device,
            "layers": [row.to_dict() for row in self.rows],
        }


COLUMNS = (
    Column("multiply-adds", lambda row: row.multiply_adds, count_text),
    Column("parameters", lambda row: row.parameters, count_text),
    Column("MB", lambda row: row.nbytes, megabytes),
    Column("MB crossing", lambda row: row.crossing, megabytes),
    Column("tensors", lambda row: row.tensors, str),
)
"""The columns of the table without times."""

TIMED = ("ms", "%")
"""The columns that a table with times has, too."""
