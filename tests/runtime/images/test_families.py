"""Recipes by name, compared with `keras.applications`: pixels, and sizes of images."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layertap import Preprocessing, PreprocessingError
from layertap.images.families import FAMILIES

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [
        ("resnet50", (224, 224), "caffe"),
        ("ResNet50V2", (224, 224), "tf"),
        ("resnet50_v2", (224, 224), "tf"),
        ("mobilenet_v2", (224, 224), "tf"),
        ("MobileNet-V2", (224, 224), "tf"),
        ("EfficientNetB3", (300, 300), None),
        ("efficientnet_b3", (300, 300), None),
        ("efficientnet", (224, 224), None),
        ("nasnet", (224, 224), "tf"),
        ("NASNetLarge", (331, 331), "tf"),
        ("imagenet-caffe", (224, 224), "caffe"),
        ("densenet:320", (320, 320), "torch"),
        ("densenet:320x200", (320, 200), "torch"),
        ("efficientnetv2s:64x32", (64, 32), None),
    ],
)
def test_a_name_is_a_recipe(name: str, size: tuple[int, int], mode: str | None) -> None:
    recipe = Preprocessing.of(name)
    assert recipe.size == size
    assert getattr(recipe.scaling, "mode", None) == mode
    assert (recipe.interpolation, recipe.color_mode) == ("nearest", "rgb")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "resnet5",
            "resnet5: there is no file and no recipe of this name. Did you mean 'resnet50', "
            "'resnet', 'ResNet152'? The recipes of keras.applications are convnext, densenet, ",
        ),
        ("zzz", "zzz: there is no file and no recipe of this name. The recipes of "),
        (
            "resnet50:big",
            "'big' is not the size of an image: give resnet50:HEIGHTxWIDTH, for example "
            "resnet50:320x320.",
        ),
        ("vgg16:", "'' is not the size of an image: give vgg16:HEIGHTxWIDTH, for "),
        ("vgg16:0x3", "'0x3' is not the size of an image: give vgg16:HEIGHTxWIDTH, for "),
        ("vgg16:200000x200000", '"size" is '),
        ("resnet50.json", "resnet50.json: there is no such file."),
        ("./resnet50", "./resnet50: there is no such file."),
    ],
)
def test_no_recipe(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.of(name)
    assert str(caught.value).startswith(words)


def test_every_name_is_listed_where_one_is_wrong() -> None:
    with pytest.raises(PreprocessingError) as caught:
        Preprocessing.of("resnet5")
    assert ", ".join(FAMILIES) in str(caught.value)


def test_files_with_such_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("resnet50", "mine"):
        Path(name).write_text('{"size": [8, 6]}')
    assert Preprocessing.of("resnet50").size == (224, 224)
    assert Preprocessing.of("./resnet50").size == (8, 6)
    assert Preprocessing.of(Path("resnet50")).size == (8, 6)
    assert Preprocessing.of("mine").size == (8, 6)


# --- against Keras -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def applications() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    return keras.applications


def _keras(applications: Any, size: tuple[int, int] | None, function: Any, path: Path) -> Any:
    import keras

    image = keras.utils.load_img(path, target_size=size)
    return function(keras.utils.img_to_array(image)[None])


@pytest.mark.tensorflow
def test_every_family_prepares_as_keras_does(applications: Any, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    modules = {
        name: module
        for name, module in inspect.getmembers(applications, inspect.ismodule)
        if hasattr(module, "preprocess_input") and name != "imagenet_utils"
    }
    assert set(modules) == {name for name in FAMILIES if not name.startswith("imagenet-")}
    for name, module in modules.items():
        recipe = Preprocessing.of(name)
        expected = _keras(applications, recipe.size, module.preprocess_input, path)
        assert recipe.batch([path]).tobytes() == np.asarray(expected).tobytes(), name
    for mode in ("caffe", "tf", "torch"):
        recipe = Preprocessing.of(f"imagenet-{mode}")

        def prepared(batch: Any, mode: str = mode) -> Any:
            return applications.imagenet_utils.preprocess_input(batch, mode=mode)

        expected = _keras(applications, recipe.size, prepared, path)
        assert recipe.batch([path]).tobytes() == expected.tobytes(), mode


class _Size(Exception):  # noqa: N818 - it carries a result
    """Thrown where a model of keras.applications asks for its default size."""


@pytest.mark.tensorflow
def test_every_model_has_the_size_of_its_recipe(
    applications: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras.src.applications import imagenet_utils

    def stop(_: object, default_size: int, **__: object) -> None:
        raise _Size(default_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", stop)
    models = dict(inspect.getmembers(applications, inspect.isfunction))
    named = {model for _, sizes in FAMILIES.values() for model in sizes}
    assert set(models) == {name for name in named if not name.startswith("imagenet-")}
    for name, build in models.items():
        if name.startswith("MobileNetV3"):  # it takes any size; the names of its weights say which
            weights = inspect.getmodule(build).WEIGHTS_HASHES  # type: ignore[union-attr]
            assert all("_224_" in one for one in weights)
            assert Preprocessing.of(name).size == (224, 224)
            continue
        with pytest.raises(_Size) as caught:
            build(weights=None)
        (size,) = caught.value.args
        assert Preprocessing.of(name).size == (size, size), name
