"""`layertap.ray.Extract`: batches in every form, without Ray. test_ray_cluster.py runs it there."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import layertap
import layertap.ray
from generators import tiny
from layertap.errors import (
    ImageError,
    InputError,
    LayerNotFoundError,
    LayertapWarning,
    UsageError,
)
from layertap.extract import workers
from layertap.ray import Extract
from pages import fenced, page

READERS = Path(__file__).parent / "extract"
ASKED = {"relu": [None, "top2"], "pool": None}
NO_IMAGE = "this is not an image in a format that Pillow reads."
MISSING = "there is no image: the value is missing."


def pixels(seed: int, height: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, 9, 3), np.uint8)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def file(tiny_file: Callable[[str], Path]) -> Path:
    """Images (n, 8, 6, 3); layers image, conv, relu, drop, pool, probs."""
    return tiny_file("image_classifier")


def streamed(file: Path, images: Sequence[Any], asked: Any = "pool") -> dict[str, np.ndarray]:
    """What `Model.stream` gives for images that can be read."""
    (batch,) = layertap.open(file).stream(list(images), asked, batch_size=len(images), workers=1)
    assert batch.ok.all()
    return dict(batch.arrays)


# --- Forms of batches -----------------------------------------------------------------------------


def objects(values: Sequence[Any]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def as_dict(columns: Mapping[str, Sequence[Any]]) -> Any:
    return {name: objects(values) for name, values in columns.items()}


def as_frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    rows = len(next(iter(columns.values())))
    return pandas.DataFrame(columns, index=range(100, 100 + rows))


FORMS: dict[str, Callable[[Any], Any]] = {
    "dict": as_dict,
    "pandas": as_frame,
    "Arrow": pyarrow.table,
}


def read(made: Any, name: str) -> Any:
    """A column of a result as an array or a list of texts."""
    if isinstance(made, pyarrow.Table):
        column = made.column(name).combine_chunks()
        if isinstance(column.type, pyarrow.FixedShapeTensorType):
            return column.to_numpy_ndarray()
        return np.array(
            column.to_pylist(), object if pyarrow.types.is_string(column.type) else None
        )
    return np.stack([np.asarray(one) for one in made[name]]) if len(made[name]) else made[name]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_keeps_its_form_its_rows_and_its_other_columns(form: str, file: Path) -> None:
    images = [png(0), b"x", None, png(3), png(4)]
    batch = FORMS[form]({"id": ["a", "b", "c", "d", "e"], "bytes": images, "n": [5, 4, 3, 2, 1]})
    made = Extract(file, ASKED)(batch)
    assert type(made) is type(batch)
    names = ["id", "n", "relu", "relu=top2.channels", "relu=top2.values", "pool", "error"]
    assert list(made.column_names if form == "Arrow" else made) == names
    assert list(read(made, "id")) == ["a", "b", "c", "d", "e"]
    assert list(read(made, "n")) == [5, 4, 3, 2, 1]
    assert list(read(made, "error")) == ["", NO_IMAGE, MISSING, "", ""]
    if form == "pandas":
        assert list(made.index) == list(range(100, 105))
    good, bad = [0, 3, 4], [1, 2]
    expected = streamed(file, [images[row] for row in good], ASKED)
    assert expected["relu"].shape == (3, 8, 6, 4)
    for name, rows in expected.items():
        found = read(made, name)
        np.testing.assert_allclose(found[good], rows, rtol=1e-6)
        assert (found[bad] == 0).all() if rows.dtype.kind == "i" else np.isnan(found[bad]).all()
    assert list(batch.column_names if form == "Arrow" else batch) == ["id", "bytes", "n"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes_and_shapes(form: str, dtype: str, file: Path) -> None:
    made = Extract(file, ASKED, dtype=dtype)(FORMS[form]({"bytes": [png(0)]}))
    if form == "Arrow":
        kind = {"float16": "halffloat", "float64": "double"}[dtype]
        assert str(made.schema.field("pool").type) == f"fixed_size_list<item: {kind}>[4]"
        assert made.schema.field("relu").type == pyarrow.fixed_shape_tensor(
            pyarrow.from_numpy_dtype(dtype), (8, 6, 4)
        )
        assert made.schema.field("error").type == pyarrow.string()
    else:
        assert np.asarray(made["pool"][0] if form == "dict" else made["pool"][100]).dtype == dtype
    if form == "dict":
        assert made["relu"].shape == (1, 8, 6, 4)
        assert made["relu=top2.channels"].dtype == np.int64


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_rows_has_the_same_columns(form: str, file: Path) -> None:
    extract = Extract(file, ASKED)
    batch = FORMS[form]({"id": ["a"], "bytes": [png(0)]})
    empty = {name: batch[name][:0] for name in batch} if form == "dict" else batch[:0]
    some, none = extract(batch), extract(empty)
    assert len(read(none, "pool")) == len(read(none, "error")) == 0
    if form == "Arrow":
        assert none.schema == some.schema
    elif form == "pandas":
        assert (none.dtypes == some.dtypes).all()
    else:
        assert none["relu"].shape == (0, 8, 6, 4)
        assert pyarrow.array(none["error"]).type == pyarrow.array(some["error"]).type


# --- Kinds of images ------------------------------------------------------------------------------

SEEDS = (0, 1, 2)
ARRAYS = np.stack([pixels(seed) for seed in SEEDS])
READY = tiny.images(3)


def tensors(values: np.ndarray) -> Any:
    return pyarrow.FixedShapeTensorArray.from_numpy_ndarray(values)


KINDS: dict[str, Any] = {
    "pictures": [Image.fromarray(pixels(seed)) for seed in SEEDS],
    "one array": ARRAYS,
    "arrays": objects([pixels(seed, 9 + seed) for seed in SEEDS]),
    "ready": READY,
    "ready arrays": objects(list(READY)),
    "nested lists": [rows.tolist() for rows in ARRAYS],
    "arrays of arrays": objects([objects(list(rows)) for rows in ARRAYS]),
    "dicts": [{"bytes": png(seed), "path": None} for seed in SEEDS],
    "Arrow lists": pyarrow.table({"bytes": [rows.tolist() for rows in ARRAYS]}),
    "Arrow tensors": pyarrow.table({"bytes": tensors(ARRAYS)}),
    "Arrow ready": pyarrow.table({"bytes": tensors(READY)}),
    "Arrow structs": pyarrow.table({"bytes": [{"bytes": png(seed), "path": ""} for seed in SEEDS]}),
    "Arrow large": pyarrow.table(
        {"bytes": pyarrow.array([png(seed) for seed in SEEDS], pyarrow.large_binary())}
    ),
    "pandas lists": pandas.DataFrame({"bytes": [rows.tolist() for rows in ARRAYS]}),
}


@pytest.mark.parametrize("name", KINDS)
def test_images_of_all_kinds(name: str, file: Path) -> None:
    given = KINDS[name]
    batch = given if isinstance(given, (pyarrow.Table, pandas.DataFrame)) else {"bytes": given}
    made = Extract(file, "pool", threads=2)(batch)
    assert list(read(made, "error")) == ["", "", ""]
    if "ready" in name:
        expected = layertap.open(file).activations(READY, "pool")
    else:
        heights = [9 + seed if name == "arrays" else 9 for seed in SEEDS]
        images = [pixels(seed, height) for seed, height in zip(SEEDS, heights, strict=True)]
        expected = streamed(file, images)["pool"]
    np.testing.assert_allclose(read(made, "pool"), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [str, Path, np.str_])
def test_paths(kind: Any, file: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "0.png", tmp_path, tmp_path / "gone.png", Path("s3://bucket/0.png")]
    paths[0].write_bytes(png(0))
    values: list[Any] = [kind(path) for path in paths]
    if kind is not Path:
        values[3] = kind("s3://bucket/0.png")
    given = np.array(values) if kind is np.str_ else values
    made = Extract(file, "pool", source="path")({"path": given})
    reasons = list(made["error"])
    assert reasons[:3] == ["", "this is a folder, not an image.", "there is no such file."]
    assert ("ray.data.read_binary_files" in reasons[3]) == (kind is not Path)
    np.testing.assert_array_equal(made["pool"][:1], streamed(file, [png(0)])["pool"])
    assert np.isnan(made["pool"][1:]).all()


def test_vectors_of_a_model_without_images(tiny_file: Callable[[str], Path]) -> None:
    file = tiny_file("linear_chain")
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    batches: list[Any] = [
        {"x": x},
        pandas.DataFrame({"x": [*x]}),
        pyarrow.table({"x": pyarrow.FixedSizeListArray.from_arrays(x.reshape(-1), 4)}),
        pyarrow.table({"x": x.astype(np.float64).tolist()}),
    ]
    for batch in batches:
        made = Extract(file, {"b": None}, source="x")(batch)
        expected = layertap.open(file).activations(x, "b")
        np.testing.assert_allclose(read(made, "b"), expected, rtol=1e-6)


# --- Rows that fail -------------------------------------------------------------------------------

CELLS: dict[str, Any] = {
    "good": png(0),
    "other": png(1),
    "cut off": png(1)[:60],
    "empty": b"",
    "text": b"no image",
    "none": None,
    "nan": float("nan"),
    "single nan": np.float32("nan"),
    "na": pandas.NA,
    "array": pixels(2),
    "floats": READY[0],
    "floats of another size": READY[0][:5],
    "a vector of floats": READY[0, 0, 0],
    "texts": np.array(["a", "b"]),
    "ragged": [[1, 2], [3]],
    "a list with nothing": [None, 1],
    "an empty list": [],
    "nothing in a dict": {"bytes": None, "path": None},
    "a number": 5,
    "a set": {1, 2},
    "a path": "gone.png",
}
GOOD = {"good", "other", "array", "floats"}


@pytest.fixture(scope="module")
def extract(tiny_file: Callable[[str], Path]) -> Extract:
    return Extract(tiny_file("image_classifier"), {"pool": None}, threads=2)


def test_every_cell_fails_or_not_by_itself(extract: Extract) -> None:
    for name, value in CELLS.items():
        made = extract({"bytes": objects([value])})
        assert bool(made["error"][0]) == (name not in GOOD), name
        assert np.isnan(made["pool"]).all() == (name not in GOOD), name
        assert (made["error"][0] == MISSING) == (name in ("none", "nan", "single nan", "na")), name


@given(
    names=st.lists(st.sampled_from(sorted(CELLS)), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_rows_do_not_depend_on_the_others_nor_on_where_batches_are_cut(
    extract: Extract, names: list[str], cuts: list[int]
) -> None:
    whole = extract({"bytes": objects([CELLS[name] for name in names])})
    edges = sorted({0, *(min(cut, len(names)) for cut in cuts), len(names)})
    for first, end in pairwise(edges):
        part = extract({"bytes": objects([CELLS[name] for name in names[first:end]])})
        assert list(part["error"]) == list(whole["error"][first:end])
        np.testing.assert_allclose(part["pool"], whole["pool"][first:end], rtol=1e-6)
    alone = {name: extract({"bytes": objects([CELLS[name]])}) for name in set(names)}
    for row, name in enumerate(names):
        assert whole["error"][row] == alone[name]["error"][0]
        np.testing.assert_allclose(whole["pool"][row], alone[name]["pool"][0], rtol=1e-6)


def test_errors_can_be_raised_instead(file: Path) -> None:
    extract = Extract(file, "pool", errors="raise")
    made = extract({"bytes": [png(0)], "id": ["a"]})
    assert list(made) == ["id", "pool"]
    wrong: list[tuple[Any, str]] = [
        ({"bytes": [png(0), b"x"], "id": ["a", "b"]}, f"^b: {NO_IMAGE}$"),
        ({"bytes": [png(0), b"x", b"y"]}, f"^row 1 of the batch: {NO_IMAGE} 1 more in this batch"),
        ({"bytes": ["gone.png"], "path": ["a"]}, r"^gone\.png: there is no such file\.$"),
        ({"bytes": [None], "path": ["a"]}, f"^a: {MISSING}$"),
        ({"bytes": READY[:, :5], "key": [7, 8, 9]}, "^7: .*2 more in this batch failed"),
    ]
    for batch, message in wrong:
        with pytest.raises(ImageError, match=message):
            extract(batch)


def test_values_that_are_not_finite_are_warned_of_once(tiny_file: Callable[[str], Path]) -> None:
    extract = Extract(tiny_file("linear_chain"), {"b": None}, source="x", dtype="float16")
    x = np.full((5, 4), 1e7, np.float32)
    x[0] = 0
    infinite = np.isinf(
        layertap.open(tiny_file("linear_chain")).activations(x, "b", dtype="float16")
    )
    assert 0 < infinite.sum() < infinite.size
    with pytest.warns(LayertapWarning, match=rf"^'b': {infinite.sum()} values of a batch not fin"):
        made = extract({"x": objects([*x, None])})
    np.testing.assert_array_equal(np.isinf(made["b"][:5]), infinite)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract({"x": x})


def test_texts_of_errors_are_safe_for_arrow(file: Path) -> None:
    """A reason may repeat what a file says, with bytes that are not UTF-8."""
    values = objects(["\udc80\x00\x1b.png", {"a": "\udc80"}])
    (made,) = [Extract(file, "pool")({"bytes": values})]
    assert all(text and text.isprintable() for text in made["error"])
    assert pyarrow.array(made["error"]).type == pyarrow.string()


# --- What Ray says --------------------------------------------------------------------------------


class Reference:
    """`ray.ObjectRef`."""

    def __init__(self, value: Any) -> None:
        self.value = value


def fake_ray(assigned: Any) -> Any:
    """The module, in a worker to which it has assigned something; elsewhere it raises."""

    def resources() -> Any:
        if isinstance(assigned, Exception):
            raise assigned
        return assigned

    context = SimpleNamespace(get_assigned_resources=resources)
    return SimpleNamespace(
        get_runtime_context=lambda: context, ObjectRef=Reference, get=lambda given: given.value
    )


class Spy:
    """Replaces the functions of the module that opens files and runs chunks, and notes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: list[str] = []
        self.workers: list[int] = []
        self.opened, self.run = layertap.open, workers.run_chunks
        monkeypatch.setattr(layertap.ray, "open_model", self.open)
        monkeypatch.setattr(layertap.ray, "run_chunks", self.run_chunks)

    def open(self, file: Any, *, device: str, threads: int) -> Any:
        self.devices.append(device)
        return self.opened(file, threads=threads)

    def run_chunks(self, *given: Any, **others: Any) -> Any:
        self.workers.append(others["workers"])
        return self.run(*given, **others)


CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@pytest.mark.parametrize(
    ("assigned", "options", "threads", "device"),
    [
        ({}, {}, 1, "cpu"),
        ({"CPU": 0.5}, {}, 1, "cpu"),
        ({"CPU": 3.7}, {}, 3, "cpu"),
        ({"CPU": 4.0, "GPU": 0.5}, {}, 4, "cuda"),
        ({"CPU": 4.0, "GPU": 1.0}, {"device": "cpu", "threads": 2}, 2, "cpu"),
        ({"GPU": 0.0}, {"device": "openvino"}, 1, "openvino"),
        (AssertionError("only available for a worker"), {}, CORES, "cpu"),
        (RuntimeError("not connected"), {}, CORES, "cpu"),
        (None, {}, CORES, "cpu"),
    ],
)
def test_threads_and_device_are_those_that_ray_assigned(
    assigned: Any,
    options: Any,
    threads: int,
    device: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = None if assigned is None else fake_ray(assigned)
    monkeypatch.setitem(sys.modules, "ray", module)
    spy = Spy(monkeypatch)
    Extract(file, "pool", **options)({"bytes": [png(0)]})
    assert (spy.devices, spy.workers) == ([device], [threads])


def test_on_another_device_the_threads_share_the_images_of_a_batch(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is pretended; the model is opened for as many threads, and run on parts."""
    opened: list[int] = []
    runs: list[int] = []

    def open_model(given: Any, *, device: str, threads: int) -> Any:
        model = layertap.open(given, threads=threads)
        model._program.engine.device = "cuda:0"
        opened.append(threads)
        return model

    def run_chunks(*given: Any, **options: Any) -> Any:
        runs.extend(chunk.count for chunk in given[4])
        assert options["batch"] == max(runs)
        return workers.run_chunks(*given, **options)

    monkeypatch.setattr(layertap.ray, "open_model", open_model)
    monkeypatch.setattr(layertap.ray, "run_chunks", run_chunks)
    images = [png(seed) for seed in range(50)]
    made = Extract(file, "pool", device="cuda", threads=4)({"bytes": images})
    assert opened == [1, 4]
    assert runs == [13, 13, 13, 11]
    np.testing.assert_allclose(made["pool"], streamed(file, images)["pool"], rtol=1e-6)


def test_the_file_may_be_a_reference_or_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", fake_ray({}))
    expected = streamed(file, [png(0)])["pool"]
    data = file.read_bytes()
    for given_file in (str(file), data, bytearray(data), Reference(data), Reference(str(file))):
        made = Extract(given_file, "pool")({"bytes": [png(0)]})
        np.testing.assert_array_equal(made["pool"], expected)


def test_a_pickle_is_small_and_opens_the_file_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    extract = Extract(file.name, {"pool": None}, dtype="float64", threads=3, errors="raise")
    extract({"bytes": [png(0)]})
    data = pickle.dumps(extract)
    assert len(data) < 600
    monkeypatch.chdir("/")
    made = pickle.loads(data)({"bytes": [png(0)]})
    assert list(made) == ["pool"]
    np.testing.assert_array_equal(made["pool"], extract({"bytes": [png(0)]})["pool"])


def test_the_file_is_opened_once_also_by_several_threads(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    extract = Extract(file, "pool", threads=2)
    assert not spy.devices
    start = threading.Barrier(4)

    def run(seed: int) -> Any:
        start.wait()
        return [extract({"bytes": [png(seed), png(seed)]})["pool"] for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    assert spy.devices == ["cpu"]
    for seed, rows in enumerate(found):
        expected = streamed(file, [png(seed)])["pool"]
        np.testing.assert_allclose(np.concatenate(rows), np.repeat(expected, 6, 0), rtol=1e-6)


def test_a_reader_keeps_its_processes_from_batch_to_batch(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(READERS)
    texts = ["7", "die", "raise", "8"]
    for text in texts:
        (tmp_path / text).write_text(text)
    paths = Extract(file, "pool", source="path", reader="reader_functions:from_text", threads=2)
    contents = Extract(file, "pool", reader="reader_functions:from_text", threads=1)
    grey: Any = [np.full((4, 6, 3), value, np.uint8) for value in (7, 8)]
    expected = layertap.open(file).activations(grey, "pool")
    for _ in range(2):
        made = paths({"path": [str(tmp_path / text) for text in texts]})
        ended, raised = made["error"][1:3]
        assert "ended while it read this" in ended
        assert "raised KeyError" in raised
        np.testing.assert_array_equal(made["pool"][[0, 3]], expected)
    made = contents({"bytes": [b"7", b"raise", b"8"]})
    np.testing.assert_array_equal(made["pool"][[0, 2]], expected)
    assert len(multiprocessing.active_children()) <= 3


def test_importing_it_does_not_import_ray() -> None:
    code = "import layertap.ray, sys; print({'ray', 'pandas', 'pyarrow'} & set(sys.modules))"
    runtime = str(Path(layertap.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": runtime},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


# --- The pages ------------------------------------------------------------------------------------


def code_of(name: str) -> str:
    """The first block of Python of a page, for another model."""
    text = fenced(page(name), "python")[0]
    return text.replace('"bn"', '"pool"').replace("1024", "4")


def test_the_function_for_spark(file: Path, tmp_path: Path) -> None:
    """Its frames become the types that the page states, as Spark makes them."""
    code = code_of("spark.md").replace("/models/chest.onnx", str(file)).replace('"mean"', "None")
    scope: dict[str, Any] = {}
    exec(code, scope)
    images = [png(0), None, b"x", png(3)]
    frames = [
        pandas.DataFrame({"path": paths, "content": images, "length": [len(paths)] * 4})
        for paths in (["a", "b", "c", "d"], ["e", "f", "g", "h"])
    ]
    text = re.search(r'schema = "(.*)"', page("spark.md"))
    assert text
    kinds = {
        "string": pyarrow.string(),
        "float": pyarrow.float32(),
        "array<float>": pyarrow.list_(pyarrow.float32()),
    }
    fields = [field.split() for field in text[1].replace("bn ", "pool ").split(", ")]
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in fields])
    made = [
        pyarrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
        for frame in scope["features"](iter(frames))
    ]
    assert [table.column("path").to_pylist() for table in made] == [[*"abcd"], [*"efgh"]]
    expected = streamed(file, [png(0), png(3)])["pool"]
    for table in made:
        assert table.column("error").to_pylist() == ["", MISSING, NO_IMAGE, ""]
        rows = np.array(table.column("pool").to_pylist(), np.float32)
        np.testing.assert_array_equal(rows[[0, 3]], expected)
        assert np.isnan(rows[[1, 2]]).all()


def test_the_class_for_daft(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its results have the type that the page states. The types of Daft are those of Arrow."""
    types = SimpleNamespace(
        float32=pyarrow.float32,
        string=pyarrow.string,
        struct=lambda fields: pyarrow.struct([*fields.items()]),
        fixed_size_list=pyarrow.list_,
    )
    stated: dict[str, Any] = {}

    def batch(**options: Any) -> Any:
        stated.update(options)
        return lambda function: function

    daft = SimpleNamespace(
        DataType=types,
        cls=lambda **options: lambda kind: kind,
        method=SimpleNamespace(batch=batch),
    )
    monkeypatch.setitem(sys.modules, "daft", daft)
    scope: dict[str, Any] = {}
    exec(code_of("daft.md"), scope)

    def series(values: list[Any]) -> Any:
        return SimpleNamespace(to_arrow=lambda: pyarrow.array(values, pyarrow.large_binary()))

    features = scope["Features"](str(file), {"pool": None})
    found = features.compute(series([png(0), b"x", None]))
    assert features.compute(series([])).type == found.type
    assert isinstance(found, pyarrow.StructArray)
    assert found.type == stated["return_dtype"]
    assert [row["error"] for row in found.to_pylist()] == ["", NO_IMAGE, MISSING]
    expected = streamed(file, [png(0)])["pool"]
    np.testing.assert_array_equal(found.to_pylist()[0]["pool"], expected[0])
    assert found.field("pool").null_count == 0


# --- What is refused ------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_at_once(file: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        (lambda: Extract(5, "pool"), "its bytes, or a ray.ObjectRef of these, got an int"),
        (lambda: Extract(layertap.open(file), "pool"), "got a Model"),
        (lambda: Extract(file, "pool", source=3), "name of a column, got an int"),  # type: ignore[arg-type]
        (lambda: Extract(file, "pool", threads=0), "threads must be at least 1, got 0"),
        (lambda: Extract(file, "pool", errors="colum"), "Did you mean 'column'"),
    ]
    for make, message in wrong:
        with pytest.raises(UsageError, match=message):
            make()


def test_wrong_batches_are_refused(file: Path, tiny_file: Callable[[str], Path]) -> None:
    extract = Extract(file, ["pool", "relu=mean"])
    twice = pandas.DataFrame([[png(0), png(1)]], columns=["bytes", "bytes"])
    images = [png(0)]
    wrong: list[tuple[Extract, Any, type[Exception], str]] = [
        (extract, {"byte": images}, UsageError, "no column 'bytes'.*'byte'.*Did you mean 'byte'"),
        (extract, {}, UsageError, "no column 'bytes'; its columns are none"),
        (extract, twice, UsageError, "2 columns 'bytes'"),
        (extract, [png(0)], InputError, "a dict of arrays.*got a list"),
        (extract, {"bytes": images, "pool": [1]}, UsageError, "has a column 'pool', and so has"),
        (extract, {"bytes": images, "error": [1]}, UsageError, "has a column 'error', and so has"),
        (extract, {"n": [1, 2], "bytes": images}, InputError, "has 1 values, and the batch 2 rows"),
        (extract, {"bytes": np.array(images)}, InputError, "zeros at the end"),
        (extract, {"bytes": 5, "n": [1]}, InputError, "'bytes' cannot be read"),
        (Extract(file, "pol"), {"bytes": images}, LayerNotFoundError, "'pool'"),
        (
            Extract(tiny_file("linear_chain"), "b"),
            {"bytes": images},
            UsageError,
            "takes no images",
        ),
        (
            Extract(tiny_file("channels_first"), "relu_nchw"),
            {"bytes": images},
            UsageError,
            "does not say how an image becomes its input",
        ),
    ]
    for one, batch, kind, message in wrong:
        with pytest.raises(kind, match=message):
            one(batch)
    assert list(Extract(file, "pool", errors="raise")({"bytes": images, "error": [1]})) == [
        "error",
        "pool",
    ]


ODD = [
    None, 5, -1, 1.5, float("nan"), True, "x", "", b"x", [], {}, ("a", "b"), {"a": 1}, [1, 2],
    object(), np.zeros(3), len,
]  # fmt: skip
FITS: dict[str, list[Any]] = {
    "layers": [None, -1, [1, 2]],
    "dtype": [None],
    "device": [None],
    "threads": [None, 5],
    "preprocess": [None, {}],
    "reader": [None, len],
}
"""The values that are right."""


@pytest.mark.parametrize(
    "name",
    ["file", "layers", "source", "dtype", "device", "threads", "preprocess", "reader", "errors"],
)
def test_odd_arguments_are_refused_in_words(name: str, file: Path) -> None:
    for value in ODD:
        options: dict[str, Any] = {"file": file, "layers": "pool", name: value}
        if any(value is one or repr(value) == repr(one) for one in FITS.get(name, [])):
            Extract(**options)({"bytes": [png(0)]})
            continue
        with pytest.raises(layertap.LayertapError):
            Extract(**options)({"bytes": [png(0)]})


def test_odd_batches_are_refused_in_words(extract: Extract) -> None:
    columns: list[Any] = [*ODD, iter([1]), np.array(5), np.array([png(0)])]
    batches = [*ODD, *({"bytes": one} for one in columns if not isinstance(one, (list, tuple)))]
    batches += [{1: 2}, {"n": 5, "bytes": [png(0)]}, {"n": iter([1]), "bytes": [png(0)]}]
    for batch in batches:
        if isinstance(batch, dict) and isinstance(batch.get("bytes"), np.ndarray):
            continue  # numbers: rows with an error
        with pytest.raises(layertap.LayertapError):
            extract(batch)


def test_odd_values_are_rows_with_an_error(extract: Extract) -> None:
    values = [
        *ODD,
        np.datetime64("NaT"),
        1j,
        10**30,
        "\x00",
        "a" * 10_000,
        range(3),
        type,
        [[[[]]]],
    ]
    values += [{"bytes": {"bytes": {}}}, np.array(["a"], object), np.zeros(3, "M8[s]"), "\udc80"]
    made = extract({"bytes": objects([png(0), *values, png(0)])})
    assert made["error"][0] == made["error"][-1] == ""
    assert all(made["error"][1:-1])
    np.testing.assert_array_equal(made["pool"][0], made["pool"][-1])
    assert np.isnan(made["pool"][1:-1]).all()


def test_a_layer_named_error() -> None:
    made = tiny.model(
        [tiny.node("MatMul", "x w", "error")],
        [tiny.value("x", ["batch", 4])],
        [tiny.value("error", ["batch", 3])],
        [tiny.weights("w", 4, 3)],
    ).SerializeToString()
    batch = {"x": np.ones((2, 4), np.float32)}
    with pytest.raises(UsageError, match="a layer and the column of reasons are both named"):
        Extract(made, "error", source="x")(batch)
    assert Extract(made, "error", source="x", errors="raise")(batch)["error"].shape == (2, 3)
    two = Extract(made, {"error": ["mean", "max"]}, source="x")(batch)
    assert set(two) == {"error=mean", "error=max", "error"}


def test_the_column_of_the_images_may_have_the_name_of_a_result(file: Path) -> None:
    made = Extract(file, "pool", source="pool")({"pool": [png(0)]})
    assert made["pool"].shape == (1, 4)
