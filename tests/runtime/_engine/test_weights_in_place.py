"""Weights of large files stay where they are: nothing is copied that onnxruntime can map."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import layertap
from generators import tiny
from layertap._engine import engine, session
from layertap._engine.program import program_of
from layertap.format import graph as graph_module

X = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
LAYERS = ["a", "b", "c", "d", "y"]


def wide() -> onnx.ModelProto:
    """x (n, 64) -> a .. d -> y. Of its weights `raw` and `last` are worth referring to: `bias` is
    small, `typed` is written number by number, `shape` is a shape."""
    typed = tiny.weights("typed", 64, 64)
    numbers = numpy_helper.to_array(typed)
    return tiny.model(
        [
            tiny.node("MatMul", "x raw", "a"),
            tiny.node("Add", "a bias", "b"),
            tiny.node("MatMul", "b typed", "c"),
            tiny.node("Gather", "c places", "d", axis=1),
            tiny.node("MatMul", "d last", "y"),
        ],
        [tiny.value("x", ["n", 64])],
        [tiny.value("y", ["n", 80])],
        [
            tiny.weights("raw", 64, 64),
            tiny.weights("bias", 64),
            helper.make_tensor("typed", tiny.FLOAT, [64, 64], numbers.flatten().tolist()),
            tiny.constant("places", np.arange(200) % 64),
            tiny.weights("last", 200, 80),
        ],
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(wide(), tmp_path / "m.onnx")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """Every model that is given to onnxruntime; files of any size are large."""
    monkeypatch.setattr(engine, "MAPPED_BYTES", 1)
    found = []
    plain = engine.Engine.start

    def start(self: engine.Engine, model: bytes, *args: Any, **options: Any) -> session.Session:
        found.append(onnx.ModelProto.FromString(model))
        return plain(self, model, *args, **options)

    monkeypatch.setattr(engine.Engine, "start", start)
    return found


def referred(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    """Where the weights are that are not in the model itself."""
    return {
        item.name: {entry.key: entry.value for entry in item.external_data}
        for item in model.graph.initializer
        if item.data_location == onnx.TensorProto.EXTERNAL
    }


def check(path: Path | str, **options: Any) -> dict[str, Any]:
    """Open and fetch, and compare with the plain cut bit for bit."""
    plain = layertap.open(path, copy_weights=True).activations(X, LAYERS)
    found = layertap.open(path, **options).activations(X, LAYERS)
    for name in LAYERS:
        np.testing.assert_array_equal(found[name], plain[name], strict=True)
    return found


# --- What stays and what is copied --------------------------------------------------------------


def test_large_weights_are_referred_to_where_they_are(
    file: Path, started: list[onnx.ModelProto]
) -> None:
    check(file)
    plain, cut = started
    assert referred(plain) == {}
    assert list(referred(cut)) == ["raw", "last"]
    data = file.read_bytes()
    for item in plain.graph.initializer:
        entries = referred(cut).get(item.name)
        if entries:
            offset, length = int(entries["offset"]), int(entries["length"])
            assert entries["location"] == "m.onnx"
            assert data[offset : offset + length] == item.raw_data
    for left, right in zip(plain.graph.initializer, cut.graph.initializer, strict=True):
        assert (left.name, left.dims, left.data_type) == (right.name, right.dims, right.data_type)
        assert right.raw_data == (b"" if right.name in referred(cut) else left.raw_data)
    assert len(cut.SerializeToString()) < len(data) - 4 * 64 * 64


@pytest.mark.parametrize("make", tiny.PLAIN, ids=lambda make: make.__name__)
@pytest.mark.usefixtures("started")
def test_files_of_every_kind(
    make: Callable[[], onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse weights, weights that are outputs or read in a branch, and so on; even the smallest
    stay where they are."""
    monkeypatch.setattr("layertap._cut.write.REFERENCE_BYTES", 4)
    made = make()
    path = tiny.save(made, tmp_path / "m.onnx")
    feeds = tiny.feeds(made)
    found = layertap.open(path).activations(feeds)
    plain = layertap.open(path, copy_weights=True).activations(feeds)
    assert list(found) == list(plain)
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value)


def test_only_large_files_are_worth_it(file: Path, started: list[onnx.ModelProto]) -> None:
    size = file.stat().st_size
    for threshold, expected in ((size, ["raw", "last"]), (size + 1, [])):
        # The fixture puts it back.
        engine.MAPPED_BYTES = threshold  # type: ignore[attr-defined]
        layertap.open(file).tap("y")
        assert list(referred(started[-1])) == expected


def test_nothing_is_mapped_for_a_cut_without_large_weights(
    file: Path, started: list[onnx.ModelProto]
) -> None:
    made = wide()
    made.graph.node.insert(0, tiny.node("Neg", "x", "first"))
    tiny.save(made, file)
    tap = layertap.open(file).tap("first")
    assert referred(started[0]) == {}
    file.write_bytes(b"gone")
    np.testing.assert_array_equal(tap(X), -X)


def test_a_model_from_bytes_is_copied(file: Path, started: list[onnx.ModelProto]) -> None:
    found = layertap.open(file.read_bytes()).activations(X, "y")
    assert referred(started[0]) == {}
    np.testing.assert_array_equal(found, check(file)["y"])


def test_an_older_onnxruntime_gets_copies(
    file: Path, started: list[onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    check(file)
    assert [referred(model) for model in started] == [{}, {}]


def test_sharing_is_for_files_of_any_size(file: Path, started: list[onnx.ModelProto]) -> None:
    engine.MAPPED_BYTES = 10**9  # type: ignore[attr-defined]
    model = layertap.open(file, share_weights=True)
    tap = model.tap("y")
    assert list(referred(started[0])) == ["raw", "last"]
    options = program_of(model).fetch(["y"]).session.inner.get_session_options()  # type: ignore[union-attr]
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    np.testing.assert_allclose(tap(X), layertap.open(file).activations(X, "y"), rtol=1e-4)


def test_sharing_that_cannot_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(source: Any, **options: Any) -> str:
        with pytest.raises(layertap.LayertapError) as caught:
            layertap.open(source, share_weights=True, **options).tap("y")
        return str(caught.value)

    assert refusal(file.read_bytes()) == (
        "share_weights=True needs a file; bytes cannot be shared."
    )
    assert refusal(file, copy_weights=True) == (
        "share_weights=True and copy_weights=True cannot both be given."
    )
    assert refusal(file, session_options=onnxruntime.SessionOptions()) == (
        "share_weights=True sets session options, and an onnxruntime.SessionOptions is used "
        'unchanged. Give a dict, or set "session.disable_prepacking" to "1" in it.'
    )
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    assert refusal(file) == (
        "share_weights=True needs onnxruntime 1.21 or newer, but 1.20.1 is installed. Upgrade it."
    )


def test_a_copy_too_large_for_one_piece(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layertap._engine.program.PROTOBUF_BYTES", 100)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(file, copy_weights=True).tap("a")
    assert str(caught.value) == (
        f"the request needs 0.0 GB of '{file}' and its weights, more than onnxruntime can load "
        "from memory. Open it without copy_weights=True."
    )


# --- Names and places ---------------------------------------------------------------------------

ODD = [
    "with space",
    "ümlaut 模型",
    "per%20cent",
    "quote'\"`$HOME",
    "a#b?c&d",
    "-dash",
    "..dots..",
    *([] if os.name == "nt" else ["new\nline", "back\\slash", "colon:", "star*?<>|"]),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names(name: str, tmp_path: Path, started: list[onnx.ModelProto]) -> None:
    folder = tmp_path / name
    folder.mkdir()
    check(tiny.save(wide(), folder / f"{name}.onnx"))
    assert referred(started[1])["raw"]["location"] == f"{name}.onnx"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_name_that_is_no_text_is_copied(
    place: str, tmp_path: Path, started: list[onnx.ModelProto]
) -> None:
    odd = os.fsdecode(b"latin\xe9")
    folder = tmp_path / (odd if place == "folder" else "plain")
    folder.mkdir()
    check(tiny.save(wide(), folder / (f"{odd}.onnx" if place == "file" else "m.onnx")))
    assert referred(started[1]) == {}


def test_a_path_relative_to_where_the_process_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, started: list[onnx.ModelProto]
) -> None:
    monkeypatch.chdir(file.parent)
    check("m.onnx")
    (file.parent / "sub").mkdir()
    monkeypatch.chdir(file.parent / "sub")
    check("../m.onnx")
    check(Path("..", "sub", "..", "m.onnx"))
    assert [model for model in started if referred(model)] == started[1::2]


def test_links_to_the_file_and_to_its_folder(
    file: Path, tmp_path: Path, started: list[onnx.ModelProto]
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "link.onnx").symlink_to("../m.onnx")
    (tmp_path / "folder").symlink_to("snapshot", target_is_directory=True)
    for path in (snapshot / "link.onnx", tmp_path / "folder" / "link.onnx"):
        check(path)
        assert referred(started[-1])["raw"]["location"] == "m.onnx"


def beside(folder: Path, names: dict[str, str]) -> Path:
    """The file with some of its weights in other files."""
    made = wide()
    for item in made.graph.initializer:
        if item.name in names:
            with (folder / names[item.name]).open("ab") as stream:
                stream.write(b"odd")  # so that nothing is aligned
                entries = {"location": names[item.name], "offset": stream.tell()}
                stream.write(item.raw_data)
            item.ClearField("raw_data")
            item.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                item.external_data.add(key=key, value=str(value))
    return tiny.save(made, folder / "m.onnx")


def test_weights_in_the_file_and_beside_it(tmp_path: Path, started: list[onnx.ModelProto]) -> None:
    (tmp_path / "sub").mkdir()
    plain = tiny.save(wide(), tmp_path / "plain.onnx")
    wanted = check(plain)
    found = check(beside(tmp_path, {"raw": "m.data", "bias": "sub/n.data"}))
    for name in LAYERS:
        np.testing.assert_array_equal(found[name], wanted[name])
    where = {name: entries["location"] for name, entries in referred(started[-1]).items()}
    assert where == {"raw": "m.data", "bias": "sub/n.data", "last": "m.onnx"}
    assert referred(started[-2]) == {}  # copy_weights=True brings all of them in


def test_a_linked_model_whose_weights_are_not_linked(
    tmp_path: Path, started: list[onnx.ModelProto]
) -> None:
    """onnxruntime looks in one folder: what is in the other one is copied."""
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    stored = beside(tmp_path / "store", {"raw": "m.data"})
    (tmp_path / "store" / "m.data").rename(tmp_path / "here" / "m.data")
    (tmp_path / "here" / "m.onnx").symlink_to(stored)
    check(tmp_path / "here" / "m.onnx")
    assert list(referred(started[1])) == ["raw"]


# --- Files that change --------------------------------------------------------------------------

Change = Callable[[Path], None]


def cut_short(path: Path) -> None:
    os.truncate(path, 10)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"something else")
    os.replace(other, path)


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("change", [cut_short, overwrite])
def test_a_file_overwritten_in_place_is_found_out_before_it_kills(
    change: Change, file: Path
) -> None:
    tap = layertap.open(file).tap("y")
    tap(X)
    change(file)
    with pytest.raises(layertap.ModelFileError) as caught:
        tap(X)
    assert str(caught.value) == (
        f"'{file.resolve()}' was overwritten while weights in it were in use. Open the model again "
        "with layertap.open, and replace such files by renaming, or open them with "
        "copy_weights=True."
    )


@pytest.mark.usefixtures("started")
@pytest.mark.skipif(os.name == "nt", reason="there a mapped file stays where it is")
@pytest.mark.parametrize("change", [replace, Path.unlink])
def test_a_file_replaced_or_removed_does_no_harm(change: Change, file: Path) -> None:
    tap = layertap.open(file).tap("y")
    before = tap(X)
    change(file)
    np.testing.assert_array_equal(tap(X), before)


@pytest.mark.parametrize("change", [cut_short, overwrite, replace])
def test_copies_do_not_hang_on_the_file(
    change: Change, file: Path, started: list[onnx.ModelProto]
) -> None:
    tap = layertap.open(file, copy_weights=True).tap("y")
    before = tap(X)
    change(file)
    np.testing.assert_array_equal(tap(X), before)
    assert referred(started[0]) == {}


def test_a_file_replaced_while_the_session_starts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAPPED_BYTES", 1)
    plain = engine.Engine.start
    data = file.read_bytes()

    def start(self: engine.Engine, *args: Any, **options: Any) -> session.Session:
        file.with_name("other").write_bytes(data)
        os.replace(file.with_name("other"), file)
        return plain(self, *args, **options)

    monkeypatch.setattr(engine.Engine, "start", start)
    with pytest.raises(layertap.ModelFileError, match="was changed since it was opened"):
        layertap.open(file).tap("y")


def test_a_file_cut_short_is_refused_by_onnxruntime(
    file: Path, started: list[onnx.ModelProto]
) -> None:
    """What `_source` finds only where it copies, onnxruntime finds where it maps."""
    path = beside(file.parent, {"raw": "m.data"})
    os.truncate(file.parent / "m.data", 100)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(path).tap("y")
    assert str(caught.value).startswith(f"onnxruntime {onnxruntime.__version__} rejects ")
    assert len(started) == 1


# --- What is read -------------------------------------------------------------------------------


class Guarded:
    """A file's bytes, of which weights must not be looked at."""

    def __init__(self, data: bytes, weights: list[bytes]) -> None:
        self.data = data
        self.closed = [(at := data.index(item), at + len(item)) for item in weights]
        self.read = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: int | slice) -> int | bytes:
        at = range(len(self.data))[key]
        places = range(at, at + 1) if isinstance(at, int) else at
        self.read += len(places)
        for start, end in self.closed:
            assert places.stop <= start or places.start >= end, f"weights at {start} were read"
        return self.data[key]


def test_opening_looks_at_no_weight() -> None:
    made = wide()
    data = made.SerializeToString()
    weights = [item.raw_data for item in made.graph.initializer if item.name != "typed"]
    guarded = Guarded(data, weights)
    graph = graph_module.read_graph(guarded)  # type: ignore[arg-type]
    graph_module.read_types(guarded, graph)  # type: ignore[arg-type]
    assert list(graph.initializers) == [item.name for item in made.graph.initializer]
    assert 0 < guarded.read < 2000
    with pytest.raises(AssertionError, match="were read"):  # it would be seen
        guarded[guarded.closed[0][0]]


# --- Memory -------------------------------------------------------------------------------------

MEASURE = """
import json, re, sys, tracemalloc
import numpy, onnxruntime
def status(entry):
    with open("/proc/self/status") as file:
        return int(re.search(entry + r":\\s+(\\d+) kB", file.read())[1]) * 1024
def peak():
    return status("VmHWM")
import layertap, layertap._model, layertap._engine.program
path, layer, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
# Pages of the file that the system maps around those that are read are no memory of this process.
base, before = peak(), status("RssAnon")
tracemalloc.start()
model = layertap.open(path, threads=1, **options)
opened = max(tracemalloc.get_traced_memory()[1], status("RssAnon") - before)
tracemalloc.stop()
value = model.activations(numpy.ones((1, model.inputs[0].shape[1]), numpy.float32), layer)
print(json.dumps([opened, peak() - base, float(numpy.float64(value).sum())]))
"""

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """200 MB: twelve square matrices of 2048 x 2048, one after the other, each with a Relu."""
    size, count = 2048, 12
    generator = np.random.default_rng(0)
    pattern = generator.normal(scale=0.02, size=(size, size)).astype(np.float32)
    matrices = [
        numpy_helper.from_array(np.roll(pattern, index, 0), f"w{index}") for index in range(count)
    ]
    nodes = []
    before = "x"
    for index in range(count):
        nodes.append(tiny.node("MatMul", f"{before} w{index}", f"m{index}"))
        nodes.append(tiny.node("Relu", f"m{index}", f"r{index}"))
        before = f"r{index}"
    made = tiny.model(
        nodes, [tiny.value("x", ["n", size])], [tiny.value(before, ["n", size])], matrices
    )
    path = tiny.save(made, tmp_path_factory.mktemp("large") / "large.onnx")
    del made, matrices
    gc.collect()
    yield path
    path.unlink()


def measure(path: Path, layer: str, options: str = "{}") -> tuple[float, float, float]:
    """Peak memory of opening, without pages of the file that are mapped, and of fetching, beyond
    what the imports take, in sizes of the file; and the sum of what was fetched."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), layer, options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(layertap.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    opened, fetched, total = (float(part) for part in done.stdout.strip(" []\n").split(","))
    return opened / path.stat().st_size, fetched / path.stat().st_size, total


@needs_proc
@pytest.mark.slow
def test_weights_are_in_memory_once(large: Path) -> None:
    opened, early, _ = measure(large, "r0")
    assert opened < 0.05
    assert early < 0.3
    _, whole, value = measure(large, "r11")
    assert whole < 1.7
    _, shared, close = measure(large, "r11", '{"share_weights": true}')
    assert shared < 1.2
    assert close == pytest.approx(value, rel=1e-5)
    _, copied, same = measure(large, "r11", '{"copy_weights": true}')
    assert copied > 2  # so that it is known what the rest is worth
    assert same == value
