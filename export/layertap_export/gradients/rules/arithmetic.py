"""Functions of several tensors, element by element, with numpy's broadcasting.

The gradient of an operand that was broadcast is summed back to the operand's shape.
"""

from __future__ import annotations

from collections.abc import Mapping

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step


def _parts(step: Step, *gradients: Value | None) -> Gradients:
    """The operands' gradients in the operands' shapes."""
    return [
        None if g is None else step.build.summed(g, step.input(index), step.build.dims(step.y))
        for index, g in enumerate(gradients)
    ]


def addition(step: Step) -> Gradients:
    """g for each operand; a Sum has any number of them."""
    return _parts(step, *(step.gradient if wanted else None for wanted in step.wanted))


def mean(step: Step) -> Gradients:
    """g / n for each of the n operands."""
    share = step.gradient * (1 / len(step.inputs))
    return _parts(step, *(share if wanted else None for wanted in step.wanted))


def subtraction(step: Step) -> Gradients:
    """g and -g."""
    first, second = step.wanted
    return _parts(step, step.gradient if first else None, -step.gradient if second else None)


def multiplication(step: Step) -> Gradients:
    """g times the other operand."""
    a, b = step.input(0), step.input(1)
    first, second = step.wanted
    return _parts(step, step.gradient * b if first else None, step.gradient * a if second else None)


def division(step: Step) -> Gradients:
    """g / b, and -g y / b."""
    b, (first, second) = step.input(1), step.wanted
    share = step.gradient / b
    return _parts(step, share if first else None, -(share * step.y) if second else None)


def power(step: Step) -> Gradients:
    """g b a^(b - 1), and g y log(a), or 0 where a <= 0."""
    a, b = step.input(0), step.input(1).cast(step.x.dtype)
    first, second = step.wanted
    exponent = step.constant(1)
    base = upper = None
    if first and exponent is not None and exponent.size == 1:
        value = float(exponent.reshape(()))
        slope = a * 2 if value == 2 else a.op("Pow", value - 1) * value
        base = step.gradient * slope
    elif first:
        base = step.gradient * (b * a.op("Pow", b - 1))
    if second:
        positive = a > 0
        logarithm = positive.masks(positive.where(a, 1.0).op("Log"))
        upper = (step.gradient * (step.y * logarithm)).cast(step.input(1).dtype)
    return _parts(step, base, upper)


def remainder(step: Step) -> Gradients:
    """Of Mod: g, and -g floor(a / b), rounded towards zero if `fmod` is set."""
    a, b = step.input(0), step.input(1)
    first, second = step.wanted
    lower = None
    if second:
        whole = (a - step.y) / b
        lower = -(step.gradient * whole)
    return _parts(step, step.gradient if first else None, lower)


def extreme(step: Step) -> Gradients:
    """Of Max and Min: g for the first operand that equals the result."""
    taken: Value | None = None
    gradients: list[Value | None] = []
    for index, wanted in enumerate(step.wanted):
        chosen = step.input(index).equals(step.y)
        mine = chosen if taken is None else chosen & ~taken
        gradients.append(mine.masks(step.gradient) if wanted else None)
        taken = chosen if taken is None else taken.op("Or", chosen)
    return _parts(step, *gradients)


def where(step: Step) -> Gradients:
    """g where the operand was chosen."""
    g, condition = step.gradient, step.input(0)
    yes = condition.where(g, 0.0) if step.wanted[1] else None
    no = (~condition).where(g, 0.0) if step.wanted[2] else None
    return _parts(step, None, yes, no)


def prelu(step: Step) -> Gradients:
    """g where x > 0, else g slope; the slope's is g x where x <= 0."""
    x, slope = step.input(0), step.input(1)
    above, g = x > 0, step.gradient
    kept = above.masks(g) + (~above).masks(g * slope) if step.wanted[0] else None
    slopes = (~above).masks(g * x) if step.wanted[1] else None
    return _parts(step, kept, slopes)


RULES: Mapping[str, Rule] = {
    "Add": addition,
    "Sum": addition,
    "Mean": mean,
    "Sub": subtraction,
    "Mul": multiplication,
    "Div": division,
    "Pow": power,
    "Mod": remainder,
    "Max": extreme,
    "Min": extreme,
    "Where": where,
    "PRelu": prelu,
}
"""The rules of this theme, by operator."""
