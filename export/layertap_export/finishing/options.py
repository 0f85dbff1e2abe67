"""Options of a finished file that would have no effect, and what to give with them."""

from __future__ import annotations

from typing import Any

from layertap.errors import UsageError


def check_effects(
    *,
    heat_map: Any,
    method: str | None,
    top: int | None,
    output: str | None = None,
    image_input: bool = True,
    batch: bool = False,
    preprocess: Any = None,
) -> None:
    """Check that every option has an effect; `None` and `False` are options that were not given.

    Raises:
        UsageError: one has none.
    """
    no_map = heat_map is None or heat_map is False
    if method is not None and no_map:
        raise UsageError(
            "method= (--method) is the method of the heat map: give heat_map= (--heat-map) as "
            "well, or leave out the method."
        )
    if output is not None and no_map and top is None:
        raise UsageError(
            "output= (--output-name) names the scores for a heat map or for the best classes: give "
            "heat_map= (--heat-map) or top= (--top) as well, or leave out the output."
        )
    if image_input:
        return
    for name, given in (("batch", batch), ("preprocess", preprocess is not None)):
        if given:
            raise UsageError(
                f"{name}= (--{name}) is for pictures, but with image_input=False "
                f"(--no-image-input) the file takes the model's own inputs. Leave out one of the "
                "two."
            )
