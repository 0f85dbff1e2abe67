"""Products of matrices."""

from __future__ import annotations

from collections.abc import Mapping

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step


def matmul(step: Step) -> Gradients:
    """y = a b: g b' and a' g, summed over the axes along which an operand was broadcast."""
    build, (a, b), g = step.build, (step.input(0), step.input(1)), step.gradient
    ranks = build.rank(a), build.rank(b)
    if ranks == (2, 2):  # without a transposed copy of the weights
        first = g.op("Gemm", b, transB=1) if step.wanted[0] else None
        return [first, a.op("Gemm", g, transA=1) if step.wanted[1] else None]
    # A vector is a matrix of one row, or of one column.
    if ranks[1] == 1:
        b, g = (value.op("Unsqueeze", build.int64([-1])) for value in (b, g))
    if ranks[0] == 1:
        a, g = (value.op("Unsqueeze", build.int64([-2])) for value in (a, g))
    first = g.op("MatMul", _transposed(b, max(ranks[1], 2))) if step.wanted[0] else None
    second = _transposed(a, max(ranks[0], 2)).op("MatMul", g) if step.wanted[1] else None
    return [
        first and _summed(step, first, step.input(0)),
        second and _summed(step, second, step.input(1)),
    ]


def _transposed(value: Value, rank: int) -> Value:
    perm = list(range(rank))
    perm[-2:] = perm[-1], perm[-2]
    return value.op("Transpose", perm=perm)


def _summed(step: Step, gradient: Value, operand: Value) -> Value:
    """The gradient of an operand in the operand's shape."""
    build, own = step.build, step.build.dims(operand)
    matrices = min(build.rank(step.input(0)), 2) + min(build.rank(step.input(1)), 2) - 2
    stack = build.dims(step.y)[: build.rank(step.y) - matrices]
    if len(own) > 1:
        return build.summed(gradient, operand, (*stack, *own[-2:]))
    if stack:
        gradient = gradient.op("ReduceSum", build.int64(range(len(stack))), keepdims=0)
    return gradient.op("Reshape", build.int64([-1]))


def gemm(step: Step) -> Gradients:
    """y = alpha a b + beta c, where a and b may be transposed."""
    a, b, g = step.input(0), step.input(1), step.gradient
    turn_a, turn_b = step.attribute("transA", 0), step.attribute("transB", 0)
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    first = second = third = None
    if step.wanted[0]:
        first = (
            b.op("Gemm", g, alpha=alpha, transA=turn_b, transB=1)
            if turn_a
            else g.op("Gemm", b, alpha=alpha, transB=1 - turn_b)
        )
    if step.wanted[1]:
        second = (
            g.op("Gemm", a, alpha=alpha, transA=1, transB=turn_a)
            if turn_b
            else a.op("Gemm", g, alpha=alpha, transA=1 - turn_a)
        )
    if step.has(2) and step.wanted[2]:
        third = step.build.summed(
            g * beta if beta != 1 else g, step.input(2), step.build.dims(step.y)
        )
    return [first, second, third]


def einsum(step: Step) -> Gradients:
    """g times the other operands, summed over what the operand lacks."""
    equation = step.text("equation").replace(" ", "")
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    if not result or "." in equation:
        raise step.unsupported(f"of the form {equation!r}")
    gradients: list[Value | None] = []
    for index, (term, wanted) in enumerate(zip(operands, step.wanted, strict=True)):
        if not wanted:
            gradients.append(None)
            continue
        others = [i for i in range(len(operands)) if i != index]
        letters = set(result).union(*(operands[i] for i in others))
        if not set(term) <= letters or len(set(term)) < len(term):
            raise step.unsupported(f"of the form {equation!r}")
        inputs = [step.input(i) for i in others]
        back = ",".join([result, *(operands[i] for i in others)]) + "->" + term
        gradients.append(step.gradient.op("Einsum", *inputs, equation=back))
    return gradients


RULES: Mapping[str, Rule] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
}
"""The rules of this theme, by operator."""
