"""One model in many threads and processes; copies; runs that repeat bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import layertap
from generators import tiny
from generators.tiny import images
from layertap._engine import session as session_module
from layertap._engine.engine import Engine
from layertap._engine.program import program_of
from layertap._engine.settings import Settings

TinyFile = Callable[[str], Path]
RUNTIME = Path(layertap.__file__).parents[1]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# --- Copies -------------------------------------------------------------------------------------


def test_contiguous_arrays_on_request(classifier: layertap.Model) -> None:
    x = images()
    plain = classifier.activations(x, ["conv", "probs"])
    assert not plain["conv"].flags.c_contiguous
    for found in (
        classifier.activations(x, ["conv", "probs"], contiguous=True),
        classifier.tap(["conv", "probs"], contiguous=True)(x),
    ):
        assert all(value.flags.c_contiguous for value in found.values())
        np.testing.assert_array_equal(found["conv"], plain["conv"])
    assert np.shares_memory(classifier.activations(x, "image", contiguous=True), x)


# --- The same numbers every time ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["image_classifier", "linear_chain", "two_inputs", "residual"])
def test_reproducible_values_do_not_depend_on_the_other_requests(
    tiny_file: TinyFile, name: str
) -> None:
    model = layertap.open(tiny_file(name), reproducible=True)
    feeds = tiny.feeds(getattr(tiny, name)())
    together = model.activations(feeds)
    for layer, wanted in together.items():
        np.testing.assert_array_equal(model.activations(feeds, layer), wanted, strict=True)


def test_reproducible_sessions_run_the_graph_as_it_stands(
    tiny_file: TinyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    start = onnxruntime.InferenceSession

    def spy(model: bytes, options: Any, **more: Any) -> Any:
        made.append(options)
        return start(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    layertap.open(tiny_file("linear_chain"), reproducible=True).tap("a")
    layertap.open(tiny_file("linear_chain"), threads=3).tap("a")
    levels = onnxruntime.GraphOptimizationLevel
    assert [(one.graph_optimization_level, one.intra_op_num_threads) for one in made] == [
        (levels.ORT_DISABLE_ALL, 1),
        (levels.ORT_ENABLE_ALL, 3),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 2}, "reproducible=True runs on one thread, got threads=2."),
        (
            {"session_options": onnxruntime.SessionOptions()},
            "reproducible=True sets session options, and an onnxruntime.SessionOptions is used "
            "unchanged. Give a dict.",
        ),
    ],
)
def test_settings_that_contradict_each_other(
    tiny_file: TinyFile, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        layertap.open(tiny_file("linear_chain"), reproducible=True, **options)
    assert str(caught.value) == message


# --- Threads ------------------------------------------------------------------------------------


def test_sixteen_threads_with_mixed_cuts(tiny_file: TinyFile) -> None:
    """Bit for bit what one thread gets; more cuts than sessions are kept."""
    model = layertap.open(tiny_file("image_classifier"), threads=1)
    relu = model.activations(images(), "relu")
    calls: list[Callable[[], Any]] = [
        lambda: model.activations(images(), "conv"),
        lambda: model.activations(images(3), ["probs", "relu"]),
        lambda: model.activations(images(1), {"relu": "mean", "conv": "top2"}),
        lambda: model.activations(images(), "pool", dtype="float16"),
        lambda: model.resume({"relu": relu}),
        lambda: model.resume({"relu": relu}, {"pool": "mean_l2"}),
        lambda: model.edit(images(), {"conv": np.negative}, ["relu", "probs"]),
        lambda: model.predict(images(4)),
    ]
    alone = [list(flat(call())) for call in calls]
    failures: list[BaseException] = []
    barrier = threading.Barrier(16, timeout=30)

    def work(offset: int) -> None:
        try:
            barrier.wait()
            for i in range(3 * len(calls)):
                which = (i * (1 + offset % 3) + offset) % len(calls)
                for found, wanted in zip(flat(calls[which]()), alone[which], strict=True):
                    np.testing.assert_array_equal(found, wanted, strict=True)
        except BaseException as exc:  # noqa: BLE001 - for the test to see, whatever it is
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def flat(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for one in value:
            yield from flat(one)
    else:
        yield value


# --- Processes ----------------------------------------------------------------------------------


def test_a_model_is_pickled_as_its_path(
    tiny_file: TinyFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tiny_file("image_classifier")
    monkeypatch.chdir(path.parent)
    model = layertap.open(path.name, threads=1, session_options={"enable_mem_pattern": False})
    wanted = model.activations(images(), "relu")
    data = pickle.dumps(model)
    assert len(data) < 1000
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(data)
    assert copy.path == path
    assert program_of(copy).settings == program_of(model).settings
    np.testing.assert_array_equal(copy.activations(images(), "relu"), wanted)


def test_a_model_from_bytes_is_pickled_as_them() -> None:
    model = layertap.open(tiny.linear_chain().SerializeToString())
    copy = pickle.loads(pickle.dumps(model))
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(copy.predict(x), model.predict(x))


def test_a_tap_is_pickled_as_what_it_asks_for(classifier: layertap.Model) -> None:
    tap = classifier.tap({"relu": "mean", "conv": None}, dtype="float16", contiguous=True)
    copy = pickle.loads(pickle.dumps(tap))
    found, wanted = copy(images()), tap(images())
    assert list(found) == ["relu", "conv"]
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)
    assert copy.layers == tap.layers
    assert found["conv"].flags.c_contiguous


def test_session_options_that_cannot_be_pickled(tiny_file: TinyFile) -> None:
    options = onnxruntime.SessionOptions()
    model = layertap.open(tiny_file("linear_chain"), session_options=options)
    with pytest.raises(layertap.UsageError) as caught:
        pickle.dumps(model)
    assert str(caught.value) == (
        "a model with an onnxruntime.SessionOptions cannot be pickled. Give session_options as a "
        "dict."
    )


def test_a_pool_of_fresh_processes(classifier: layertap.Model) -> None:
    """With the models and taps shipped as arguments."""
    tap = classifier.tap("probs")
    batches = [images(1, seed) for seed in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(tap, batches)
    for value, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(value, tap(batch))


FORKING = """
import os, signal, sys, threading
import numpy as np
import layertap

model = layertap.open(sys.argv[1], threads=4)
x = np.ones((2, 8, 6, 3), np.float32)
tap = model.tap(["relu", "probs"])
wanted = tap(x)["probs"]
used = threading.Event()
stop = threading.Event()

def keep_busy():
    while not stop.is_set():
        model.activations(x, "conv")
        used.set()

thread = threading.Thread(target=keep_busy)
thread.start()
used.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # a hang ends as a failure
    assert np.array_equal(tap(x)["probs"], wanted)
    assert np.array_equal(model.tap(["relu", "probs"])(x)["probs"], wanted)
    assert model.activations(x, "conv").shape == (2, 8, 6, 4)
    del tap, model
    {leave}
stop.set()
thread.join()
status = os.waitpid(child, 0)[1]
assert np.array_equal(tap(x)["probs"], wanted)
print(status)
"""


@forks
@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_a_forked_process_gets_sessions_of_its_own(tiny_file: TinyFile, leave: str) -> None:
    """While a thread of the parent is at work; and the child ends without a crash or a hang."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKING).replace("{leave}", leave),
         str(tiny_file("image_classifier"))],
        env={**os.environ, "PYTHONPATH": str(RUNTIME)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


CACHED = """
import os

from layertap._engine.program import Program  # imports the modules in the usual order
from layertap._engine.cache import Cache
from layertap._engine.session import Session

freed = []

class Inner:
    def get_providers(self):
        return []

    def __del__(self):
        freed.append(self)

cache = Cache(1)
cache.get("key", lambda: Session(Inner(), "model", object))
child = os.fork()
if child == 0:
    os._exit(len(freed))
print(os.waitpid(child, 0)[1])
"""


@forks
def test_a_session_that_only_a_cache_holds_is_not_freed_in_a_forked_process() -> None:
    """Freeing onnxruntime's session waits there for threads that do not exist."""
    done = subprocess.run(
        [sys.executable, "-c", CACHED],
        env={**os.environ, "PYTHONPATH": str(RUNTIME)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


def test_cuda_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_lost_providers", set())
    monkeypatch.setattr(session_module, "_sessions", set())
    monkeypatch.setattr("layertap._engine.cache._caches", set())

    class OnCuda:
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    session = session_module.Session(OnCuda(), "the model", object)
    engine = Engine(Settings())
    engine._providers = [("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {})]
    session_module._after_fork()
    assert session.lost
    with pytest.raises(layertap.DeviceError) as caught:
        engine.start(b"", "the model", None)
    assert str(caught.value) == (
        "CUDA cannot be used in a process that was forked from one that has used it. Start "
        'processes with multiprocessing.get_context("spawn").'
    )
