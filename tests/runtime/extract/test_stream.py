"""`Model.stream`: the layers of a collection, batch by batch."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from layertap.errors import InputError, LayertapError, UsageError


@pytest.fixture
def model(tiny_file: Callable[[str], Path]) -> layertap.Model:
    """Images (n, 8, 6, 3); layers image, conv, relu, drop, pool, probs."""
    return layertap.open(tiny_file("image_classifier"))


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(pixels)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(7):
        (tmp_path / f"{seed}.png").write_bytes(b"no image" if seed == 2 else png(seed))
    return tmp_path


def test_batches_come_in_order_with_failures(model: layertap.Model, folder: Path) -> None:
    batches = list(model.stream(folder, {"relu": "mean", "pool": None}, batch_size=3, workers=2))
    assert [batch.ids for batch in batches] == [
        ("0.png", "1.png", "2.png"), ("3.png", "4.png", "5.png"), ("6.png",),
    ]  # fmt: skip
    assert [batch.first for batch in batches] == [0, 3, 6]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert batches[0].ok.tolist() == [True, True, False]
    assert batches[0].errors == ("", "", "this is not an image in a format that Pillow reads.")
    assert batches[1].errors == ("", "", "")
    assert batches[0].keys() == ("relu", "pool")
    assert np.isnan(batches[0]["pool"][2]).all()
    good = [seed for seed in range(7) if seed != 2]
    rows = np.concatenate([batch["pool"][batch.ok] for batch in batches])
    images: Any = [picture(seed) for seed in good]
    np.testing.assert_allclose(rows, model.activations(images, "pool"), rtol=1e-6)
    assert repr(batches[0]) == "<layertap.Batch of items 0 to 2: 'relu', 'pool'; 1 failed>"
    with pytest.raises(UsageError, match=r"no 'pol'.*'pool'"):
        batches[0]["pol"]


def sources() -> dict[str, Any]:
    return {
        "pictures": [picture(seed) for seed in range(5)],
        "generator": (picture(seed) for seed in range(5)),
        "pairs": ((f"id{seed}", png(seed)) for seed in range(5)),
        "array": np.stack([np.asarray(picture(seed)) for seed in range(5)]),
        "ready": tiny.images(5),
        "ready rows": (row for row in tiny.images(5)),
    }


@pytest.mark.parametrize("name", sources())
def test_sources_of_all_kinds(model: layertap.Model, name: str) -> None:
    batches = list(model.stream(sources()[name], "pool", dtype="float16", batch_size=2))
    names = [f"id{seed}" if name == "pairs" else str(seed) for seed in range(5)]
    assert [name for batch in batches for name in batch.ids] == names
    given: Any = tiny.images(5)
    if "ready" not in name:
        given = [picture(seed) for seed in range(5)]
    rows = np.concatenate([batch["pool"] for batch in batches])
    np.testing.assert_array_equal(rows, model.activations(given, "pool", dtype="float16"))


def test_elements_of_a_data_set_without_an_image(model: layertap.Model) -> None:
    none = {"bytes": None, "path": None}
    given: Any = [
        {"image": png(0)},
        {"image": none},
        none,
        {},
        {"image": {"image": none}},
        None,
        (),
    ]
    for source in (given, iter(given)):
        (batch,) = model.stream(source, "pool")
        assert batch.ok.tolist() == [True, *[False] * 6]
        assert all("is no image" in error for error in batch.errors[1:])


def test_ready_arrays_do_not_change_one_another(tiny_file: Callable[[str], Path]) -> None:
    """Arrays of several dtypes in one batch would all become those of one."""
    model = layertap.open(tiny_file("linear_chain"))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    rows: list[Any] = [x[0], (x[1] * 100).astype(np.int64), x[2]]
    (batch,) = model.stream(rows, "b")
    np.testing.assert_array_equal(batch["b"][[0, 2]], model.activations(x[[0, 2]], "b"))
    np.testing.assert_array_equal(batch["b"][1:2], model.activations(rows[1][None], "b"))
    with pytest.raises(InputError, match=r"^1: "):
        list(model.stream([x[0], np.zeros(4, "M8[s]"), np.array(list("abcd"))], "b"))


def test_an_iterator_is_read_shortly_before_it_is_needed(model: layertap.Model) -> None:
    read: list[int] = []

    def images() -> Iterator[Any]:
        for seed in range(1000):
            read.append(seed)
            yield picture(seed)

    for number, batch in enumerate(model.stream(images(), "pool", batch_size=2, workers=2)):
        assert len(read) <= batch.first + 2 * 4
        if number == 5:
            break
    assert len(read) < 30
    assert list(model.stream(iter([]), "pool")) == []


def test_the_thread_that_iterates_also_reads_the_iterator(model: layertap.Model) -> None:
    threads = set()

    def images() -> Iterator[Any]:
        for seed in range(5):
            threads.add(threading.get_ident())
            yield picture(seed)

    list(model.stream(images(), "pool", batch_size=1))
    assert threads == {threading.get_ident()}


def test_errors_come_before_the_first_batch(model: layertap.Model, folder: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layers": "pol"}, "pool"),
        ({"layers": {"relu": "men"}}, "mean"),
        ({"source": folder / "gone"}, "no such file"),
        ({"source": 5}, "sequence"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"dtype": "int8"}, "float16"),
        ({"preprocess": {"size": [5, 5]}}, "expected"),
        ({"reader": "os:gone"}, "cannot be imported"),
        ({"source": iter([]), "reader": "os:stat"}, "iterator"),
    ]
    for options, message in wrong:
        with pytest.raises(LayertapError, match=message):
            model.stream(**{"source": folder, "layers": "pool", **options})


def test_images_need_a_recipe(folder: Path) -> None:
    made = tiny.image_classifier(preprocessing=False).SerializeToString()
    model = layertap.open(made)
    with pytest.raises(UsageError, match=r'preprocess=\{"size": \[8, 6\]\}'):
        model.stream(folder, "pool")
    assert len(list(model.stream(folder, "pool", preprocess={"size": [8, 6]}))) == 1
    assert len(list(model.stream(tiny.images(3), "pool"))) == 1


MEMORY = """
import resource, sys
import numpy as np
import layertap
model = layertap.open(sys.argv[1])
rows = 0
image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
for batch in model.stream((image for _ in range(int(sys.argv[2]))), "relu", batch_size=4):
    rows += len(batch)
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    made = tiny.image_classifier(256, 256)
    file.write_bytes(made.SerializeToString())
    peaks = {}
    for count in (100, 1000):
        command = [sys.executable, "-c", MEMORY, str(file), str(count)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        rows, peak = map(int, done.stdout.split())
        assert rows == count
        peaks[count] = peak
    assert peaks[1000] < 1.1 * peaks[100], peaks
