"""The score: the tensor that is differentiated.

It is an output of the model or, if that ends in a sigmoid or softmax, the input of that: the
logits, as in the paper on Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
Networks via Gradient-based Localization", ICCV 2017: "the score for class c, before the softmax").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx

from layertap.errors import UsageError, suggest
from layertap.format.operators import behind_final_activation
from layertap_export.graph.graph import makers

from .builder import Builder

PROBABILITY = "probability"
"""The word for the output itself."""


@dataclass(frozen=True, slots=True)
class Score:
    """The tensor that is differentiated."""

    output: str
    """The model's output."""
    logits: bool
    """Whether the scores are the input of its final sigmoid or softmax."""
    tensor: str
    """The tensor of the scores, in the shape of the output."""


def asked_output(asked: str | None, outputs: Sequence[str]) -> tuple[str, bool]:
    """The output that `--score` names, and whether the output itself is the score.

    Args:
        asked: `None`, an output's name, `probability`, or `NAME:probability`.
        outputs: names of the model's outputs.

    Raises:
        UsageError: there is no such output, or there are several and none is named.
    """
    if not outputs:
        raise UsageError(
            "the card in the file names no outputs, so it has no score. Export it again."
        )
    if asked is not None and not isinstance(asked, str):
        raise UsageError(f"score must be the name of an output, got {asked!r}.")
    if asked is not None and asked in outputs:
        return asked, False
    name, separator, suffix = (asked or "").rpartition(":")
    probability = suffix == PROBABILITY
    if asked is not None and (not probability or (separator and name not in outputs)):
        wanted = name if probability else asked
        raise UsageError(
            f"no output is called {wanted!r}; the model has {_listed(outputs)}."
            f"{suggest(wanted, outputs)}"
        )
    if separator:
        return name, True
    if len(outputs) != 1:
        raise UsageError(
            f"the model has {len(outputs)} outputs, {_listed(outputs)}. Name the one to "
            "differentiate, as in score="
            f"{(outputs[0] + ':' + PROBABILITY if probability else outputs[0])!r}."
        )
    return outputs[0], probability


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if names[limit:] else shown


def find_score(
    build: Builder, nodes: Sequence[onnx.NodeProto], output: str, probability: bool
) -> Score:
    """The scores of an output.

    Movers between the final sigmoid or softmax and the output are repeated after the logits.

    Args:
        build: appends the repeated nodes.
        nodes: the forward half, in topological order.
        output: the model's output.
        probability: whether the output itself is the score, also if it ends in a softmax.
    """
    if probability:
        return Score(output, False, output)
    made_by = makers(nodes)
    found = behind_final_activation(
        output, lambda tensor: _Node.of(made_by[tensor]) if tensor in made_by else None
    )
    if found is None:
        return Score(output, False, output)
    tensor, movers = found
    for mover in movers:
        tensor = build.repeat(mover.proto, tensor)
    return Score(output, True, tensor)


class _Node(NamedTuple):
    """A node in the form that `layertap.format.operators` reads."""

    proto: onnx.NodeProto
    domain: str
    op_type: str
    reads: Sequence[str]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> _Node:
        return cls(node, node.domain, node.op_type, node.input)
