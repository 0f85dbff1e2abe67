"""Whatever is given for an argument: a result, or an error of ours in words."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from layertap.cam.heat_maps import heat_maps
from layertap.cam.metrics import confidence, deletion, insertion
from layertap.cam.upsampling import resize
from layertap.extract.images import find_images
from layertap.extract.moments import collection_statistics
from layertap.format.card import KEY, Card, Golden, GoldenInput, GoldenLayer
from layertap.view.colormaps import colored
from layertap.view.documents import save_picture
from layertap.view.overlays import overlay
from layertap.view.panels import panel
from layertap.view.pictures import contact_sheet, strongest_channels
from layertap_export import add_gradients

VALUES: tuple[Any, ...] = (
    True, False, 0, -1, 1.5, float("nan"), float("inf"), "", "x", "\ud800", "a\0b", None, [],
    [None], [1.5], {}, {"a": 1}, np.array(1), np.array([1, 2]), np.array(["a"]), np.int64(1),
    np.bool_(1), np.float32(2), object(), b"x", Path("x"), (), slice(0, "a"), slice(0, 1), set(),
    ..., int,
)  # fmt: skip

FUNCTIONS = {"reshape", "changes", "progress"}
"""Arguments that are functions of the caller's, whose own errors come out as they are."""

Case = tuple[Callable[..., Any], Mapping[str, Any]]


def arguments(function: Callable[..., Any], **given: Any) -> Case:
    """A function, and valid values of all its arguments."""
    names = inspect.signature(function).parameters.values()
    values = {p.name: given.get(p.name, p.default) for p in names if p.kind != p.VAR_KEYWORD}
    return function, values


def runtime_cases(folder: Path) -> Iterator[tuple[str, Case]]:
    file = tiny.save(tiny.differentiable(), folder / "model.onnx")
    model = layertap.open(file)
    x = tiny.images(1)
    heat = np.random.default_rng(0).random((8, 6), np.float32)
    picture = (heat[..., None] * np.full(3, 255)).astype(np.uint8)
    image = folder / "image.png"
    Image.fromarray(picture).save(image)
    maps = model.cam(x, "conv")
    conv = model.activations(x, "conv")

    yield "open", arguments(layertap.open, source=file)
    yield "layer", arguments(model.layer, what="conv")
    yield "select", arguments(model.select)
    yield "summary", arguments(model.summary)
    yield "tap", arguments(model.tap)
    yield "activations", arguments(model.activations, inputs=x)
    yield "predict", arguments(model.predict, inputs=x)
    yield "decode", arguments(model.decode, scores=model.predict(x))
    yield "gradients", arguments(model.gradients, inputs=x)
    yield "jacobian", arguments(model.jacobian, inputs=x, layers="last")
    yield "receptive_field", arguments(model.receptive_field, layers="last")
    for method in ("gradcam", "scorecam", "ablationcam", "eigencam"):
        yield f"cam {method}", arguments(model.cam, inputs=x, layer="conv", method=method)
    yield "rise", arguments(model.cam, inputs=x, layer="last", method="rise", samples=2)
    yield "reciprocam", arguments(model.cam, inputs=x, layer="last", method="reciprocam")
    for method in ("saliency", "smoothgrad", "integrated_gradients"):
        few = {"steps": 3, "samples": 2}
        yield method, arguments(model.attribute, inputs=x, method=method, **few)
    explained: dict[str, dict[str, Any]] = {
        "occlusion": {"window": 4, "stride": 4},
        "kernelshap": {"window": 4, "samples": 20},
        "expected_gradients": {"samples": 2, "background": x},
    }
    for method, options in explained.items():
        yield method, arguments(model.attribute, inputs=x, method=method, **options)
    drawn = {"method": "eigencam", "layer": "conv", "image": picture}
    yield "picture", arguments(model.picture, inputs=x, **drawn)
    yield "sheet", arguments(model.sheet, inputs=x, layer="conv", tile=20)
    yield (
        "save_picture",
        arguments(save_picture, picture=Image.new("L", (8, 6)), path=folder / "a.pdf"),
    )
    yield "resume", arguments(model.resume, given={"conv": conv})
    yield "edit", arguments(model.edit, inputs=x, changes={"conv": lambda value: value})
    yield "cut", arguments(model.cut, path=folder / "cut.onnx", start="conv")
    page = folder / "page.html"
    yield "view", arguments(model.view, inputs=x, path=page, layers="conv")
    yield "a tap", arguments(model.tap("conv").__call__, inputs=x)
    yield "heat_maps", arguments(heat_maps, model=model, inputs=x, layer="conv")
    for function in (deletion, insertion, confidence):
        yield function.__name__, arguments(function, model=model, inputs=x, maps=maps)
    checked = layertap.open(tiny.save(*golden(folder)))
    yield "check", arguments(checked.check)
    yield "compare", arguments(layertap.compare, a=model, b=file, inputs=x)
    compared = layertap.compare(model, file, x)
    yield "record", arguments(model.record, inputs=x, path=folder / "record.npz")
    yield "rows", arguments(compared.rows)
    yield "to_csv", arguments(compared.to_csv)
    yield "to_overlay", arguments(compared.to_overlay)
    yield "to_page", arguments(compared.to_page)
    yield "worst", arguments(checked.check().table)
    yield "load_image", arguments(layertap.load_image, source=image)
    yield "Preprocessing", arguments(layertap.Preprocessing)
    yield "Preprocessing.of", arguments(layertap.Preprocessing.of, given={"size": [8, 6]})
    yield "from_dict", arguments(layertap.Preprocessing.from_dict, data={"size": [8, 6]})
    recipe = layertap.Preprocessing(size=(8, 6))
    yield "batch", arguments(recipe.batch, images=[image])
    yield "a recipe", arguments(recipe.__call__, image=image)
    yield "find_images", arguments(find_images, images=image)
    yield (
        "collection_statistics",
        arguments(collection_statistics, images=[image], size=(8, 6), sample=2),
    )
    yield "overlay", arguments(overlay, picture=picture, heat=heat)
    yield "panel", arguments(panel, pictures=[("a", picture)])
    yield "contact_sheet", arguments(contact_sheet, activation=conv[0], image=picture, tile=20)
    yield "strongest_channels", arguments(strongest_channels, activation=conv[0], count=2)
    yield "colored", arguments(colored, heat=heat)
    yield "resize", arguments(resize, maps=heat[None], size=(4, 4))


def golden(folder: Path) -> tuple[Any, Path]:
    """A file with a golden sample, and where it is saved."""
    made = tiny.counting()
    (item,) = (item for item in made.metadata_props if item.key == KEY)
    sample = Golden(
        seed=0,
        inputs=(GoldenInput(name="x", shape=(1, 1), low=-1.0, high=-0.5),),
        layers={"y": GoldenLayer(shape=(1, 1), norm=1.0, scale=1.0, values=(1.0,))},
    )
    item.value = replace(Card.from_json(item.value), golden=sample).to_json()
    return made, folder / "golden.onnx"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return dict(runtime_cases(tmp_path_factory.mktemp("arguments")))


def failures(function: Callable[..., Any], valid: Mapping[str, Any]) -> list[str]:
    """The calls that end in an error that is not ours."""
    found = []
    for name in valid.keys() - {"model"}:
        for value in VALUES:
            if callable(value) and name in FUNCTIONS:
                continue
            try:
                function(**{**valid, name: value})
            except layertap.LayertapError:
                continue
            except Exception as exc:  # noqa: BLE001 - this is what the test looks for
                found.append(f"{name}={value!r}: {type(exc).__name__}: {exc}")
    return found


def test_every_argument_takes_every_value_or_refuses_it_in_words(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (function, valid) in cases.items():
            found += [f"{name}: {text}" for text in failures(function, valid)]
    assert found == []


@pytest.mark.slow
def test_the_same_for_gradients_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tiny.save(tiny.residual(), tmp_path / "small.onnx")
    some = {"layers": "all", "seconds": 0.0, "source": file, "path": tmp_path / "out.onnx"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert failures(*arguments(add_gradients, **some)) == []
