"""`layertap.ray.Extract` in a real cluster of Ray: two workers on this machine."""

from __future__ import annotations

import gc
import io
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import layertap
from layertap.ray import Extract
from pages import fenced, page

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

HERE = Path(__file__).parent
ROWS = 30
BROKEN = {3: b"no image", 11: b"", 20: b"\x89PNG\r\n\x1a\n", 29: b"x"}
ASKED = {"pool": None, "relu": [None, "top2"]}


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CONTENTS = [BROKEN.get(row) if row in BROKEN else png(row) for row in range(ROWS)]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """The package, connected to a cluster."""
    if find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    paths = [Path(layertap.__file__).parents[1], HERE, HERE / "extract"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*map(str, paths), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")  # without a file in the home folder
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        for path in paths:
            patch.syspath_prepend(path)
        import ray
        import ray.data

        folder = tempfile.mkdtemp(prefix="ray")  # the names of sockets must be short
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def file(tiny_file: Callable[[str], Path]) -> Path:
    return tiny_file("image_classifier")


@pytest.fixture(scope="module")
def expected(file: Path) -> Mapping[str, np.ndarray]:
    """What `Model.stream` gives for the same images."""
    (batch,) = layertap.open(file).stream(CONTENTS, ASKED, batch_size=ROWS)
    assert set(np.flatnonzero(~batch.ok)) == {*BROKEN}
    return batch.arrays


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for row, content in enumerate(CONTENTS):
        (folder / f"{row:02}.png").write_bytes(content or b"")
    return folder


def run(data: Any, kind: type[Extract], *args: Any, **options: Any) -> Any:
    """The data set through two actors."""
    import ray.data

    batches = {
        "batch_format": options.pop("batch_format", "numpy"),
        "batch_size": options.pop("batch_size", 4),
        "num_cpus": options.pop("num_cpus", 0.5),
    }
    return data.map_batches(
        kind,
        fn_constructor_args=args,
        fn_constructor_kwargs=options,
        compute=ray.data.ActorPoolStrategy(size=2),
        **batches,
    )


def check(rows: Mapping[int, Mapping[str, Any]], expected: Mapping[str, np.ndarray]) -> None:
    """The rows by their numbers: each is there, failed or computed as `Model.stream` does."""
    assert sorted(rows) == list(range(ROWS))
    for number, row in rows.items():
        assert bool(row["error"]) == (number in BROKEN), row["error"]
        for name, values in expected.items():
            found = np.asarray(row[name]).reshape(values[number].shape)
            np.testing.assert_allclose(found, values[number], rtol=1e-6)


def numbered(rows: list[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Rows by the number in their path, in whatever order they came; each once."""
    found = {int(Path(row["path"]).stem): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_files_with_broken_images_through_actors_of_which_one_ends(
    ray: Any, file: Path, images: Path, tmp_path: Path, expected: Mapping[str, np.ndarray]
) -> None:
    kind = import_module("ray_functions").EndsOnce
    data = ray.data.read_binary_files(str(images), include_paths=True, override_num_blocks=5)
    marker = tmp_path / "ended"
    options = {"marker": str(marker), "at": str(images / "13.png")}
    rows = run(data, kind, str(file), ASKED, **options).take_all()
    assert marker.exists()
    assert set(rows[0]) == {"path", "error", *expected}
    check(numbered(rows), expected)


@pytest.mark.slow
@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy", "pandas"])
def test_parquet_with_bytes_to_parquet_with_features(
    ray: Any, batch_format: str, file: Path, tmp_path: Path, expected: Mapping[str, np.ndarray]
) -> None:
    """The file comes from the object store; failed images include one that is null."""
    contents = [content or None for content in CONTENTS]
    source = pyarrow.table({"number": range(ROWS), "bytes": contents})
    pyarrow.parquet.write_table(source, tmp_path / "in.parquet", row_group_size=7)
    data = ray.data.read_parquet(str(tmp_path / "in.parquet"), override_num_blocks=4)
    model = ray.put(file.read_bytes())
    asked = {"pool": None, "relu": "top2"} if batch_format == "pyarrow" else ASKED
    made = run(data, Extract, model, asked, batch_format=batch_format)
    made.write_parquet(str(tmp_path / "out"))
    if batch_format == "pyarrow":
        written = pyarrow.parquet.read_table(tmp_path / "out")
        assert str(written.schema.field("pool").type).startswith("fixed_size_list<")
        rows = written.to_pylist()
        shown = {"pool": "pool", "relu=top2.channels": "relu.channels"}
        expected = {shown[name]: values for name, values in expected.items() if name in shown}
    else:
        rows = ray.data.read_parquet(str(tmp_path / "out")).take_all()
    assert len(rows) == ROWS
    check({row["number"]: row for row in rows}, expected)


@pytest.mark.slow
def test_paths_through_a_reader_on_the_threads_that_ray_assigned(
    ray: Any, file: Path, tmp_path: Path
) -> None:
    kind = import_module("ray_functions").WithThreads
    texts = ["7", "8", "raise", "die", "9", "5"]
    for text in texts:
        (tmp_path / text).write_text(text)
    data = ray.data.from_items([{"path": str(tmp_path / text)} for text in texts])
    options: dict[str, Any] = {"source": "path", "reader": "reader_functions:from_text"}
    made = data.map_batches(
        kind,
        fn_constructor_args=(str(file), "pool"),
        fn_constructor_kwargs=options,
        batch_size=3,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1.5,
    ).take_all()
    rows = dict(zip(texts, made, strict=True))
    assert {row["threads"] for row in made} == {1}
    assert "raised KeyError" in rows["raise"]["error"]
    assert "ended while it read this" in rows["die"]["error"]
    grey: Any = [np.full((4, 6, 3), value, np.uint8) for value in (7, 8, 9, 5)]
    values = layertap.open(file).activations(grey, "pool")
    found = [rows[text]["pool"] for text in ("7", "8", "9", "5")]
    np.testing.assert_allclose(found, values, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy", "pandas"])
def test_arrays_in_the_types_of_ray(ray: Any, batch_format: str, file: Path) -> None:
    """Of one shape and of several, which Ray keeps in different types."""
    generator = np.random.default_rng(0)
    for heights in ([9] * 6, [9, 10, 11, 9, 10, 12]):
        arrays = [generator.integers(0, 256, (height, 9, 3), np.uint8) for height in heights]
        data = ray.data.from_items([{"id": row, "data": one} for row, one in enumerate(arrays)])
        options = {"source": "data", "batch_format": batch_format}
        rows = {
            row["id"]: row for row in run(data, Extract, str(file), "pool", **options).take_all()
        }
        (batch,) = layertap.open(file).stream(arrays, "pool")
        found = np.stack([rows[number]["pool"] for number in range(6)])
        np.testing.assert_allclose(found, batch["pool"], rtol=1e-6)


@pytest.mark.slow
def test_the_page(
    ray: Any,
    file: Path,
    images: Path,
    tmp_path: Path,
    expected: Mapping[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its job for this model and machine; and its object store, for which a folder stands in."""
    import fsspec

    shutil.copy(file, tmp_path / "chest.onnx")
    monkeypatch.chdir(tmp_path)
    job, store = fenced(page("ray.md"), "python")[:2]
    job = job.replace('{"bn": "mean"}', '{"pool": None}')
    job = (
        job.replace("/data/", f"{tmp_path}/")
        .replace("size=8", "size=2")
        .replace("num_cpus=2", "num_cpus=0.5")
    )
    scope: dict[str, Any] = {}
    exec(job, scope)
    shutil.copytree(images, tmp_path / "xrays" / "2026")
    bucket = fsspec.filesystem("dir", path=str(tmp_path), fs=fsspec.filesystem("file"))
    monkeypatch.setattr(fsspec, "filesystem", lambda *names, **options: bucket)
    exec(store.replace("features/2026", "store/2026"), scope)
    assert numbered(scope["images"].take_all()).keys() == {*range(ROWS)}
    for folder in ("features", "store/2026"):
        written = pyarrow.parquet.read_table(tmp_path / folder)
        assert written.column_names == ["path", "pool", "error"]
        check(numbered(written.to_pylist()), {"pool": expected["pool"]})


@pytest.mark.slow
def test_a_part_without_rows_and_a_job_that_an_image_ends(
    ray: Any, file: Path, images: Path
) -> None:
    data = ray.data.read_binary_files(str(images), include_paths=True)
    none = data.filter(lambda row: False)
    assert run(none, Extract, str(file), "pool").take_all() == []
    one = data.filter(lambda row: row["path"].endswith("05.png"))
    rows = run(one, Extract, str(file), "pool", errors="raise").take_all()
    assert [set(row) for row in rows] == [{"path", "pool"}]
    with pytest.raises(Exception, match=r"(03|11|20|29)\.png: (this is not an image|.* is empty)"):
        run(data, Extract, str(file), "pool", errors="raise").take_all()
    gc.collect()  # what the exception holds keeps the actors, and with them all CPUs
