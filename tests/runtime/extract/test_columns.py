"""What is computed for each item: layers, reductions, gradients and heat maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap._engine.program import Program, program_of
from layertap.errors import InputError, LayerNotFoundError, LayertapError, UsageError
from layertap.extract.columns import columns_of
from layertap.images.preprocessing import Preprocessing

X = tiny.images(3)


def opened(made: Any) -> Program:
    return program_of(layertap.open(made.SerializeToString()))


def renamed(name: str) -> Program:
    """x (n, 4) -> a -> b -> c, dense layers, of which the first has another name."""
    made = tiny.linear_chain()
    for entry in made.metadata_props:
        if not entry.value.startswith("{"):
            continue
        card = json.loads(entry.value)
        card["layers"] = json.loads(json.dumps(card["layers"]).replace('"a"', json.dumps(name)))
        for row in card["layers"]:
            row["tensor"] = "a" if row["tensor"] == name else row["tensor"]
        entry.value = json.dumps(card)
    return opened(made)


@pytest.fixture
def program(tiny_file: Callable[[str], Path]) -> Program:
    """Layers image, conv, relu, mixed, last, pool, probs; classes cat, dog, bird; gradients."""
    return program_of(layertap.open(tiny_file("differentiable")))


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ("relu", ["relu"]),
        ({"relu": "mean"}, ["relu"]),
        (["relu=mean"], ["relu"]),
        (["relu=mean", "relu"], ["relu=mean", "relu"]),
        ({"relu": ["mean", "max", None]}, ["relu=mean", "relu=max", "relu"]),
        (["relu=mean", "relu=mean"], ["relu"]),
        ({"relu": "top2"}, ["relu.channels", "relu.values"]),
        (["relu=top2", "relu=mean"], ["relu=top2.channels", "relu=top2.values", "relu=mean"]),
        (["re*=max", "1"], ["relu", "conv"]),
        (["re:re.*=max"], ["relu"]),
        (["grad:relu"], ["grad:relu"]),
        ({"grad:relu": ["dog", "cat"]}, ["grad:relu=dog", "grad:relu=cat"]),
        (["cam:dog", "cam:1=hirescam", "cam:0"], ["cam:dog", "cam:1", "cam:0"]),
        (["cam:dog", "cam:dog=hirescam"], ["cam:dog=gradcam", "cam:dog=hirescam"]),
        ([1, slice(0, 2)], ["conv", "image"]),
    ],
)
def test_columns_are_named_by_what_was_asked(program: Program, asked: Any, keys: list[str]) -> None:
    columns = columns_of(program, asked)
    assert [column.key for column in columns.columns] == keys
    found = columns(X)
    assert list(found) == keys
    for column in columns.columns:
        assert found[column.key].shape == (3, *column.shape)
        assert found[column.key].dtype == column.dtype
        assert len(column.dims) == len(column.shape)


def test_values_are_those_of_the_model(tiny_file: Callable[[str], Path]) -> None:
    model = layertap.open(tiny_file("differentiable"))
    asked = ["relu", "relu=mean", "relu=top2", "pool", "grad:relu=dog", "cam:cat", "cam:top"]
    found = columns_of(program_of(model), asked)(X)
    strongest: Any = model.activations(X, {"relu": "top2"})["relu"]
    for key, value in (
        ("relu", model.activations(X, "relu")),
        ("relu=mean", model.activations(X, {"relu": "mean"})["relu"]),
        ("relu=top2.channels", strongest.channels),
        ("relu=top2.values", strongest.values),
        ("pool", model.activations(X, "pool")),
        ("grad:relu", model.gradients(X, "relu", "dog")),
        ("cam:cat", model.cam(X, target="cat")[:, 0]),
        ("cam:top", model.cam(X)[:, 0]),
    ):
        np.testing.assert_array_equal(found[key], value, err_msg=key)
        assert np.ptp(value) > 0


def test_columns_say_what_they_are(program: Program) -> None:
    asked = ["relu", "relu=flatten", "mixed=mean", "relu=top2", "grad:relu", "cam:dog", "pool"]
    columns = columns_of(program, asked, dtype="float16").columns
    said = {
        column.key: (column.asked, column.dtype, column.shape, column.dims) for column in columns
    }
    maps = ("height", "width", "channel")
    relu = {"layer": "relu", "reduction": None}
    assert said == {
        "relu": (relu, "float16", (8, 6, 4), maps),
        "relu=flatten": ({**relu, "reduction": "flatten"}, "float16", (192,), ("feature",)),
        "mixed": ({"layer": "mixed", "reduction": "mean"}, "float16", (5,), ("channel",)),
        "relu=top2.channels": (
            {**relu, "reduction": "top2", "part": "channels"}, "int64", (2,), ("rank",),
        ),
        "relu=top2.values": (
            {**relu, "reduction": "top2", "part": "values"}, "float16", (2,), ("rank",),
        ),
        "grad:relu": ({"gradient": "relu", "target": "top"}, "float16", (8, 6, 4), maps),
        "cam:dog": (
            {"cam": "dog", "method": "gradcam", "layer": "last"},
            "float16", (8, 6), ("height", "width"),
        ),
        "pool": ({"layer": "pool", "reduction": None}, "float16", (5,), ("channel",)),
    }  # fmt: skip


def test_folders_differ_and_are_no_files_of_the_collection() -> None:
    columns = columns_of(renamed("Journal"), ["Journal", "b", "b=mean"]).columns
    assert [column.folder for column in columns] == ["Journal_2", "b", "b=mean"]


def test_sizes_that_the_image_determines() -> None:
    program = opened(tiny.image_classifier(None, None))
    assert columns_of(program, ["relu=mean"]).columns[0].shape == (4,)
    with pytest.raises(UsageError, match=r"size of 'relu'.*depends on the image.*relu=mean"):
        columns_of(program, ["relu"])
    with pytest.raises(UsageError, match="depends on the image"):
        columns_of(program, ["relu=flatten"])
    recipe = Preprocessing(size=(10, 12))
    assert columns_of(program, ["relu"], recipe=recipe).columns[0].shape == (10, 12, 4)
    columns = columns_of(program, ["relu"], recipe=recipe)
    with pytest.raises(InputError, match=r"'relu' has the shape \(3, 8, 6, 4\).*\(3, 10, 12, 4\)"):
        columns(X)


def test_a_file_without_a_card_is_tried() -> None:
    program = opened(tiny.channels_first())
    size = [size for size in program.graph.inputs["first"].dims or () if isinstance(size, int)]
    columns = columns_of(program, None)
    found = columns(np.zeros((2, *size), np.float32))
    assert {key: value.shape[1:] for key, value in found.items()} == {
        column.key: column.shape for column in columns.columns
    }


def test_a_batch_of_fixed_size_is_run_in_parts() -> None:
    made = tiny.image_classifier()
    free = columns_of(opened(made), ["relu", "pool"])(tiny.images(5))
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 2
    del made.metadata_props[:]
    fixed = columns_of(opened(made), ["relu", "pool"])(tiny.images(5))
    for key, value in free.items():
        np.testing.assert_array_equal(fixed[key], value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["rellu"], "relu"),
        (["relu=men"], "'men'.*'mean'"),
        ({"relu": "men"}, "mean"),
        (["grad:pool"], "no gradient for 'pool'"),
        (["grad:rellu"], "relu"),
        (["grad:relu=dgo"], "dog"),
        (["cam:dgo"], "dog"),
        (["cam:dog=gradcm"], "gradcam"),
        ({"cam:dog": 3}, "must be a name"),
        ({"grad:relu": [0.5]}, "one class"),
        ({}, "empty"),
        ([], "no layers"),
        (3.5, "cannot select"),
    ],
)
def test_what_is_unknown_is_refused_before_any_image(
    program: Program, asked: Any, message: str
) -> None:
    with pytest.raises(LayertapError, match=message):
        columns_of(program, asked)


def test_other_refusals(program: Program) -> None:
    with pytest.raises(UsageError, match="float16"):
        columns_of(program, "relu", dtype="float17")
    with pytest.raises(LayerNotFoundError):
        columns_of(program, ["cam:dog"], cam_layer="rellu")
    with pytest.raises(UsageError, match="needs 2"):
        columns_of(opened(tiny.two_inputs()), None)
    with pytest.raises(LayertapError, match="no gradients"):
        columns_of(opened(tiny.image_classifier()), ["cam:dog"])


def test_the_name_of_a_layer_wins() -> None:
    for name in ("a=mean", "cam:x", "grad:a"):
        (column,) = columns_of(renamed(name), [name]).columns
        assert column.asked == {"layer": name, "reduction": None}
        assert column.key == name
