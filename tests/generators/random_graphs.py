"""Random graphs of square matrices."""

from __future__ import annotations

import onnx
from hypothesis import strategies as st

from generators import tiny


@st.composite
def chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[str]]:
    """A graph in which every tensor depends on x, and some of its tensors."""
    tensors, nodes = ["x"], []
    for index in range(draw(st.integers(2, 10))):
        a, b = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["Relu", "Neg", "Tanh", "Identity", "Transpose"]))
            nodes.append(tiny.node(kind, a, f"t{index}"))
        else:
            nodes.append(tiny.node(draw(st.sampled_from(["Add", "Mul"])), f"{a} {b}", f"t{index}"))
        tensors.append(f"t{index}")
    made = tiny.model(nodes, [tiny.value("x", [3, 3])], [tiny.value(tensors[-1], [3, 3])])
    return made, draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, max_size=3, unique=True))
