"""Exporting one model, and what is worth knowing of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .families import Build


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The result of exporting one model."""

    layers: int
    """How many layers the file gives."""
    scaled: float
    """The largest scaled error against Keras, over all layers and outputs."""
    where: str
    """The layer that has it."""
    from_float64: float | None
    """The file's largest scaled error against Keras in float64; `None` if it was not asked for."""
    keras_from_float64: float | None
    """That of Keras in float32."""
    transposes: int
    """Transposes on the way to the model's outputs, but for one of every input."""
    alone: float
    """Largest scaled difference of the outputs between a run that gives all layers as well, and
    one that does not."""
    checked: float
    """The largest scaled error that `layertap check` finds on this machine."""
    seconds: float
    """Of the export, verification included."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measured:
        """What `to_dict` gave."""
        return cls(**data)


def measure(build: Build, reference: str = "keras") -> Measured:
    """Export the model with all its layers, seeded, and compare it with Keras.

    Raises:
        LayertapError: it cannot be exported, a layer differs, or a layer is not there; or an
            operator is not among those that docs/gradients.md lists.
    """
    import layertap_export
    from layertap_export.gradients.registry import NO_GRADIENT, RULES

    _ = layertap_export.export  # imports TensorFlow as the exporter wants it
    import keras

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        report = layertap_export.export(model, file, reference=reference)
        hidden = [layer.name for layer in report.card.layers if not layer.exposed]
        if hidden:
            raise layertap_export.ExportError(f"{hidden[0]!r} is not exposed.")
        missing = operators(file) - set(RULES) - NO_GRADIENT
        if missing:
            raise layertap_export.ExportError(f"there is no gradient rule for {sorted(missing)}.")
        checks = report.verification.layers
        worst = report.verification.worst
        return Measured(
            layers=len(report.exposed),
            scaled=worst.scaled,
            where=worst.name,
            from_float64=_most([check.from_float64 for check in checks]),
            keras_from_float64=_most([check.keras_from_float64 for check in checks]),
            transposes=inner_transposes(file),
            alone=_difference_alone(file),
            checked=_checked(file),
            seconds=report.seconds,
        )


def _most(errors: list[float | None]) -> float | None:
    return max((error for error in errors if error is not None), default=None)


def operators(file: Path) -> set[str]:
    """The types of all nodes."""
    import onnx

    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


def inner_transposes(file: Path) -> int:
    """How many Transposes the model's own outputs need, but for one that every input may have.

    That one need not be the first thing that happens to the input: a Rescaling may come before.
    """
    import onnx

    import layertap

    card = layertap.open(file).card
    assert card is not None
    graph = onnx.load(file, load_external_data=False).graph
    outputs = {info.name for info in card.outputs}
    needed = set(outputs)
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    turned: set[str] = set()
    entering, inner = 0, 0
    for node in graph.node:
        behind = not turned.isdisjoint(node.input)
        if node.op_type == "Transpose" and needed.intersection(node.output) - outputs:
            inner += behind
            entering += not behind
        if behind or node.op_type == "Transpose":
            turned.update(node.output)
    return inner + max(0, entering - len(card.inputs))


def _checked(file: Path) -> float:
    import layertap
    from layertap.comparing.check import check

    return max(layer.scaled for layer in check(layertap.open(file)).layers)


def _difference_alone(file: Path) -> float:
    """How far the outputs that are computed alone are from those that come with all layers."""
    import numpy as np

    import layertap
    from layertap._engine.program import program_of
    from layertap.comparing.golden import feeds

    model = layertap.open(file)
    assert model.card is not None
    assert model.card.golden is not None
    arrays = feeds(model.card.golden, model.inputs)
    outputs = [info.name for info in model.outputs]
    alone = program_of(model).fetch(outputs)(arrays)
    layers = [str(layer.tensor) for layer in model.layers]
    together = program_of(model).fetch([*dict.fromkeys([*outputs, *layers])])(arrays)
    return max(
        float(np.abs(alone[name] - together[name]).max() / (np.abs(together[name]).max() or 1))
        for name in outputs
    )
