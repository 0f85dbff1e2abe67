"""`predict`, `activations` and `cam` of more inputs than should be run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import layertap
from generators import tiny
from layertap._engine.session import Session
from layertap.errors import ImageError, InputError, LayertapError, UsageError

COUNT = 40


@pytest.fixture
def model(tiny_file: Callable[[str], Path]) -> layertap.Model:
    """Images (n, 8, 6, 3); layers image, conv, relu, mixed, last, pool, probs; with gradients."""
    return layertap.open(tiny_file("differentiable"))


RECIPE = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}


def picture(seed: int, size: tuple[int, int] = (9, 9)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


PICTURES = [picture(seed) for seed in range(COUNT)]
BATCH = layertap.Preprocessing.from_dict(RECIPE).batch(PICTURES)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of samples of all runs from here on."""
    seen: list[int] = []
    run = Session.run

    def counting(self: Session, outputs: Any, feeds: Any, *more: Any) -> Any:
        seen.append(len(next(iter(feeds.values()))))
        return run(self, outputs, feeds, *more)

    monkeypatch.setattr(Session, "run", counting)
    return seen


class Series:
    """As a pandas Series."""

    ndim = 1

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_numpy(self) -> Any:
        return np.array(self._values, object)


FORMS: dict[str, Callable[[list[str]], Any]] = {
    "a folder": lambda paths: Path(paths[0]).parent,
    "paths": lambda paths: paths,
    "a series": Series,
    "an array of paths": np.array,
    "a generator of paths": lambda paths: (Path(path) for path in paths),
    "pictures": lambda _: PICTURES,
    "a generator of pictures": lambda _: iter(PICTURES),
}


@pytest.mark.parametrize("form", FORMS)
def test_many_images_are_run_in_batches(
    model: layertap.Model, tmp_path: Path, batches: list[int], form: str
) -> None:
    paths = [str(tmp_path / f"{seed:02}.png") for seed in range(COUNT)]
    for path, image in zip(paths, PICTURES, strict=True):
        image.save(path)
    predicted = model.predict(BATCH)
    relu = model.activations(BATCH, "relu")
    top: Any = model.activations(BATCH, {"relu": "top2", "pool": None})
    maps = model.cam(BATCH[:5], target=["cat", "top"])
    for size, expected in ((None, [16, 16, 8]), (25, [25, 15])):
        more: Any = {"preprocess": RECIPE, "batch_size": size}
        batches.clear()
        found = model.predict(FORMS[form](paths), **more)
        assert batches == expected
        np.testing.assert_array_equal(found, predicted)
        np.testing.assert_array_equal(model.activations(FORMS[form](paths), "relu", **more), relu)
        several: Any = model.activations(FORMS[form](paths), {"relu": "top2", "pool": None}, **more)
        np.testing.assert_array_equal(several["relu"].channels, top["relu"].channels)
        np.testing.assert_array_equal(several["relu"].values, top["relu"].values)
        np.testing.assert_array_equal(several["pool"], top["pool"])
    batches.clear()
    heat = model.cam(FORMS[form](paths), target=["cat", "top"], preprocess=RECIPE, batch_size=7)
    assert max(batches) == 7
    assert heat.shape == (COUNT, 2, 8, 6)
    np.testing.assert_allclose(heat[:5], maps, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 15))
def test_arrays_are_divided_on_request(count: int, size: int) -> None:
    model = layertap.open(tiny.differentiable().SerializeToString())
    x = BATCH[:count]
    whole = model.activations(x)
    found = model.activations(x, batch_size=size)
    assert list(found) == list(whole)
    for name, value in whole.items():
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(model.predict({"image": x}, batch_size=size), model.predict(x))
    pixels = np.stack([np.asarray(image) for image in PICTURES[:count]])
    np.testing.assert_array_equal(
        model.predict(pixels, RECIPE, batch_size=size), model.predict(pixels, RECIPE)
    )


def test_arrays_are_run_at_once_otherwise(model: layertap.Model, batches: list[int]) -> None:
    model.predict(BATCH)
    model.activations(list(BATCH), "relu")
    assert batches == [COUNT, COUNT]


def test_several_inputs_are_divided_together(batches: list[int]) -> None:
    made = tiny.two_inputs()
    feeds = tiny.feeds(made, 5)
    model = layertap.open(made.SerializeToString())
    whole = model.activations(feeds)
    batches.clear()
    for several in (feeds, list(feeds.values())):
        found = model.activations(several, batch_size=2)
        for name, value in whole.items():
            np.testing.assert_array_equal(found[name], value)
    assert batches == [2, 2, 1] * 2
    name = next(iter(feeds))
    with pytest.raises(InputError, match="different batch sizes"):
        model.activations({**feeds, name: feeds[name][:3]}, batch_size=2)


def test_targets_of_each_image_are_divided_as_the_images_are(model: layertap.Model) -> None:
    targets = [[seed % 3, (seed + 1) % 3] for seed in range(COUNT)]
    weights = np.random.default_rng(0).random((COUNT, 3)).astype(np.float32)
    for target in (targets, weights, "dog", ["dog", 0], weights[0]):
        whole = model.cam(BATCH, target=target, batch_size=COUNT)
        for inputs in (BATCH, PICTURES, iter(PICTURES)):
            found = model.cam(inputs, target=target, batch_size=7, preprocess=RECIPE)
            np.testing.assert_array_equal(found, whole)
    with pytest.raises(UsageError, match="targets for 40 images, got 39"):
        model.cam(BATCH, target=targets[:-1], batch_size=7)


def test_one_image_keeps_its_shape(model: layertap.Model) -> None:
    assert model.cam(PICTURES[0], preprocess=RECIPE).shape == (8, 6)
    assert model.cam([PICTURES[0]], preprocess=RECIPE).shape == (1, 1, 8, 6)
    assert model.predict(PICTURES[0], RECIPE, batch_size=1).shape == (1, 3)


def test_results_without_a_row_for_each_sample_are_not_divided(batches: list[int]) -> None:
    model = layertap.open(tiny.constant_outputs().SerializeToString())
    name = next(iter(model.inputs)).name
    shape = [size or 5 for size in model.inputs[0].shape]
    x = np.ones(shape, np.float32)
    whole = model.predict({name: x})
    with pytest.raises(UsageError, match="a row for each sample"):
        model.predict({name: x}, batch_size=2)
    assert list(model.predict({name: x})) == list(whole)
    assert len(batches) <= 3


def test_a_model_of_one_image_takes_a_list() -> None:
    made = tiny.image_classifier()
    x = model_of(made).predict(PICTURES[:3], RECIPE)
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    del made.metadata_props[:]
    found = model_of(made).predict(PICTURES[:3], RECIPE)
    np.testing.assert_array_equal(found["probs"] if isinstance(found, dict) else found, x)


def model_of(made: Any) -> layertap.Model:
    return layertap.open(made.SerializeToString())


def test_images_whose_results_have_different_shapes() -> None:
    model = layertap.open(tiny.image_classifier(None, None).SerializeToString())
    images: Any = [picture(0, (8, 6)), picture(1, (9, 7))]
    assert model.activations(images, {"relu": "mean"}, batch_size=1)["relu"].shape == (2, 4)
    with pytest.raises(InputError, match=r"\(8, 6, 4\) for some samples, \(9, 7, 4\)"):
        model.activations(images, "relu", batch_size=1)


def test_bad_requests(model: layertap.Model, tmp_path: Path) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (BATCH, {"batch_size": 0}, "batch_size must be at least 1"),
        (BATCH, {"batch_size": 2.5}, "batch_size must be an integer"),
        (5, {"batch_size": 2}, "divides arrays"),
        ("gone.png", {"batch_size": 2, "preprocess": RECIPE}, "no such file"),
        (tmp_path, {"preprocess": RECIPE}, "there is no image here"),
        ([*PICTURES, "gone.png"], {"preprocess": RECIPE}, r"gone\.png: there is no such file"),
    ]
    for inputs, options, message in wrong:
        for call in (model.predict, lambda x, **more: model.activations(x, "relu", **more)):
            with pytest.raises(LayertapError, match=message):
                call(inputs, **options)
    with pytest.raises(UsageError, match="stay on a device"):
        model.predict(BATCH, batch_size=2, on_device=True)
    assert model.predict(iter([])).shape == (0, 3)
    with pytest.raises(ImageError):
        model.predict(iter(["gone.png"]), RECIPE)


def test_an_iterator_is_not_held_in_memory(model: layertap.Model) -> None:
    alive = peak = 0

    class Picture(Image.Image):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pictures() -> Iterator[Any]:
        nonlocal alive, peak
        for image in PICTURES:
            made = image.copy()
            made.__class__ = Picture
            alive += 1
            peak = max(peak, alive)
            yield made
            del made

    model.predict(pictures(), RECIPE, batch_size=4)
    assert peak <= 3 * 4
    assert alive == 0
