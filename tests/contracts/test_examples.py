"""The notebooks run from start to end; those of the lecture find what Keras finds.

Keras's values are computed here from the lines that the notebooks' text shows beside its own.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from generators import tiny
from layertap_models.registry import find as find_model

EXAMPLES = Path(__file__).parents[2] / "examples"
LECTURE = ("activations", "gradients")
NOTEBOOKS = (*LECTURE, "collections", "pictures", "comparing")

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")


def read(path: Path) -> Any:
    import nbformat

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


def code(notebook: Any) -> dict[str, Any]:
    """The code cells by their ids."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell: Any) -> str:
    """All text that a cell put out."""
    parts = [o.text if o.output_type == "stream" else o.data["text/plain"] for o in cell.outputs]
    return "".join(parts)


def pictures(cell: Any) -> list[tuple[int, int]]:
    """The sizes of the pictures that a cell put out."""
    found = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(b64decode(png))).size for png in found]


def run(name: str, folder: Path, home: Path) -> Any:
    """Execute a notebook as the script does, and read the result."""
    output = folder / f"executed-{name}.ipynb"
    script, notebook = EXAMPLES / "execute.py", EXAMPLES / f"{name}.ipynb"
    command = [
        sys.executable,
        *map(str, (script, notebook, "--output", output, "--folder", folder)),
    ]
    environment = {**os.environ, "HOME": str(home), "USERPROFILE": str(home)}
    environment.pop("LAYERTAP_IMAGES", None)
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return read(output)


def same_text(actual: str, expected: str) -> None:
    """Numbers with a fraction within a thousandth; all else alike except for spaces.

    numpy pads the numbers of an array to one width, which depends on their last digits.
    """
    assert "".join(NUMBER.sub("#", actual).split()) == "".join(NUMBER.sub("#", expected).split())
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (actual, expected)]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-3, atol=1e-3)


# --- As it is stored ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NOTEBOOKS)
def name(request: pytest.FixtureRequest) -> str:
    """Each notebook in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def stored(name: str) -> Any:
    return read(EXAMPLES / f"{name}.ipynb")


LINES = {
    "activations": (
        "load_C3M3_model()",
        "model.summary()",
        "for index, layer in enumerate(model.layers",
        "model.layers[-3:]",
        "len(model.layers)",
        "keras.layers.Conv2D",
        "keras.layers.Concatenate",
        "model.layers[424]",
        'model.get_layer("conv5_block16_concat")',
        "layer.output.shape",
        "K.function([model.input], [spatial_maps])",
        "image.load_img(path, target_size=(320, 320))",
        "np.mean(sample)",
        "np.std(sample)",
        "x -= mean",
        "x /= std",
        "get_spatial_maps([x])[0]",
        "spatial_maps_x = spatial_maps_x[0]",
        "print(spatial_maps_x[0])",
        "model.predict(x)",
    ),
    "gradients": (
        "load_C3M3_model()",
        "y_category = model.output[0][category]",
        "K.gradients(y_category, spatial_maps)[0]",
        "K.function([model.input], [spatial_maps, gradients])",
        "get_spatial_maps_and_gradients([x])",
        "spatial_maps_x = spatial_maps_x[0]",
        "gradients_x = gradients_x[0]",
        "np.mean(gradients_x, axis=(0, 1))",
        "np.dot(spatial_maps_x, weights)",
        "np.maximum(cam, 0)",
        "cv2.resize(cam, (320, 320)",
        "cam / cam.max()",
        "grad_cam(model, x, category",
        'plt.imshow(cam, cmap="jet", alpha=min(0.5, prediction[category]))',
        "compute_gradcam(model, path",
    ),
    "collections": ("keras.Model(model.input", "inside.predict(images)"),
    "pictures": (),
    "comparing": (),
}
"""What the steps are in Keras."""


def test_every_step_has_the_keras_lines_that_it_replaces(name: str, stored: Any) -> None:
    steps = [cell.source for cell in stored.cells if "# Keras\n" in cell.source]
    for line in LINES[name]:
        assert [step for step in steps if line in step], line


def test_tensorflow_is_named_by_no_cell_but_to_deny_it(stored: Any) -> None:
    for cell_id, cell in code(stored).items():
        for line in cell.source.splitlines():
            if re.search(r"tensorflow|keras", line, re.IGNORECASE):
                assert line.startswith("assert "), (cell_id, line)
                assert "sys.modules" in line


def test_the_notebook_is_stored_with_its_outputs_and_nothing_of_the_machine(
    name: str, stored: Any
) -> None:
    assert stored.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = code(stored)
    assert [cell.execution_count for cell in cells.values()] == list(range(1, len(cells) + 1))
    assert [cell_id for cell_id, cell in cells.items() if not cell.outputs] == ["keep"]
    for cell in stored.cells:
        assert re.fullmatch(r"[a-z-]+", cell.id), cell.id
        assert cell.metadata == {}
        for output in cell.get("outputs", []):
            assert output.get("name", "stdout") == "stdout"
    text = "".join(printed(cell) for cell in cells.values())
    assert not re.search(r"(?<![\w.])(/\w|[A-Z]:\\)", text)
    assert not re.search(r"in \d+ s\b|[\r\x1b]", text)
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 120_000


# --- As it runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(chest_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks run. Exported models are there, as they are when a student goes on."""
    folder = tmp_path_factory.mktemp("notebook")
    for name in "chest.onnx", "chest-gradients.onnx":
        shutil.copy(chest_file, folder / name)
    return folder


@pytest.fixture(scope="module")
def execute(folder: Path, home: Path) -> Callable[[str], dict[str, Any]]:
    """Executes a notebook, once, and gives its code cells."""
    return functools.cache(lambda name: code(run(name, folder, home)))


@pytest.fixture(scope="module")
def executed(execute: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return execute("activations")


@pytest.fixture(scope="module")
def found(executed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arrays that the first notebook keeps at its end."""
    with np.load(folder / "activations.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def explained(execute: Callable[[str], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The arrays that the second notebook keeps at its end."""
    execute("gradients")
    with np.load(folder / "gradients.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def keras_model() -> Any:
    pytest.importorskip("tensorflow")
    from layertap_models import chest_xray

    return chest_xray.build()


@pytest.fixture(scope="module")
def keras_statistics(executed: dict[str, Any], folder: Path) -> tuple[float, float]:
    import keras

    sample = [
        np.array(keras.utils.load_img(path, target_size=(320, 320)))
        for path in sorted((folder / "images").glob("*.png"))
    ]
    return float(np.mean(sample)), float(np.std(sample))


@pytest.fixture(scope="module")
def keras_x(keras_statistics: tuple[float, float], folder: Path) -> Any:
    import keras

    mean, std = keras_statistics
    x = keras.utils.load_img(folder / "images" / "phantom_000.png", target_size=(320, 320))
    x = x - np.float64(mean)
    x /= std
    return np.expand_dims(x, axis=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", LECTURE)
def test_running_it_gives_what_is_stored(
    name: str, execute: Callable[[str], dict[str, Any]], home: Path
) -> None:
    """`python examples/execute.py` regenerates the stored outputs."""
    cells = code(read(EXAMPLES / f"{name}.ipynb"))
    executed = execute(name)
    assert list(executed) == list(cells)
    for cell_id, cell in executed.items():
        if cell_id != "export":  # the model was there
            same_text(printed(cell), printed(cells[cell_id]))
            assert pictures(cell) == pictures(cells[cell_id])
    assert list(home.iterdir()) == []


@pytest.mark.tensorflow
def test_the_layers_it_shows_are_those_of_keras(executed: dict[str, Any], keras_model: Any) -> None:
    layers = keras_model.layers
    assert printed(executed["layers"]) == "".join(
        f"{index} {layer.name} {type(layer).__name__}\n" for index, layer in enumerate(layers[:5])
    )
    assert printed(executed["number"]) == f"The model has {len(layers)} layers\n"
    lines = []
    for kind in "Conv2D", "Concatenate":
        names = [layer.name for layer in layers if type(layer).__name__ == kind]
        lines.append(f"{len(names)} {kind} layers, from {names[0]} to {names[-1]}\n")
    assert printed(executed["filter"]) == "".join(lines)
    layer = layers[424]
    assert layer is keras_model.get_layer("conv5_block16_concat")
    shown = printed(executed["pick"]).splitlines()[0]
    assert shown == f"{layer.name} {type(layer).__name__} {layer.output.shape}"


@pytest.mark.tensorflow
def test_mean_and_deviation_are_those_of_the_lecture(
    executed: dict[str, Any], keras_statistics: tuple[float, float]
) -> None:
    mean, std = keras_statistics
    line = f"mean {mean:.3f}, standard deviation {std:.3f}"
    assert printed(executed["statistics"]).splitlines()[0] == line


@pytest.mark.tensorflow
def test_the_normalised_image_is_that_of_the_lecture(found: dict[str, Any], keras_x: Any) -> None:
    assert found["x"].dtype == np.float32
    assert found["x"].shape == keras_x.shape == (1, 320, 320, 3)
    np.testing.assert_allclose(found["x"], keras_x, rtol=1e-6, atol=1e-6)


@pytest.mark.tensorflow
def test_the_activations_are_those_of_keras(
    found: dict[str, Any], keras_model: Any, keras_x: Any
) -> None:
    import keras

    spatial_maps = keras_model.get_layer("conv5_block16_concat").output
    function = keras.Model(keras_model.input, [spatial_maps, keras_model.output])
    maps, prediction = (values[0] for values in function.predict(keras_x, verbose=0))
    assert found["conv5_block16_concat"].shape == maps.shape == (10, 10, 1024)
    scale = np.abs(maps).max()
    np.testing.assert_allclose(found["conv5_block16_concat"] / scale, maps / scale, atol=1e-5)
    np.testing.assert_allclose(found["prediction"], prediction, atol=1e-5)


@pytest.fixture(scope="module")
def keras_gradients(
    explained: dict[str, Any], keras_model: Any, folder: Path
) -> tuple[Any, Any, Any]:
    """Spatial maps and gradients of the 14 logits, `(14, 10, 10, 1024)`, and the prediction."""
    import keras
    import tensorflow as tf

    scaling = json.loads((folder / "preprocess.json").read_text())["scaling"]
    x = keras.utils.load_img(folder / "images" / "phantom_000.png", target_size=(320, 320))
    x = ((np.array(x) - scaling["mean"]) / scaling["std"])[np.newaxis].astype(np.float32)
    names = ("conv5_block16_concat", "global_average_pooling2d")
    inside = keras.Model(keras_model.input, [keras_model.get_layer(x).output for x in names])
    # What follows the layer, so that the tape can watch the layer itself.
    rest = [keras_model.get_layer(x) for x in ("bn", "relu", "global_average_pooling2d")]
    kernel, bias = keras_model.get_layer("dense").weights
    maps, _ = inside(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        features = functools.reduce(lambda value, layer: layer(value, training=False), rest, maps)
        logits = (features @ kernel + bias)[0]
        scores = [logits[k] for k in range(14)]
    gradients = np.stack([tape.gradient(score, maps)[0] for score in scores])
    return maps[0].numpy(), gradients, keras_model.predict(x, verbose=0)[0]


@pytest.mark.tensorflow
def test_the_gradients_are_those_of_keras(
    explained: dict[str, Any], keras_gradients: tuple[Any, Any, Any]
) -> None:
    _, gradients, prediction = keras_gradients
    scale = np.abs(gradients[0]).max()
    assert explained["gradients"].shape == (10, 10, 1024)
    np.testing.assert_allclose(explained["gradients"] / scale, gradients[0] / scale, atol=1e-5)
    np.testing.assert_allclose(explained["prediction"], prediction, atol=1e-5)


@pytest.mark.tensorflow
def test_the_heat_maps_are_those_of_the_lecture(
    explained: dict[str, Any], keras_gradients: tuple[Any, Any, Any]
) -> None:
    import tensorflow as tf

    maps, gradients, _ = keras_gradients
    assert explained["maps"].shape == (14, 320, 320)
    for heat, gradient in zip(explained["maps"], gradients, strict=True):
        cam = np.maximum(np.dot(maps, np.mean(gradient, axis=(0, 1))), 0)
        cam = tf.image.resize(cam[..., np.newaxis], (320, 320)).numpy()[..., 0]
        np.testing.assert_allclose(heat, cam / cam.max(), atol=1e-4)
    # Sums of terms that cancel, over one class and over fourteen at once.
    np.testing.assert_allclose(explained["maps"][0], explained["cam"], atol=1e-5)


def with_digits(tmp_path: Path, count: int) -> Path:
    """A folder as the notebooks on the digits leave it after the export, with another network."""
    pytest.importorskip("sklearn")
    folder = tmp_path / "notebook"
    folder.mkdir()
    tiny.save(tiny.digits(), folder / "digits.onnx")
    find_model("digits").write_samples(folder / "images", count)
    return folder


def test_the_one_on_collections_runs_with_another_network(tmp_path: Path, home: Path) -> None:
    """With one that needs no export, everything comes out alike that does not depend on weights."""
    folder = with_digits(tmp_path, 300)
    cells, executed = (
        code(read(EXAMPLES / "collections.ipynb")),
        code(run("collections", folder, home)),
    )
    for cell_id in "damage", "bill", "interrupt", "continue", "nothing", "failed", "repair":
        same_text(printed(executed[cell_id]), printed(cells[cell_id]))
    codes = [
        line for cell in cells.values() for line in re.findall(r"exit code \d+", printed(cell))
    ]
    assert [int(line.split()[-1]) for line in codes] == [0, 0, 0, 1, 1, 2, 0]
    assert pictures(executed["neighbours"]) == pictures(cells["neighbours"])
    for cell in executed["probe"], cells["probe"]:
        accuracy = [float(line.split()[1]) for line in printed(cell).splitlines()]
        assert len(accuracy) == 3
        assert min(accuracy) > 0.3
    similar = [[float(x) for x in NUMBER.findall(printed(executed["rsa"]))]]
    table = np.reshape(similar, (3, 3))
    np.testing.assert_allclose(np.diag(table), 1)
    np.testing.assert_allclose(table, table.T)
    assert printed(executed["stream"]).startswith("256 44 ")
    # Each row of scores sums to 1.
    scores = [float(x) for x in NUMBER.findall(printed(executed["stream"]))]
    assert sum(scores) == pytest.approx(300, abs=0.5)
    assert len((folder / "average.csv").read_text().splitlines()) == 301
    assert list(home.iterdir()) == []


@pytest.mark.tensorflow
def test_the_one_on_pictures_draws_what_is_stored(
    execute: Callable[[str], dict[str, Any]], folder: Path
) -> None:
    cells, executed = code(read(EXAMPLES / "pictures.ipynb")), execute("pictures")
    for cell_id in executed.keys() - {"export"}:
        same_text(printed(executed[cell_id]), printed(cells[cell_id]))
        assert pictures(executed[cell_id]) == pictures(cells[cell_id])
    assert sum(len(pictures(cell)) for cell in executed.values()) == 5
    with np.load(folder / "pictures.npz") as file:
        assert file["gradcam"].shape == (320, 320)
    assert (folder / "edema.pdf").read_bytes().startswith(b"%PDF")


def test_the_one_on_comparing_runs_with_another_network(tmp_path: Path, home: Path) -> None:
    """With one that needs no export; what is counted does not depend on the weights."""
    folder = with_digits(tmp_path, 60)
    executed = code(run("comparing", folder, home))
    assert printed(executed["compare"]).startswith("passed: True for 60 images\n")
    assert "of the size, float16" in printed(executed["quantize"])
    assert printed(executed["record"]) == "passed: True for 8 images\n"
    assert len((folder / "comparison.csv").read_text().splitlines()) > 3
    assert list(home.iterdir()) == []


@pytest.mark.slow
@pytest.mark.tensorflow
def test_it_runs_in_an_empty_folder_and_comes_out_as_it_is_stored(
    name: str, stored: Any, tmp_path: Path
) -> None:
    """The export too; what it prints differs with the machine in the last digits alone."""
    pytest.importorskip("tf2onnx", reason="needs the export extra")
    folder, home = tmp_path / "notebook", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    cells = code(run(name, folder, home))
    said = printed(cells["export"])
    size, what = {
        "activations": (r"28\.\d MB, 429 of 429", "428 layers"),
        "gradients": (r"28\.\d MB, 429 of 429", "428 layers and 1 gradient"),
        "collections": (r"0\.4 MB, 20 of 20", "19 layers"),
        "pictures": (r"28\.\d MB, 429 of 429", "428 layers and 1 gradient"),
        "comparing": (r"0\.4 MB, 20 of 20", "19 layers"),
    }[name]
    assert re.search(rf"wrote \S+ \({size} layers exposed\) in ... s", said)
    assert f"verified {what} against Keras" in said
    for cell_id, cell in code(stored).items():
        if cell_id != "export":
            same_text(printed(cells[cell_id]), printed(cell))
    assert list(home.iterdir()) == []
