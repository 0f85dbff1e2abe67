"""`layertap run`."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from generators import tiny
from layertap import open as open_model
from layertap.cli import image_input
from layertap.cli import run as command
from layertap.cli.ready_batch import load_ready
from layertap.extract import kept_rows
from layertap.extract.progress import CLEAR, Line
from layertap.view.panels import MARGIN
from shell import Done, layertap

TinyFile = Callable[[str], Path]
NAMES = [f"pictures/{letter}.png" for letter in "abcde"]


@pytest.fixture
def classifier(tiny_file: TinyFile, pictures: Path) -> Path:
    """A copy in the current folder, next to the folder of pictures."""
    return Path(shutil.copy(tiny_file("image_classifier"), pictures.parent / "m.onnx"))


def loaded(path: str | Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def model_with_layers(names: list[str]) -> None:
    """Write `m.onnx`, in which each of these layers doubles an image of 4 x 4."""
    shape: tuple[int | None, ...] = (None, 4, 4, 3)
    made = tiny.model(
        [tiny.node("Mul", "image two", name) for name in names],
        [tiny.value("image", ["n", 4, 4, 3])],
        [tiny.value(names[0], ["n", 4, 4, 3])],
        [tiny.constant("two", 2, np.float32)],
        card=tiny.card(
            [tiny.layer(i, name, "Lambda", shape) for i, name in enumerate(names)],
            {"image": shape},
            {names[0]: shape},
            preprocessing={"size": [4, 4]},
        ),
    )
    tiny.save(made, Path("m.onnx"))


# --- Output to an .npz file ---------------------------------------------------------------------


@pytest.mark.usefixtures("pictures")
def test_activations_are_written_for_images(classifier: Path) -> None:
    done = layertap(
        *("run", "m.onnx", *NAMES, "--layers", "relu", "--layers", "p*", "-o", "out.npz")
    )
    assert done == Done(
        0, "", "wrote out.npz: relu (5, 8, 6, 4), pool (5, 4), probs (5, 2)\n"
    )  # fmt: skip
    found = loaded("out.npz")
    assert list(found) == ["relu", "pool", "probs", "layertap.files"]
    assert found["layertap.files"].tolist() == NAMES
    model = open_model(classifier)
    for name, value in model.activations(NAMES, ["relu", "pool", "probs"]).items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.float32


@pytest.mark.usefixtures("pictures")
def test_reductions_and_dtypes_are_those_of_a_tap(classifier: Path) -> None:
    asked = ["relu=mean", "relu", "p*=top2", "conv=max"]
    done = layertap(
        *("run", "m.onnx", *NAMES, "--layers", *asked, "--dtype", "float16", "-o", "out.npz")
    )
    assert done.code == 0
    found = loaded("out.npz")
    model = open_model(classifier)
    top: Any = model.activations(NAMES, {"p*": "top2"}, dtype="float16")
    expected = {
        "relu=mean": model.activations(NAMES, {"relu": "mean"}, dtype="float16")["relu"],
        "relu": model.activations(NAMES, "relu", dtype="float16"),
        "pool.channels": top["pool"].channels,
        "pool.values": top["pool"].values,
        "probs.channels": top["probs"].channels,
        "probs.values": top["probs"].values,
        "conv": model.activations(NAMES, {"conv": "max"}, dtype="float16")["conv"],
    }
    assert list(found) == [*expected, "layertap.files"]
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == (np.int64 if "chan" in name else np.float16)
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.usefixtures("pictures", "classifier")
def test_reductions_that_are_unknown_are_refused() -> None:
    for options, message in (
        (("--layers", "relu=men"), "did you mean 'mean'"),
        (("--layers", "relu", "--dtype", "float17"), "float16"),
        (("--dtype", "float16"), "--dtype is for layers"),
    ):
        done = layertap("run", "m.onnx", *NAMES, *options)
        assert done.code == 2
        assert message.lower() in done.err.lower()


@pytest.mark.usefixtures("pictures", "classifier")
@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_large_results_are_kept_in_a_file_with_the_same_values(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rows, "MEMORY", limit)
    options = ("--layers", "relu", "pool=mean", "--batch-size", "2")
    table = layertap("run", "m.onnx", *NAMES, *options)
    assert layertap("run", "m.onnx", *NAMES, *options, "-o", "out.npz").code == 0
    found, model = loaded("out.npz"), open_model("m.onnx")
    relu = model.activations(NAMES, "relu", batch_size=2)
    np.testing.assert_array_equal(found["relu"], relu)
    assert f"{relu.mean():.6g}" in table.out
    assert [path.name for path in Path().iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_results_do_not_depend_on_the_batch_size(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch may be smaller; the rows are complete and in order."""
    batches: list[int] = []
    original = command._fetcher

    def spied(*args: Any) -> Callable[[Any], Any]:
        fetch = original(*args)

        def counted(batch: Any) -> Any:
            batches.append(len(batch))
            return fetch(batch)

        return counted

    monkeypatch.setattr(command, "_fetcher", spied)
    done = layertap(
        *("run", "m.onnx", "pictures", "--layers", "conv", "--batch-size", str(size)),
        *("-o", "out.npz"),
    )
    assert (done.code, done.out) == (0, "")
    assert batches == [size] * (5 // size) + [5 % size] * bool(5 % size)
    found = loaded("out.npz")
    assert found["layertap.files"].tolist() == NAMES
    expected = open_model("m.onnx").activations(NAMES, "conv")
    np.testing.assert_allclose(found["conv"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("pictures")
def test_layer_names_with_special_characters_are_written() -> None:
    names = ["block/conv1/conv", "encoder#1", "lstm:1", "größe", "a.npy", "."]
    model_with_layers(names)
    done = layertap("run", "m.onnx", "pictures/a.png", "--layers", "*", "-o", "out.npz")
    assert done.code == 0
    assert done.err == (
        "wrote out.npz: block/conv1/conv (1, 4, 4, 3), encoder#1 (1, 4, 4, 3), lstm:1 (1, 4, 4, 3) "
        "and 3 more\n"
    )
    found = loaded("out.npz")
    assert list(found) == [*names, "layertap.files"]
    for name in names:
        np.testing.assert_array_equal(found[name], open_model("m.onnx").activations(NAMES[0], name))


@pytest.mark.usefixtures("pictures")
def test_two_layers_that_numpy_reads_as_one_are_refused() -> None:
    model_with_layers(["x", "x.npy"])
    done = layertap("run", "m.onnx", "pictures/a.png", "--layers", "*", "-o", "out.npz")
    assert done.code == 2
    assert "an .npz file cannot contain both 'x' and 'x.npy', which numpy reads" in done.err
    assert not Path("out.npz").exists()


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("names", "key"),
    [
        (["layertap.files", "b"], "layertap.files~2"),
        (["layertap.files", "layertap.files~2"], "layertap.files~3"),
        (["layertap.files~2", "b"], "layertap.files"),
        (["layertap.files.npy", "b"], "layertap.files~2"),
    ],
)
def test_a_layer_that_has_the_name_of_the_paths_is_kept(names: list[str], key: str) -> None:
    """The array with the paths gets another name, and the file can still be fed to a model."""
    model_with_layers(names)
    done = layertap("run", "m.onnx", "pictures", "--layers", "all", "-o", "out.npz")
    assert done.code == 0
    found = loaded("out.npz")
    assert list(found) == [*names, key]
    assert found[key].tolist() == NAMES
    for name in names:
        np.testing.assert_array_equal(found[name], open_model("m.onnx").activations(NAMES, name))
    assert sorted(load_ready("out.npz")) == sorted(names)


@pytest.mark.usefixtures("classifier")
def test_layers_are_selected_by_class_or_all() -> None:
    arguments = ["run", "m.onnx", NAMES[0], "-o", "out.npz"]
    for options, names in {
        ("--type", "ReLU", "--type", "Conv2D"): ["conv", "relu"],
        ("--layers", "all"): ["image", "conv", "relu", "drop", "pool", "probs"],
        ("--layers", "-3:"): ["pool", "probs"],
        ("--layers", "all", "--type", "Dropout"): ["drop"],
        (): ["probs"],  # the model's own output
    }.items():
        assert layertap(*arguments, *options).code == 0
        assert list(loaded("out.npz")) == [*names, "layertap.files"]


@pytest.mark.usefixtures("classifier")
def test_folder_gives_all_its_images_sorted() -> None:
    sub = Path("pictures/B_sub")
    sub.mkdir()
    shutil.copy("pictures/a.png", sub / "z.PNG")
    shutil.copy("pictures/a.png", "pictures/.hidden.png")
    Path("pictures/notes.txt").write_text("not an image")
    shutil.copy("pictures/c.png", "single.png")
    done = layertap("run", "m.onnx", "single.png", "pictures", "--layers", "pool", "-o", "out.npz")
    assert done.code == 0
    assert loaded("out.npz")["layertap.files"].tolist() == [
        "single.png", "pictures/B_sub/z.PNG", *NAMES,
    ]  # fmt: skip


# --- Ready batches ------------------------------------------------------------------------------


def batch(rows: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).random((rows, *shape)).astype(np.float32)


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize("rows", [1, 3])
def test_npy_is_a_ready_batch(rows: int) -> None:
    x = batch(rows, 8, 6, 3)
    np.save("x.npy", x)
    assert layertap("run", "m.onnx", "x.npy", "--layers", "conv", "-o", "out.npz") == Done(
        0, "", f"wrote out.npz: conv ({rows}, 8, 6, 4)\n"
    )
    found = loaded("out.npz")
    np.testing.assert_array_equal(found["conv"], open_model("m.onnx").activations(x, "conv"))
    names = ["x.npy"] if rows == 1 else ["x.npy[0]", "x.npy[1]", "x.npy[2]"]
    assert found["layertap.files"].tolist() == names
    printed = layertap("run", "m.onnx", "x.npy").out.splitlines()
    assert [line.split(":")[0] for line in printed] == names


def test_npz_is_a_ready_batch_by_input_name(tiny_file: TinyFile, pictures: Path) -> None:
    shutil.copy(tiny_file("two_inputs"), "m.onnx")
    feeds = tiny.feeds(tiny.two_inputs(), n=3)
    np.savez("x.npz", **feeds)  # type: ignore[arg-type]
    done = layertap("run", "m.onnx", "x.npz", "-o", "out.npz")
    assert done == Done(0, "", "wrote out.npz: sum (3, 5), product (3, 5)\n")
    found, expected = loaded("out.npz"), open_model("m.onnx").predict(feeds)
    for name in ("sum", "product"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.savez("image.npz", image=feeds["image"])
    assert layertap("run", "m.onnx", "image.npz", "--layers", "seen").code == 0
    # An image is sufficient for a layer that depends on no other input.
    assert layertap("run", "m.onnx", "pictures/a.png", "--layers", "seen").code == 0


@pytest.mark.usefixtures("classifier")
def test_nan_is_kept() -> None:
    x = batch(2, 8, 6, 3)
    x[1] = np.nan
    np.save("x.npy", x)
    done = layertap("run", "m.onnx", "x.npy", "--layers", "conv", "-o", "out.npz")
    assert (done.code, done.out) == (0, "")
    values = loaded("out.npz")["conv"]
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).any()
    done = layertap("run", "m.onnx", "x.npy", "--layers", "conv")
    assert re.fullmatch(r"conv +\(2, 8, 6, 4\) +float32 +nan +nan +nan", done.out.splitlines()[-1])


def test_strings_are_written_and_sequences_are_an_error(
    tiny_file: TinyFile, pictures: Path
) -> None:
    """ONNX files that layertap did not export may have outputs of any type."""
    shutil.copy(tiny_file("odd_types"), "m.onnx")
    np.savez("x.npz", index=np.array([0, 3]), words=np.array(["a", "b", "größe"]))
    assert layertap("run", "m.onnx", "x.npz", "--layers", "all") == Done(
        0,
        """\
name      shape      dtype           min      mean      max
--------  ---------  --------  ---------  --------  -------
picked    (2, 2)     float32   -0.142759  0.415928  1.20864
twice     (6,)       object
positive  (2, 2)     bool              0       0.5        1
pair      2 tensors  sequence
length    ()         int64             2         2        2
""",
        "",
    )
    done = layertap("run", "m.onnx", "x.npz", "--layers", "twice", "--layers", "length", "-o",
                    "out.npz")  # fmt: skip
    assert done == Done(0, "", "wrote out.npz: twice (6,), length ()\n")
    found = loaded("out.npz")
    assert found["twice"].tolist() == ["a", "b", "größe"] * 2
    assert found["length"] == 2
    done = layertap("run", "m.onnx", "x.npz", "--layers", "pair", "-o", "other.npz")
    assert done == Done(
        2, "", "layertap: 'pair' is a list of tensors, which an .npz file cannot contain.\n"
    )
    assert not Path("other.npz").exists()


@pytest.mark.usefixtures("classifier")
def test_empty_batch_has_no_range() -> None:
    np.save("x.npy", np.zeros((0, 8, 6, 3), np.float32))
    assert layertap("run", "m.onnx", "x.npy", "--layers", "conv") == Done(
        0,
        "name  shape         dtype    min  mean  max\n"
        "----  ------------  -------  ---  ----  ---\n"
        "conv  (0, 8, 6, 4)  float32\n",
        "",
    )
    assert layertap("run", "m.onnx", "x.npy").out.splitlines()[2] == "probs  (0, 2)  float32"


# --- Output to stdout ---------------------------------------------------------------------------


@pytest.mark.usefixtures("classifier")
def test_predictions_are_printed_by_label_best_first() -> None:
    done = layertap("run", "m.onnx", "pictures")
    scores = open_model("m.onnx").predict(NAMES)
    expected = ""
    for name, (cat, dog) in zip(NAMES, scores, strict=True):
        both = [f"cat {cat:.3f}", f"dog {dog:.3f}"]
        expected += f"{name}: {', '.join(both if cat >= dog else both[::-1])}\n"
    assert done == Done(0, expected, "")


@pytest.mark.usefixtures("classifier")
def test_top_limits_the_number_of_classes() -> None:
    (line,) = layertap("run", "m.onnx", NAMES[0], "--top", "1").out.splitlines()
    assert re.fullmatch(r"pictures/a.png: (cat|dog) 0\.\d{3}", line)
    assert layertap("run", "m.onnx", NAMES[0], "--top", "99").out.count(",") == 1


def without_labels(file: Path) -> None:
    """Write `m.onnx`, the model in `file` without its labels."""
    made = onnx.load(file)
    for prop in made.metadata_props:
        prop.value = prop.value.replace('"labels":["cat","dog"],', "")
    tiny.save(made, Path("m.onnx"))


def test_top_without_labels_prints_indices(classifier: Path) -> None:
    scores = open_model(classifier).predict(NAMES[:2])
    without_labels(classifier)
    done = layertap("run", "m.onnx", *NAMES[:2], "--top", "2")
    lines = []
    for name, row in zip(NAMES, scores, strict=False):
        first, second = np.argsort(-row)
        lines.append(f"{name}: {first} {row[first]:.3f}, {second} {row[second]:.3f}")
    assert done == Done(0, "\n".join(lines) + "\n", "")
    assert layertap("run", "m.onnx", NAMES[0]).out.startswith("name ")


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--layers", "probs"], "--layers"),
        (["--type", "Dense"], "--type"),
        (["-o", "out.npz"], "-o"),
        (["--sheet", "out"], "--sheet"),
    ],
)
def test_top_that_would_have_no_effect_is_an_error(options: list[str], given: str) -> None:
    done = layertap("run", "m.onnx", NAMES[0], "--top", "3", *options)
    assert done == Done(
        2,
        "",
        "layertap: --top prints the best classes of the model's predictions, which "
        f"{given} does not print. Leave out one of the two.\n",
    )
    assert not Path("out.npz").exists()
    assert not Path("out").exists()


@pytest.mark.usefixtures("pictures")
def test_top_of_a_model_that_gives_no_classes_is_an_error() -> None:
    model_with_layers(["a"])
    assert layertap("run", "m.onnx", NAMES[0], "--top", "3") == Done(
        2,
        "",
        "layertap: --top needs a model with one output of class scores, (samples, classes); this "
        "one gives a (1, 4, 4, 3).\n",
    )


def as_json(*arguments: str) -> dict[str, Any]:
    done = layertap("run", "m.onnx", *arguments, "--json")
    assert done.code in (0, 1)
    found: dict[str, Any] = json.loads(done.out)
    assert list(found) == ["images", "failed", "classes", "results", "written"]
    return found


@pytest.mark.usefixtures("classifier")
def test_json_of_predictions() -> None:
    scores = open_model("m.onnx").predict(NAMES[:2])
    found = as_json(*NAMES[:2], "--top", "1")
    assert (found["images"], found["failed"], found["written"]) == (NAMES[:2], [], [])
    assert found["classes"] == [
        [{"name": ("cat", "dog")[int(row.argmax())], "score": float(row.max())}] for row in scores
    ]
    (probs,) = found["results"]
    assert probs == {
        "name": "probs", "shape": [2, 2], "dtype": "float32", "min": float(scores.min()),
        "mean": float(scores.mean()), "max": float(scores.max()),
    }  # fmt: skip
    done = layertap("run", "m.onnx", NAMES[0], "--layers", "relu", "--top", "1", "--json")
    assert done.err.startswith("layertap: --top prints the best classes")


@pytest.mark.usefixtures("classifier")
def test_json_of_layers_names_the_files() -> None:
    Path("bad.png").write_text("no image")
    options = ["--layers", "relu", "pool", "-o", "out.npz", "--sheet", "sheets"]
    found = as_json(NAMES[0], "bad.png", *options)
    assert found["classes"] is None
    assert [row["name"] for row in found["results"]] == ["relu", "pool"]
    assert [row["shape"] for row in found["results"]] == [[1, 8, 6, 4], [1, 4]]
    assert found["written"] == ["out.npz", "sheets/pictures/a.relu.png"]
    assert all(Path(file).is_file() for file in found["written"])
    (failure,) = found["failed"]
    assert failure.startswith("bad.png: ")


def test_json_has_no_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = tiny.model(
        [tiny.node("Identity", "x", "y")],
        [tiny.value("x", ["batch", 2])],
        [tiny.value("y", ["batch", 2])],
    )
    tiny.save(made, Path("m.onnx"))
    np.save("x.npy", np.array([[np.nan, 1], [np.inf, 2]], np.float32))
    (row,) = as_json("x.npy", "--layers", "y")["results"]
    assert (row["min"], row["mean"], row["max"]) == (None, None, None)
    np.save("x.npy", np.array([[np.inf, 2]], np.float32))
    (row,) = as_json("x.npy", "--layers", "y")["results"]
    assert (row["min"], row["mean"], row["max"]) == (2.0, "inf", "inf")


# --- Channels first -----------------------------------------------------------------------------


def foreign(pictures: Path, *, card: bool = False) -> None:
    """Write `m.onnx`, a network with channels first, and the same one channels last as `l.onnx`."""
    made = tiny.differentiable(channels_first=True)
    if not card:
        del made.metadata_props[:]
    tiny.save(made, Path("m.onnx"))
    tiny.save(tiny.differentiable(), Path("l.onnx"))
    recipe = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
    Path("recipe.json").write_text(json.dumps(recipe), encoding="utf-8")


def test_images_are_turned_for_a_file_with_channels_first(pictures: Path) -> None:
    foreign(pictures)
    done = layertap(
        *("run", "m.onnx", "pictures", "--preprocess", "recipe.json"),
        *("--layers", "last", "--layers", "probs", "-o", "out.npz"),
    )
    assert done.code == 0
    found, model = loaded("out.npz"), open_model("l.onnx")
    np.testing.assert_allclose(found["probs"], model.predict(NAMES), atol=1e-6)
    expected = model.activations(NAMES, "last").transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found["last"], expected, atol=1e-5)


def test_sheets_of_channels_first(pictures: Path) -> None:
    foreign(pictures, card=True)
    for file, folder in (("m.onnx", "first"), ("l.onnx", "last")):
        done = layertap("run", file, NAMES[0], "--layers", "relu", "--sheet", folder)
        assert done.code == 0
    assert listing(Path("first")) == listing(Path("last"))
    for name in listing(Path("first")):
        with Image.open(Path("first", name)) as one, Image.open(Path("last", name)) as other:
            assert one.size == other.size
            # The maps are equal but for rounding, so a grey value may differ by one.
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.usefixtures("classifier")
def test_activations_are_printed_as_a_table() -> None:
    x = batch(2, 8, 6, 3)
    np.save("x.npy", x)
    conv = open_model("m.onnx").activations(x, ["conv", "probs"])["conv"]
    done = layertap("run", "m.onnx", "x.npy", "--layers", "conv", "--layers", "probs")
    head, rule, row, *_ = done.out.splitlines()
    assert head.split() == ["name", "shape", "dtype", "min", "mean", "max"]
    assert set(rule) == {"-", " "}
    numbers = [f"{f(conv):.6g}" for f in (np.min, np.mean, np.max)]
    assert row.split() == ["conv", "(2,", "8,", "6,", "4)", "float32", *numbers]
    assert len(done.out.splitlines()) == 4


def test_predictions_without_labels_are_printed_as_a_table(
    tiny_file: TinyFile, pictures: Path
) -> None:
    shutil.copy(tiny_file("linear_chain"), "m.onnx")
    np.save("x.npy", np.zeros((2, 4), np.float32))
    assert layertap("run", "m.onnx", "x.npy").out.splitlines()[2].split()[:4] == [
        "c", "(2,", "2)", "float32",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
def test_labels_are_used_if_they_match_the_output(pictures: Path, count: int) -> None:
    """Otherwise the table is printed."""
    made = tiny.model(
        [tiny.node("Flatten", "image", "y")],
        [tiny.value("image", ["n", 1, 1, 3])],
        [tiny.value("y", ["n", 3])],
        card=tiny.card(
            [tiny.layer(0, "y", "Flatten", (None, 3))],
            {"image": (None, 1, 1, 3)},
            {"y": (None, 3)},
            labels=("one",) * count,
            preprocessing={"size": [1, 1]},
        ),
    )
    tiny.save(made, Path("m.onnx"))
    done = layertap("run", "m.onnx", NAMES[0])
    assert done.out.startswith("name " if count == 1 else "pictures/a.png: one ")


# --- Preprocessing ------------------------------------------------------------------------------


@pytest.mark.usefixtures("pictures")
def test_images_without_a_recipe_are_an_error() -> None:
    tiny.save(tiny.image_classifier(preprocessing=False), Path("m.onnx"))
    assert layertap("run", "m.onnx", NAMES[0]) == Done(
        2,
        "",
        "layertap: 'm.onnx' does not say how an image becomes its input. Say it in a file for "
        '--preprocess, as in {"size": [8, 6]}, or give a ready batch (.npy).\n',
    )
    Path("r.json").write_text('{"size": [8, 6]}')
    assert layertap("run", "m.onnx", NAMES[0], "--preprocess", "r.json").code == 0
    np.save("x.npy", batch(1, 8, 6, 3))
    assert layertap("run", "m.onnx", "x.npy").code == 0


def test_images_for_a_model_without_image_input_are_an_error(
    tiny_file: TinyFile, pictures: Path
) -> None:
    shutil.copy(tiny_file("linear_chain"), "m.onnx")
    assert layertap("run", "m.onnx", NAMES[0]) == Done(
        2,
        "",
        "layertap: 'm.onnx' takes no images; its input is x (None, 4). Give a ready batch: .npy, "
        "or .npz with an array for each input.\n",
    )


@pytest.fixture
def free(pictures: Path) -> Path:
    """The classifier with free sizes, and pictures of different sizes."""
    for name, size in {"big_a": (12, 16), "big_b": (12, 16), "small": (5, 4)}.items():
        Image.new("RGB", size, (200, 100, 0)).save(pictures / f"{name}.png")
    return tiny.save(tiny.image_classifier(None, None), pictures.parent / "free.onnx")


@pytest.mark.usefixtures("free")
def test_images_of_different_sizes_run_in_separate_batches() -> None:
    """Successive images of one size form a batch; the rows stay in order."""
    names = [f"pictures/{name}.png" for name in ("big_a", "small", "big_b")]
    done = layertap("run", "free.onnx", *names, "--layers", "pool", "-o", "out.npz")
    assert done == Done(0, "", "wrote out.npz: pool (3, 4)\n")
    found = loaded("out.npz")
    assert found["layertap.files"].tolist() == names
    for row, name in zip(found["pool"], names, strict=True):
        np.testing.assert_allclose(
            row, open_model("free.onnx").activations(name, "pool")[0], rtol=1e-5
        )


@pytest.mark.usefixtures("free")
def test_activations_of_different_sizes_are_an_error() -> None:
    names = [f"pictures/{name}.png" for name in ("big_a", "big_b", "small")]
    message = (
        "layertap: the activations of 'conv' do not fit in one array: (2, 16, 12, 4) for some "
        'images, (1, 4, 5, 4) for others. Give a recipe with a "size" (--preprocess), or run the '
        "images one by one.\n"
    )
    done = layertap("run", "free.onnx", *names, "--layers", "conv", "-o", "out.npz")
    assert done == Done(2, "", message)
    assert not Path("out.npz").exists()
    Path("r.json").write_text('{"size": [8, 8]}')
    options = ["--layers", "conv", "--preprocess", "r.json"]
    assert layertap("run", "free.onnx", *names, *options).code == 0


# --- Pictures -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("classifier")
def test_sheet_draws_one_picture_per_image_and_layer() -> None:
    done = layertap(
        *("run", "m.onnx", NAMES[0], NAMES[1], "--layers", "conv", "--layers", "relu"),
        *("--layers", "pool", "--sheet", "new/sheets"),
    )
    files = ["a.conv.png", "b.conv.png", "a.relu.png", "b.relu.png"]  # `pool` has no maps
    written = "".join(f"wrote {Path('new/sheets', name)}\n" for name in files)
    assert done == Done(0, "", written)
    assert listing(Path("new/sheets")) == sorted(files)
    with Image.open("new/sheets/a.conv.png") as sheet:
        tiles = 5  # the image and four channels, 8 x 6
        assert sheet.size == (
            tiles * (120 + MARGIN) + MARGIN,
            18 + 160 + 2 * MARGIN + 18 + MARGIN,  # a line of text above the maps, and one below
        )


@pytest.mark.usefixtures("classifier")
def test_sheet_and_output_can_be_combined() -> None:
    done = layertap(
        *("run", "m.onnx", NAMES[0], "--layers", "conv", "--sheet", "s", "-o", "out.npz")
    )
    written = f"wrote out.npz: conv (1, 8, 6, 4)\nwrote {Path('s', 'a.conv.png')}\n"
    assert done == Done(0, "", written)
    assert Path("out.npz").exists()


@pytest.mark.usefixtures("pictures")
def test_sheets_have_different_names() -> None:
    """Images whose names differ in case only, and layers whose names differ in a slash."""
    names = ["b/conv", "b_conv", "b:conv"]
    model_with_layers(names)
    Path("other").mkdir()
    shutil.copy("pictures/b.png", "other/A.jpg")
    done = layertap(
        *("run", "m.onnx", NAMES[0], "other/A.jpg", "--layers", "*", "--sheet", "sheets")
    )
    assert done.code == 0
    assert listing(Path("sheets")) == [
        "other", "other/A.b_conv.png", "other/A.b_conv_2.png", "other/A.b_conv_3.png",
        "pictures", "pictures/a.b_conv.png", "pictures/a.b_conv_2.png", "pictures/a.b_conv_3.png",
    ]  # fmt: skip


@pytest.mark.usefixtures("classifier")
def test_sheets_of_a_ready_batch_have_no_image() -> None:
    np.save("x.npy", batch(2, 8, 6, 3))
    assert layertap("run", "m.onnx", "x.npy", "--layers", "conv", "--sheet", "s").code == 0
    assert listing(Path("s")) == ["x_0.conv.png", "x_1.conv.png"]
    with Image.open("s/x_0.conv.png") as sheet:
        assert sheet.size[0] == 4 * (120 + MARGIN) + MARGIN


@pytest.mark.usefixtures("classifier")
def test_sheet_of_an_image_of_unknown_range_is_drawn() -> None:
    values = np.linspace(-500, 500, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save("float.tif")
    done = layertap("run", "m.onnx", "float.tif", "--layers", "conv", "--sheet", "s")
    assert done.code == 0
    assert done.err.count("warning") == 1
    assert listing(Path("s")) == ["float.conv.png"]


@pytest.mark.usefixtures("classifier")
def test_sheet_without_feature_maps_is_an_error() -> None:
    done = layertap("run", "m.onnx", NAMES[0], "--layers", "p*", "--sheet", "s")
    assert done == Done(
        2,
        "",
        "layertap: --sheet draws feature maps, which have four axes: samples, height, width and "
        "channels. None of the results has them: pool, probs.\n",
    )
    assert not Path("s").exists()


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("classifier")
def test_unreadable_images_are_reported_and_skipped() -> None:
    Path("bad.png").write_text("not an image")
    done = layertap(
        *("run", "m.onnx", NAMES[0], "bad.png", "gone.png", NAMES[1]),
        *("--layers", "pool", "-o", "out.npz"),
    )
    assert done == Done(
        1,
        "",
        "layertap: bad.png: this is not an image in a format that Pillow reads.\n"
        "layertap: gone.png: there is no such file.\n"
        "wrote out.npz: pool (2, 4)\n",
    )
    assert loaded("out.npz")["layertap.files"].tolist() == NAMES[:2]


@pytest.mark.usefixtures("classifier")
def test_folder_without_images_is_reported_and_skipped() -> None:
    Path("empty").mkdir()
    done = layertap("run", "m.onnx", "empty", NAMES[0])
    assert done.code == 1
    assert done.err == (
        "layertap: empty: there is no image here. Images have a suffix like .png, .jpg or .tif.\n"
    )
    assert done.out.startswith("pictures/a.png: ")


@pytest.mark.usefixtures("classifier")
def test_no_readable_image_writes_no_file(tmp_path: Path) -> None:
    Path("bad.png").write_text("not an image")
    before = listing(tmp_path)
    done = layertap("run", "m.onnx", "bad.png", "gone.png", "-o", "out.npz", "--sheet", "sheets")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 2
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0."),
        (["--top", "-1"], "--top must be at least 1, got -1."),
        (["--threads", "0"], "threads must be an integer of at least 1, got 0."),
        (["--sheet", "m.onnx"], "--sheet must be a folder, but 'm.onnx' is a file."),
        (["--sheet", "m.onnx/sub", "--layers", "conv"], "cannot create the folder 'm.onnx/sub': "
         "Not a directory."),
        (["x.npy"], "give images, or one ready batch (.npy or .npz), not several batches."),
        (["--preprocess", "gone.json"], "gone.json: there is no such file."),
        (["--preprocess", "m.onnx"], None),
    ],
)  # fmt: skip
def test_invalid_argument_is_an_error(
    tmp_path: Path, arguments: list[str], message: str | None
) -> None:
    np.save("x.npy", batch(1, 8, 6, 3))
    before = listing(tmp_path)
    done = layertap("run", "m.onnx", NAMES[0], *arguments)
    assert (done.code, done.out) == (2, "")
    if message is not None:
        assert done.err == f"layertap: {message}\n"
    assert done.err.startswith("layertap: ")
    assert len(done.err.splitlines()) == 1
    assert listing(tmp_path) == before


@pytest.mark.usefixtures("classifier")
def test_output_is_checked_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_run_images", lambda *_: pytest.fail("the work was done"))
    assert layertap("run", "m.onnx", "pictures", "-o", "no/out.npz").code == 2


@pytest.mark.usefixtures("classifier")
def test_image_of_the_wrong_size_is_named() -> None:
    Path("r.json").write_text(json.dumps({}))
    done = layertap("run", "m.onnx", *NAMES, "--preprocess", "r.json")
    assert done == Done(
        2,
        "",
        "layertap: pictures/a.png and 4 more: input 'image' has shape (5, 16, 12, 3), expected "
        "(n, 8, 6, 3): axis 1 must be 8, got 16.\n",
    )


@pytest.mark.usefixtures("classifier")
def test_a_recipe_of_another_size_says_how_to_get_the_right_one() -> None:
    done = layertap("run", "m.onnx", *NAMES, "--preprocess", "vgg16")
    assert done == Done(
        2,
        "",
        "layertap: input 'image' has shape (1, 224, 224, 3), expected (n, 8, 6, 3): axis 1 must be "
        '8, got 224. Set the "size" of the recipe to [8, 6]; of a recipe by name as in '
        "resnet50:8x6.\n",
    )


@pytest.mark.usefixtures("classifier")
def test_images_prepared_by_another_recipe_cause_no_warning() -> None:
    done = layertap("run", "m.onnx", NAMES[0], "--preprocess", "vgg16:8x6")
    assert (done.code, done.err) == (0, "")


@pytest.mark.usefixtures("pictures")
def test_file_without_outputs_is_an_error() -> None:
    made = tiny.model([], [tiny.value("x", ["n", 1])], [tiny.value("x", ["n", 1])])
    del made.graph.output[:]
    tiny.save(made, Path("m.onnx"))
    np.save("x.npy", np.zeros((1, 1), np.float32))
    assert layertap("run", "m.onnx", "x.npy") == Done(
        2, "", "layertap: 'm.onnx' has no outputs. Select layers with --layers.\n"
    )
    assert layertap("run", "m.onnx", "x.npy", "--layers", "all") == Done(
        2, "", "layertap: 'm.onnx' does not expose any layers.\n"
    )


def test_progress_is_shown(
    classifier: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(image_input, "on_stream", lambda _: Line(shown))
    (pictures / "broken.png").write_bytes(b"nothing")
    assert layertap("run", classifier, "pictures", "-o", "out.npz").code == 1
    drawn = shown.getvalue().split(CLEAR)
    assert drawn[1].startswith("0/6 images")
    assert drawn[-2].startswith("6/6 images")
    assert drawn[-2].endswith("1 failed")
    assert drawn[-1] == ""  # cleared at the end
