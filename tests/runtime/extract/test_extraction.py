"""Extraction of a collection to a folder: bill, continuing, failures, shards."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from layertap._engine.program import Program, program_of
from layertap.errors import (
    CollectionBusyError,
    CollectionError,
    CollectionMismatchError,
    ImageError,
    InputError,
    LayertapWarning,
    OutputError,
    UsageError,
)
from layertap.extract import bill, extraction, items, journal, workers
from layertap.extract import images as found_images
from layertap.extract.extraction import Extraction, Limit, shard_of
from layertap.extract.workers import run_chunks
from layertap.extract.writer import Writer
from layertap.images.own_pictures import kind_of_own, mark

FILE = tiny.differentiable().SerializeToString()
RECIPE = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}
ASKED = ["relu=mean", "pool", "grad:relu=dog"]
COUNT = 41
BROKEN = 7


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, of which one is broken."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for row in range(COUNT):
        pixels = generator.integers(0, 256, (9, 11, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02}.png")
    (folder / f"{BROKEN:02}.png").write_bytes(b"\x89PNG\r\n")
    return folder


@pytest.fixture
def model() -> layertap.Model:
    return layertap.open(FILE)


def extract(model: layertap.Model, images: Any, output: Path, **options: Any) -> Any:
    options = {"layers": ASKED, "preprocess": RECIPE, "batch_size": 1, **options}
    return model.extract(images, options.pop("layers"), output, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a collection; the lines of journals may come in any order."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            if file.suffix == ".jsonl":
                data = b"\n".join(sorted(data.splitlines()))
            found[file.relative_to(folder).as_posix()] = data
    return found


def test_row_i_is_item_i(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    found = extract(model, images, tmp_path / "out")
    assert found.complete
    assert list(found.ids) == [f"{row:02}.png" for row in range(COUNT)]
    assert list(found.errors) == [BROKEN]
    assert "cut off" in found.errors[BROKEN] or "Pillow" in found.errors[BROKEN]
    assert found.ok.tolist() == [row != BROKEN for row in range(COUNT)]
    one = layertap.open(FILE, threads=1)
    for row in range(COUNT):
        if row == BROKEN:
            assert all(np.isnan(found[key][row]).all() for key in found)
            continue
        path = [images / f"{row:02}.png"]
        expected = one.activations(path, {"relu": "mean", "pool": None}, RECIPE)
        np.testing.assert_array_equal(found["relu"][row], expected["relu"][0])
        np.testing.assert_array_equal(found["pool"][row], expected["pool"][0])
        gradient = one.gradients(path, "relu", "dog", RECIPE)
        np.testing.assert_array_equal(found["grad:relu"][row], gradient[0])


def test_a_stopped_run_is_continued_to_the_same_bytes(
    model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    extract(model, images, tmp_path / "whole")
    stop = threading.Event()
    steps: list[int] = []

    def after_some(done: int, total: int) -> None:
        steps.append(done)
        assert total == COUNT
        if done >= 10:
            stop.set()

    program, out = program_of(model), tmp_path / "out"
    with Extraction(program, images, ASKED, out, preprocess=RECIPE, batch_size=1) as first:
        found = first.run(after_some, stop)
    assert 10 <= found.done_rows < COUNT
    assert not found.complete
    assert steps == sorted(steps)
    rest: list[int] = []
    found = extract(model, images, tmp_path / "out", progress=lambda done, _: rest.append(done))
    assert found.complete
    assert rest[0] == steps[-1]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_exception_in_progress_loses_no_finished_row(
    model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    def fails(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, images, tmp_path / "out", progress=fails)
    begun = layertap.features(tmp_path / "out")
    assert 0 < begun.done_rows < COUNT
    assert extract(model, images, tmp_path / "out").complete


def test_nothing_is_computed_again(
    model: layertap.Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(model, images, tmp_path / "out")
    before = contents(tmp_path / "out")
    read: list[int] = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        for finished in run_chunks(*args, **kwargs):
            read.append(finished.chunk.number)
            yield finished

    monkeypatch.setattr(extraction, "run_chunks", noted)
    extract(model, images, tmp_path / "out")
    assert read == []
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("rows", [31, 32, 33, 200, 3201])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_worker_has_chunks_until_the_end(
    rows: int, shards: int, model: layertap.Model, tmp_path: Path
) -> None:
    ready = np.zeros((rows, 8, 6, 3), np.float32)
    with Extraction(
        program_of(model), ready, ["pool"], tmp_path / "out", batch_size=1, shard=(1, shards)
    ) as extraction:
        grid = extraction._identity.grid
    for shard in range(shards):
        assert len(grid.of_shard(shard)) >= min(32, rows // shards)


class Calls:
    """Counts the calls of a function."""

    def __init__(self, function: Any) -> None:
        self.function, self.number = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.number += 1
        return self.function(*args, **kwargs)


def test_where_nothing_is_left_little_is_done(
    model: layertap.Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(model, images, tmp_path / "out")
    programs, opened = Calls(Program), Calls(Writer.open)
    lines, reads = Calls(journal.read_lines), Calls(items.file_bytes)
    monkeypatch.setattr(workers, "Program", programs)
    monkeypatch.setattr(Writer, "open", opened)
    monkeypatch.setattr(journal, "read_lines", lines)
    monkeypatch.setattr(items, "file_bytes", reads)
    with Extraction(
        program_of(model), images, ASKED, tmp_path / "out", preprocess=RECIPE, batch_size=1
    ) as extraction:
        assert extraction.bill().left == 0
        extraction.run()
    assert (programs.number, opened.number, lines.number, reads.number) == (0, 1, 1, 0)


@pytest.mark.parametrize("tried", [True, False])
def test_the_bill_and_the_run_share_a_session(
    tried: bool,
    model: layertap.Model,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs, reads = Calls(Program), Calls(items.file_bytes)
    monkeypatch.setattr(workers, "Program", programs)
    monkeypatch.setattr(items, "file_bytes", reads)
    with Extraction(
        program_of(model), images, ASKED, tmp_path / "out", preprocess=RECIPE, workers=2
    ) as extraction:
        extraction.bill(tried=tried)
        assert reads.number == (8 if tried else 1)
        extraction.run()
    assert programs.number == 1
    assert reads.number == COUNT + (8 if tried else 1)


def test_a_bill_leaves_no_lock(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    extract(model, images, tmp_path / "out", layers=["pool"])
    for _ in range(2):
        with Extraction(
            program_of(model), images, ["pool"], tmp_path / "out", preprocess=RECIPE, batch_size=1
        ) as extraction:
            assert extraction.bill().left == 0
            with pytest.raises(CollectionBusyError):
                extract(model, images, tmp_path / "out", layers=["pool"])
    assert not list(tmp_path.glob("out/journal/*.writer"))


def test_files_of_the_list_are_not_opened_again(
    model: layertap.Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    opened: list[str] = []

    def noted(path: str) -> str | None:
        opened.append(path)
        return kind_of_own(path)

    monkeypatch.setattr(found_images, "kind_of_own", noted)
    extract(model, folder, tmp_path / "out")
    assert len(opened) == COUNT
    opened.clear()
    extract(model, folder, tmp_path / "out")
    assert opened == []
    Image.new("L", (9, 9)).save(folder / "new.png", pnginfo=mark("cam"))
    with pytest.warns(LayertapWarning, match="left out, because layertap wrote it"):
        extract(model, folder, tmp_path / "out")
    assert opened == [str(folder / "new.png")]


def test_failed_images_are_tried_again_on_request(
    model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    assert extract(model, folder, tmp_path / "out").failed_rows == 1
    Image.fromarray(np.full((9, 11, 3), 90, np.uint8)).save(folder / f"{BROKEN:02}.png")
    assert extract(model, folder, tmp_path / "out").failed_rows == 1
    for again in (True, False):  # the list has the size of the broken file
        found = extract(model, folder, tmp_path / "out", retry_failed=again)
        assert found.failed_rows == 0
    image = [folder / f"{BROKEN:02}.png"]
    expected = layertap.open(FILE, threads=1).activations(image, "pool", RECIPE)
    np.testing.assert_array_equal(found["pool"][BROKEN], expected[0])
    Image.fromarray(np.full((40, 50, 3), 9, np.uint8)).save(folder / "00.png", compress_level=0)
    with pytest.raises(CollectionMismatchError, match=r"00\.png"):
        extract(model, folder, tmp_path / "out", retry_failed=True)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"layers": ["pool"]}, "other layers"),
    "reduction": ({"layers": ["relu=max", "pool", "grad:relu=dog"]}, "other layers"),
    "target": ({"layers": ["relu=mean", "pool", "grad:relu=cat"]}, "other layers"),
    "dtype": ({"dtype": "float16"}, "other layers"),
    "recipe": ({"preprocess": {**RECIPE, "scaling": None}}, "another preprocess"),
    "batch": ({"batch_size": 3}, "1 row in a batch, not 3"),
    "chunk": ({"chunk": 5}, "2 rows in a chunk, not 5"),
    "shard": ({"shard": "1/2"}, "1 shard, not 2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_request_is_refused(
    change: str, model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    extract(model, images, tmp_path / "out", chunk=2)
    before = contents(tmp_path / "out")
    options, words = CHANGES[change]
    with pytest.raises(CollectionMismatchError, match=words):
        extract(model, images, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before


def test_another_model_or_list_is_refused(
    model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    extract(model, images, tmp_path / "out")
    other = tiny.differentiable()
    weights = other.graph.initializer[0]
    values = np.frombuffer(weights.raw_data, np.float32) * np.float32(1.5)
    weights.raw_data = values.tobytes()
    changed = layertap.open(other.SerializeToString())
    with pytest.raises(CollectionMismatchError, match="another model"):
        extract(changed, images, tmp_path / "out")
    with pytest.raises(CollectionMismatchError, match="41 items, not 3"):
        extract(model, [images / f"{row:02}.png" for row in range(3)], tmp_path / "out")
    found = extract(model, images, tmp_path / "out", layers=["pool"], overwrite=True)
    assert list(found) == ["pool"]


def test_shards_are_the_whole(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    whole = extract(model, images, tmp_path / "whole", chunk=4)
    for shard in ("2/3", (1, 3), "3/3"):
        found = extract(model, images, tmp_path / "out", chunk=4, shard=shard)
    assert found.complete
    for key in whole:
        np.testing.assert_array_equal(np.asarray(found[key]), whole[key])


def test_the_bill(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    made = extract(model, images, tmp_path / "out", dry_run=True)
    assert isinstance(made, layertap.Bill)
    assert not (tmp_path / "out").exists()
    rows = sum(int(np.prod(one.shape)) * 4 for one in made.columns)
    assert made.row_bytes == rows
    assert made.bytes == COUNT * (rows + bill.JOURNAL_BYTES)
    assert made.tried == 8
    assert made.seconds is not None
    assert made.seconds > 0
    assert str(made).startswith("41 images -> relu=mean (4,) float32: 656 B, pool ")
    assert made.to_dict()["rows"] == COUNT


def test_a_full_disk_is_refused_before_the_work(
    model: layertap.Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "free_bytes", lambda _: 100)
    with pytest.raises(OutputError, match="100 B are free"):
        extract(model, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_which_none_can_be_read_are_refused(
    model: layertap.Model, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{row}.png" for row in range(40)]
    for path in paths:
        path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"2\.png: .* None of the 8 images that were tried"):
        extract(model, paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_failures_end_it(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1 image failed, and at most 0 may.*'07.png' \(row 7\)"):
        extract(model, images, tmp_path / "out", max_failures=0)
    assert extract(model, images, tmp_path / "out", max_failures="5%").complete
    with pytest.raises(ImageError, match=r"at most 0\.02 of all may"):
        extract(model, images, tmp_path / "out", max_failures=0.02)


@pytest.mark.parametrize(
    ("given", "failed", "exceeded"),
    [
        (None, 100, False),
        (0, 0, False),
        (0, 1, True),
        (3, 3, False),
        (3, 4, True),
        ("3", 4, True),
        ("1%", 1, False),
        ("1%", 2, True),
        (0.5, 50, False),
        (0.5, 51, True),
        (np.int64(2), 3, True),
    ],
)
def test_limits(given: Any, failed: int, exceeded: bool) -> None:
    assert Limit(given).exceeded(failed, 100) is exceeded


@pytest.mark.parametrize("given", ["x", -1, 1.5, "1.5", "-1%", True, float("nan"), [1], ""])
def test_limits_that_are_none(given: Any) -> None:
    with pytest.raises(UsageError, match="max_failures must be"):
        Limit(given)


def test_shards_that_are_none() -> None:
    assert shard_of("2/8") == (1, 8)
    assert shard_of((8, 8)) == (7, 8)
    with pytest.raises(UsageError, match="1,000,000 shards at most"):
        shard_of("1/1000001")
    for given in ("9/8", "0/8", "2", "a/b", (1, 2, 3), 3, "-1/2", (0, 2)):
        with pytest.raises(UsageError, match="shard"):
            shard_of(given)  # type: ignore[arg-type]


def test_more_shards_than_items(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="41 items cannot be 50 shards"):
        extract(model, images, tmp_path / "out", shard="1/50")


def test_progress_that_is_none(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="progress must be True, False or a function"):
        extract(model, images, tmp_path / "out", progress="yes")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [np.asarray, Image.fromarray, lambda pixels: ("a", pixels)])
def test_other_images_in_memory_are_noticed(
    form: Callable[[Any], Any], model: layertap.Model, tmp_path: Path
) -> None:
    """They have no names and no times; the rows would be those of other images."""
    pixels = np.random.default_rng(1).integers(0, 256, (5, 9, 11, 3), np.uint8)
    given = [form(one) for one in pixels]
    if isinstance(given[0], tuple):
        given = [(str(row), one) for row, (_, one) in enumerate(given)]
    first = extract(model, given, tmp_path / "out")
    assert first.failed_rows == 0
    extract(model, given, tmp_path / "out")
    given[3], given[4] = given[4], given[3]
    if isinstance(given[0], tuple):
        given[3], given[4] = ("3", given[3][1]), ("4", given[4][1])
    with pytest.raises(CollectionMismatchError, match="'3' has changed since its row 3"):
        extract(model, given, tmp_path / "out")


def test_a_folder_that_is_something_else_is_refused_before_the_work(
    model: layertap.Model, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "find_items", None)
    with pytest.raises(CollectionError, match=r"is not a collection: it contains '00\.png'"):
        extract(model, images, images)


def test_a_layer_of_heat_maps_that_nobody_asks_for(
    model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the layer of heat maps is 'relu', but no heat map"):
        extract(model, images, tmp_path / "out", cam_layer="relu")


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 8, 6), (2, 9, 6, 3), (1, 2, 8, 6, 3)])
@pytest.mark.parametrize("form", ["array", "rows", "file"])
def test_rows_that_do_not_fit_the_model_are_refused_before_any_work(
    shape: tuple[int, ...], form: str, model: layertap.Model, tmp_path: Path
) -> None:
    array = np.zeros(shape, np.float32)
    np.save(tmp_path / "a.npy", array)
    source: Any = {"array": array, "rows": list(array), "file": tmp_path / "a.npy"}[form]
    for preprocess in (None, RECIPE):
        with pytest.raises(InputError, match=r"^0: input 'image' has shape"):
            extract(model, source, tmp_path / "out", preprocess=preprocess)
        with pytest.raises(InputError, match=r"^0: input 'image' has shape"):
            model.stream(source, "pool", preprocess=preprocess)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_a_file(model: layertap.Model, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file' is a file, not a folder"):
        extract(model, images, tmp_path / "file" / "deep" / "out", dry_run=True)


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be removed")
@pytest.mark.parametrize("what", ["", "pool", "pool/00000.npy", "journal/00000.jsonl"])
@pytest.mark.parametrize("how", ["remove", "move", "replace"])
def test_a_collection_that_somebody_removes_meanwhile_is_noticed_at_once(
    what: str, how: str, model: layertap.Model, images: Path, tmp_path: Path
) -> None:
    """What is written to a file without a name is lost."""
    path, elsewhere, seen = tmp_path / "out" / what, tmp_path / "elsewhere", list[int]()

    def after_some(done: int, _: int) -> None:
        seen.append(done)
        if len(seen) == 5:
            folder = path.is_dir()
            path.rename(elsewhere)
            if how == "replace":
                (shutil.copytree if folder else shutil.copy)(elsewhere, path)
            elif how == "remove":
                (shutil.rmtree if folder else os.unlink)(elsewhere)

    with pytest.raises(CollectionError, match="was removed, moved or replaced"):
        extract(model, images, tmp_path / "out", chunk=1, progress=after_some)
    assert len(seen) == 5
    if how == "move":
        elsewhere.rename(path)
        assert extract(model, images, tmp_path / "out", chunk=1).verify().ok
