"""Chunks of a collection, computed in several threads."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import layertap
from generators import tiny
from layertap._engine.program import Program, program_of
from layertap.errors import InputError
from layertap.extract import workers
from layertap.extract.columns import Columns, columns_of
from layertap.extract.items import Items
from layertap.extract.sources import find_items
from layertap.extract.workers import Chunk, Finished, run_chunks

FILE = tiny.differentiable().SerializeToString()
ASKED = ["relu", "pool", "relu=top2", "grad:relu=dog"]
RECIPE = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 255}}


def png(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chunks(total: int, size: int) -> Iterator[Chunk]:
    for number, first in enumerate(range(0, total, size)):
        yield Chunk(number, first, min(size, total - first))


class Setting:
    """A model with what is computed of it, and a list of images."""

    def __init__(self, images: Any, asked: Any = ASKED, dtype: str | None = None) -> None:
        self.model = layertap.open(FILE)
        self.program: Program = program_of(self.model)
        self.recipe = layertap.Preprocessing.of(RECIPE)
        self.items: Items = find_items(images, recipe=self.recipe)
        self.columns: Columns = columns_of(self.program, asked, dtype=dtype)

    def run(
        self, size: int = 4, batch: int = 2, workers: int = 2, ordered: bool = True, **more: Any
    ) -> Iterator[Finished]:
        options = {"chunks": chunks(len(self.items.items), size), "stop": threading.Event()}
        return run_chunks(
            self.program, self.items, self.columns, self.recipe,
            **{**options, **more}, batch=batch, workers=workers, ordered=ordered,
        )  # fmt: skip


def joined(finished: Iterator[Finished]) -> dict[str, Any]:
    """The columns of all chunks in the order of their rows."""
    found = sorted(finished, key=lambda one: one.chunk.first)
    return {key: np.concatenate([one.blocks[key] for one in found]) for key in found[0].blocks}


IMAGES = [png(seed) for seed in range(13)]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The values of every image, computed one by one with the model."""
    setting = Setting(IMAGES)
    model, recipe = layertap.open(FILE, threads=1), setting.recipe
    batches = [recipe.batch([image]) for image in IMAGES]
    top: list[Any] = [model.activations(x, {"relu": "top2"})["relu"] for x in batches]
    return {
        "relu": np.concatenate([model.activations(x, "relu") for x in batches]),
        "pool": np.concatenate([model.activations(x, "pool") for x in batches]),
        "relu=top2.channels": np.concatenate([one.channels for one in top]),
        "relu=top2.values": np.concatenate([one.values for one in top]),
        "grad:relu": np.concatenate([model.gradients(x, "relu", "dog") for x in batches]),
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_values_depend_on_nothing_but_the_image(
    expected: dict[str, Any], size: int, batch: int, workers: int, ordered: bool
) -> None:
    found = joined(Setting(IMAGES).run(size, batch, workers, ordered))
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].flags.c_contiguous
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 12)), st.integers(1, 5), st.integers(1, 3))
def test_failed_images_shift_nothing(
    expected: dict[str, Any], broken: set[int], size: int, workers: int
) -> None:
    images = [b"broken" if row in broken else data for row, data in enumerate(IMAGES)]
    finished = list(Setting(images).run(size, 3, workers))
    failed = {row: reason for one in finished for row, reason in one.failed.items()}
    assert set(failed) == broken
    assert set(failed.values()) <= {"this is not an image in a format that Pillow reads."}
    for key, value in joined(iter(finished)).items():
        good = [row for row in range(13) if row not in broken]
        np.testing.assert_array_equal(value[good], expected[key][good])
        empty = value[sorted(broken)]
        assert np.isnan(empty).all() if value.dtype.kind == "f" else not empty.any()
    assert not any(count for one in finished for count in one.nonfinite.values())


def test_a_failed_image_changes_no_other_where_values_depend_on_the_batch() -> None:
    """Its place is filled by another image: the batch has the same number of rows."""
    sizes: list[int] = []
    setting = Setting([IMAGES[0], b"broken", IMAGES[2], IMAGES[3]], ["pool"])

    class Watched(Columns):
        def __call__(self, batch: Any, *, watch: bool = False) -> Any:
            sizes.append(len(batch))
            return super().__call__(batch, watch=watch)

        def on(self, program: Program) -> Columns:
            del program
            return self

    setting.columns.__class__ = Watched
    (finished,) = setting.run(4, 4, 1)
    assert sizes == [4]
    assert list(finished.failed) == [1]


def test_hashes_are_of_the_bytes_that_were_read() -> None:
    import hashlib

    (finished,) = Setting([IMAGES[0], b"broken"]).run()
    assert finished.sha256 == tuple(
        hashlib.sha256(data).hexdigest() for data in (IMAGES[0], b"broken")
    )


def test_float16_that_is_too_large_is_counted() -> None:
    program = program_of(layertap.open(tiny.linear_chain().SerializeToString()))
    rows = np.array([[1, 2, 3, 4], [1e9, 1e9, 1e9, 1e9], [np.nan, 0, 0, 0]], np.float32)
    columns = columns_of(program, ["a", "x"], dtype="float16")
    with np.errstate(all="raise"):
        (finished,) = run_chunks(
            program, find_items(rows), columns, None, [Chunk(0, 0, 3)],
            batch=2, workers=1, ordered=True, stop=threading.Event(),
        )  # fmt: skip
    exact = rows[1:] @ np.ones((4, 5))
    assert exact.size == 10
    assert finished.nonfinite == {
        key: int((~np.isfinite(finished.blocks[key])).sum()) for key in ("a", "x")
    }
    assert finished.nonfinite["x"] == 5
    assert finished.nonfinite["a"] >= 5


def test_images_of_different_sizes_are_run_apart() -> None:
    made = tiny.image_classifier(None, None).SerializeToString()
    model = layertap.open(made)
    program, recipe = program_of(model), model.preprocessing
    images = [png(0, (8, 6)), png(1, (9, 7)), png(2, (8, 6)), b"broken"]
    items, columns = find_items(images, recipe=recipe), columns_of(program, ["relu=mean"])
    (finished,) = run_chunks(
        program, items, columns, recipe, [Chunk(0, 0, 4)],
        batch=4, workers=1, ordered=True, stop=threading.Event(),
    )  # fmt: skip
    for row in range(3):
        one = model.activations(images[row], {"relu": "mean"})["relu"]
        np.testing.assert_allclose(finished.blocks["relu"][row], one[0], rtol=1e-6)
    assert list(finished.failed) == [3]


def test_an_image_that_the_model_does_not_take_ends_the_run_and_is_named(tmp_path: Path) -> None:
    for name, size in (("a.png", (8, 6)), ("b.png", (9, 6))):
        (tmp_path / name).write_bytes(png(0, size))
    setting = Setting(tmp_path, ["pool"])
    setting.recipe = layertap.Preprocessing()
    with pytest.raises(InputError, match=r"^b\.png: input 'image' has shape \(1, 9, 6, 3\)"):
        list(setting.run(1, 1, 2))
    assert not workers_left()


def workers_left() -> list[str]:
    """The threads of workers that exist."""
    return [one.name for one in threading.enumerate() if "layertap-worker" in one.name]


def slow(items: Items, seconds: float, seen: list[int]) -> None:
    read = items.read

    def read_slowly(row: int) -> Any:
        seen.append(row)
        time.sleep(seconds)
        return read(row)

    items.read = read_slowly  # type: ignore[method-assign]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("how", ["close", "delete", "raise"])
def test_nothing_runs_on_after_the_loop_is_left(ordered: bool, how: str) -> None:
    setting, seen = Setting(IMAGES * 10), list[int]()
    slow(setting.items, 0.002, seen)
    run: Any = setting.run(5, 1, 3, ordered)
    next(run)
    if how == "close":
        run.close()
    elif how == "raise":
        with contextlib.suppress(ZeroDivisionError):
            for _ in run:
                raise ZeroDivisionError
    del run
    assert not workers_left()
    read = len(seen)
    assert read < 60
    time.sleep(0.02)
    assert len(seen) == read


@pytest.mark.parametrize("ordered", [True, False])
def test_stop_finishes_what_has_begun_and_begins_nothing(ordered: bool) -> None:
    setting, seen, stop = Setting(IMAGES * 10), list[int](), threading.Event()
    slow(setting.items, 0.002, seen)
    finished = []
    for one in setting.run(5, 1, 2, ordered, stop=stop):
        finished.append(one)
        if len(finished) == 3:
            stop.set()
            began = {row // 5 for row in seen}
    numbers = sorted(one.chunk.number for one in finished)
    assert numbers == list(range(len(numbers)))
    assert began <= set(numbers)
    assert len(numbers) <= 7
    assert len(seen) == 5 * len(numbers)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_slow_caller_finds_a_bounded_number_of_chunks(workers: int) -> None:
    setting, seen = Setting(IMAGES * 10, ["pool"]), list[int]()
    slow(setting.items, 0, seen)
    taken = 0
    for one in setting.run(2, 1, workers):
        taken += one.chunk.count
        time.sleep(0.003)
        assert len(seen) - taken <= 2 * 2 * workers
    assert taken == 130


def test_an_exception_of_the_chunks_or_of_a_worker_ends_the_run() -> None:
    def failing() -> Iterator[Chunk]:
        yield Chunk(0, 0, 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Setting(IMAGES).run(chunks=failing()))
    setting = Setting(IMAGES)

    def broken(row: int) -> Any:
        raise ZeroDivisionError(row)

    setting.items.read = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        list(setting.run())
    assert not workers_left()


@pytest.mark.skipif(os.name != "posix", reason="needs os.kill")
def test_ctrl_c_ends_the_run_and_the_model_can_be_used_again() -> None:
    setting, seen = Setting(IMAGES * 100), list[int]()
    slow(setting.items, 0.005, seen)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            list(setting.run(20, 1, 2))
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not workers_left()
    assert setting.model.predict(np.zeros((1, 8, 6, 3), np.float32)).shape == (1, 3)


def test_sessions_of_workers_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Program] = []
    monkeypatch.setattr(Program, "close", lambda program: closed.append(program))
    setting = Setting(IMAGES)
    list(setting.run())
    assert len(closed) == 1
    assert closed[0] is not setting.program


def test_warnings_of_ready_rows_that_are_no_images() -> None:
    model = layertap.open(tiny.image_classifier().SerializeToString())
    program = program_of(model)
    items = find_items(np.full((2, 8, 6, 3), 200, np.float32), recipe=model.preprocessing)
    with pytest.warns(layertap.LayertapWarning, match="values from 200"):
        list(
            run_chunks(
                program, items, columns_of(program, "pool"), None, [Chunk(0, 0, 2)],
                batch=1, workers=1, ordered=True, stop=threading.Event(),
            )
        )  # fmt: skip


def test_the_default_batch_depends_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Setting(IMAGES).program
    assert workers.default_batch(program) == 16
    monkeypatch.setattr(workers, "SMALL", 10)
    assert workers.default_batch(program) == 1
    monkeypatch.setattr(program.engine, "device", "cuda:0")
    assert workers.default_batch(program) == 32
