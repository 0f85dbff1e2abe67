"""The size of activations in bytes, including estimates for free sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from generators.tiny import card, layer
from layertap.errors import UsageError
from layertap.format.card import Card, Golden, GoldenInput, GoldenLayer
from layertap.format.cost import Cost, activation_costs
from layertap.format.layer import Layer

LAYERS = [
    layer(0, "image", "InputLayer", (None, None, None, 3)),
    layer(1, "conv", "Conv2D", (None, None, None, 8)),
    layer(2, "half", "MaxPooling2D", (None, None, None, 8)),
    layer(3, "pool", "GlobalAveragePooling2D", (None, 8)),
    layer(4, "tokens", "Reshape", (None, None, 8)),
    layer(5, "table", "Embedding", (16, 4)),
    layer(6, "free", "Lambda", (None, None)),
]


def golden(*inputs: tuple[int, ...], **layers: tuple[int, ...]) -> Golden:
    """A golden sample with these shapes."""
    return Golden(
        seed=0,
        inputs=tuple(
            GoldenInput(name=f"i{n}", shape=s, low=0, high=1) for n, s in enumerate(inputs)
        ),
        layers={
            name: GoldenLayer(shape=shape, norm=1.0, scale=1.0, values=())
            for name, shape in layers.items()
        },
    )


def a_card(golden_: Golden | None, shape: tuple[int | None, ...] = (None, None, None, 3)) -> Card:
    return card(LAYERS, {"image": shape}, {"pool": (None, 8)}, golden=golden_)


MEASURED = golden(
    (1, 32, 32, 3), conv=(1, 32, 32, 8), half=(1, 16, 16, 8), tokens=(1, 256, 8)
)  # fmt: skip


def costs(card_: Card | None, **options: Any) -> dict[str, Cost]:
    found = activation_costs(LAYERS, card_, **options)
    assert len(found) == len(LAYERS)
    return dict(zip((item.name for item in LAYERS), found, strict=True))


def test_stated_sizes_give_exact_costs() -> None:
    """With or without a card, and independent of the requested size."""
    for card_ in (None, a_card(None), a_card(MEASURED)):
        for size in (None, (64, 64)):
            found = costs(card_, size=size)
            assert found["pool"] == Cost(4 * 8)
            assert found["table"] == Cost(4 * 16 * 4)
    assert costs(None, batch=10)["pool"] == Cost(10 * 4 * 8)
    assert costs(None, batch=10)["table"] == Cost(4 * 16 * 4)  # its first axis is not the batch


def test_free_sizes_without_a_size_have_unknown_costs() -> None:
    assert costs(a_card(MEASURED))["conv"] == Cost(None)


@pytest.mark.parametrize(
    ("size", "batch", "conv", "half", "tokens"),
    [
        ((32, 32), 1, 32 * 32 * 8, 16 * 16 * 8, 256 * 8),
        ((320, 320), 1, 320 * 320 * 8, 160 * 160 * 8, 25_600 * 8),
        ((320, 320), 4, 4 * 320 * 320 * 8, 4 * 160 * 160 * 8, 4 * 25_600 * 8),
        ((16, 64), 1, 32 * 32 * 8, 16 * 16 * 8, 256 * 8),  # not square, the same area
    ],
)
def test_free_sizes_scale_with_the_input(
    size: tuple[int, int], batch: int, conv: int, half: int, tokens: int
) -> None:
    found = costs(a_card(MEASURED), size=size, batch=batch)
    assert found["conv"] == Cost(4 * conv, exact=False)
    assert found["half"] == Cost(4 * half, exact=False)
    assert found["tokens"] == Cost(4 * tokens, exact=False)
    assert found["free"] == Cost(None)  # it was not measured


def test_first_axis_without_samples_scales_with_the_batch() -> None:
    """Nine windows per image of fixed size: the number is only known from the golden sample."""
    windows = replace(layer(0, "windows", "Conv2D", (None, 7, 7, 8)), per_sample=False)
    measured = golden((1, 21, 21, 3), windows=(9, 7, 7, 8))
    for card_, expected in (
        (a_card(measured, (None, 21, 21, 3)), Cost(2 * 9 * 4 * 7 * 7 * 8, exact=False)),
        (a_card(None, (None, 21, 21, 3)), Cost(None)),
        (None, Cost(None)),
    ):
        assert activation_costs([windows], card_, batch=2) == [expected]


def test_golden_sample_of_two_images_counts_per_image() -> None:
    """The costs are per image, independent of the number of measured images."""
    two = golden((2, 32, 32, 3), conv=(2, 32, 32, 8))
    assert costs(a_card(two), size=(32, 32))["conv"] == Cost(4 * 32 * 32 * 8, exact=False)


def test_input_layer_costs_come_from_the_golden_input() -> None:
    fed = replace(MEASURED, inputs=(replace(MEASURED.inputs[0], name="image"),))
    assert costs(a_card(fed), size=(64, 64))["image"] == Cost(4 * 64 * 64 * 3, exact=False)


@pytest.mark.parametrize(
    "card_",
    [
        None,
        a_card(None),
        a_card(golden((1, 32, 32, 3))),
        a_card(golden()),
        a_card(golden((0, 32, 32, 3), conv=(0, 32, 32, 8))),
        a_card(golden((1, 0, 32, 3), conv=(1, 0, 32, 8))),
        a_card(golden((1, 32), conv=(1, 32, 32, 8))),  # another number of axes
        replace(a_card(MEASURED), inputs=()),
    ],
)
def test_costs_without_a_measurement_are_unknown(card_: Card | None) -> None:
    assert costs(card_, size=(32, 32))["conv"] == Cost(None)


def test_size_with_another_number_of_axes_gives_unknown_costs() -> None:
    assert costs(a_card(MEASURED), size=(32,))["conv"] == Cost(None)
    only_width_is_free = a_card(MEASURED, (None, 32, None, 3))
    assert costs(only_width_is_free, size=(64,))["conv"] == Cost(4 * 64 * 32 * 8, exact=False)


def test_dtype_without_a_size_has_unknown_costs() -> None:
    words: Layer = replace(LAYERS[1], dtype="string")
    assert activation_costs([words], a_card(MEASURED), (32, 32)) == [Cost(None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0."),
        ({"batch": -3}, "batch must be at least 1, got -3."),
        ({"size": (0, 5)}, "each size in size must be at least 1, got 0."),
        ({"size": [5, -1]}, "each size in size must be at least 1, got -1."),
    ],
)
def test_invalid_size_or_batch_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        activation_costs(LAYERS, None, **options)
    assert str(caught.value) == message
