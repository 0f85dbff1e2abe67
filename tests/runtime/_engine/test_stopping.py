"""Runs can be ended: by Ctrl-C and by a timeout, and the model can be used afterwards."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap._engine import stopping
from layertap._engine.stopping import stoppable, time_limit
from layertap.comparing.check import check
from layertap.errors import LayertapError, RunInterruptedError, RunTimeoutError, UsageError
from layertap.format.card import KEY, Card, Golden, GoldenInput, GoldenLayer
from shell import fresh
from shell import layertap as command

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")

SOON = 1.0
"""Within how many seconds a run must end."""


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return tiny.save(tiny.counting(), tmp_path / "endless.onnx")


LONG, SHORT = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)


@contextmanager
def soon(seconds: float = SOON) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@contextmanager
def after(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    """Do something after some time, unless the block has ended before."""
    timer = threading.Timer(seconds, do)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


RUNS: dict[str, Callable[[layertap.Model], object]] = {
    "predict": lambda model: model.predict(LONG, timeout=0.2),
    "activations": lambda model: model.activations(LONG, "y", timeout=0.2),
    "tap": lambda model: model.tap("y")(LONG, timeout=0.2),
    "resume": lambda model: model.resume({"x": LONG}, timeout=0.2),
    "edit": lambda model: model.edit(LONG, {"first": lambda value: value}, timeout=0.2),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_timeout_stops_a_run_and_the_model_can_be_used_again(name: str, endless: Path) -> None:
    model = layertap.open(endless)
    for _ in range(2):
        with soon(0.2 + SOON), pytest.raises(RunTimeoutError) as caught:
            RUNS[name](model)
        text = str(caught.value)
        assert text.startswith(f"running {str(endless)!r} on x (1, 1) float32")
        assert "took longer than the timeout of 0.2 s and was stopped." in text
        np.testing.assert_array_equal(model.predict(SHORT), [[1.0]])
    np.testing.assert_array_equal(model.predict(SHORT, timeout=60), [[1.0]])


def test_a_timeout_is_for_all_runs_of_a_call_together(tiny_file: Callable[[str], Path]) -> None:
    model = layertap.open(tiny_file("differentiable"))
    x = tiny.images(64)
    with pytest.raises(RunTimeoutError):
        model.cam(x, "conv", method="scorecam", mask="input", batch_size=1, timeout=0.02)
    with pytest.raises(RunTimeoutError):
        model.attribute(x, "smoothgrad", samples=200, batch_size=1, timeout=0.02)
    with pytest.raises(RunTimeoutError):
        model.gradients(x, timeout=1e-9)
    assert model.cam(x[:1], "conv", timeout=60).shape == (1, 1, 8, 6)


def test_limits_inside_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ends first counts."""
    monkeypatch.setattr(stopping, "_OWN", {__name__.partition(".")[0]})

    def run() -> None:
        stop = threading.Event()

        def call() -> None:
            assert stop.wait(10)
            raise ValueError("stopped")

        stoppable(call, stop.set, stop.clear, lambda: "waiting")

    for outer, inner in ((0.1, 5.0), (5.0, 0.1)):
        with soon(), pytest.raises(RunTimeoutError) as caught, time_limit(outer), time_limit(inner):
            run()
        assert "the timeout of 0.1 s" in str(caught.value)
    with time_limit(None):
        assert stoppable(lambda: 7, lambda: None, lambda: None, lambda: "") == 7


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2", True, [1]])
def test_timeouts_that_are_none(value: object, classifier: layertap.Model) -> None:
    with pytest.raises(UsageError, match="timeout must be a number of seconds greater than 0"):
        classifier.predict(tiny.images(), timeout=value)  # type: ignore[arg-type]


def test_errors_that_are_not_ours_pass_unchanged() -> None:
    def fail() -> None:
        raise ValueError("of the call")

    with pytest.raises(ValueError, match="of the call"), time_limit(60):
        stoppable(fail, lambda: None, lambda: None, lambda: "")


# --- Ctrl-C -------------------------------------------------------------------------------------


@posix
def test_ctrl_c_stops_a_run_in_the_main_thread(endless: Path) -> None:
    model = layertap.open(endless)
    for _ in range(2):
        with soon(0.2 + SOON), pytest.raises(KeyboardInterrupt), after(0.2, press):
            model.predict(LONG)
        np.testing.assert_array_equal(model.predict(SHORT), [[1.0]])


@posix
def test_ctrl_c_stops_runs_in_other_threads(endless: Path) -> None:
    model = layertap.open(endless)
    runs: list[Future[object]] = []

    def work() -> None:
        with ThreadPoolExecutor(2) as pool:
            runs.extend(pool.submit(model.predict, LONG) for _ in range(2))
            runs[0].result()

    with soon(0.3 + SOON), pytest.raises(KeyboardInterrupt), after(0.3, press):
        work()
    for one in runs:
        error = one.exception()
        assert isinstance(error, RunInterruptedError)
        assert str(error).endswith("was interrupted, because the process got Ctrl-C.")
    np.testing.assert_array_equal(model.predict(SHORT), [[1.0]])


@posix
def test_ctrl_c_ends_an_event_loop_and_its_threads(endless: Path) -> None:
    """The loop's own handler cancels the task; the run is stopped by the second Ctrl-C."""
    model = layertap.open(endless)

    async def main() -> None:
        await asyncio.to_thread(model.predict, LONG)

    ended = False
    with soon(0.9 + SOON), after(0.3, press), after(0.6, press), after(0.9, press):
        try:
            asyncio.run(main())
        except (KeyboardInterrupt, RunInterruptedError):
            ended = True
    assert ended


class Ender:
    """A handler with code of its own, as other packages install them."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error("ended")


@posix
@pytest.mark.parametrize("error", [LayertapError, TimeoutError, RuntimeError, ValueError])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
def test_a_handler_that_raises_ends_the_run(
    number: int, error: type[BaseException], endless: Path
) -> None:
    """Its exception comes out as it is, whatever its class."""

    def send() -> None:
        press(number)

    model = layertap.open(endless)
    before = signal.signal(number, Ender(error))
    try:
        with soon(0.2 + SOON), pytest.raises(error) as caught, after(0.2, send):
            model.predict(LONG, timeout=60)
        np.testing.assert_array_equal(model.predict(SHORT), [[1.0]])
    finally:
        signal.signal(number, before)
    assert type(caught.value) is error
    assert str(caught.value) == "ended"


@posix
def test_a_handler_that_raises_at_the_end_of_a_run(classifier: layertap.Model) -> None:
    """Then nothing was stopped, and the exception is the handler's nevertheless."""
    run, x = classifier.tap("conv"), tiny.images()
    run(x)

    def run_after(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        for _ in range(10**5):
            run(x)

    before = signal.signal(signal.SIGALRM, Ender(FloatingPointError))
    try:
        for delay in np.geomspace(1e-5, 3e-4, 200):
            with pytest.raises(FloatingPointError):
                run_after(delay)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(run(x)) == len(x)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1])
def test_a_handler_that_raises_nothing_does_not_change_the_result(number: int) -> None:
    """As Python's own system calls go on after it (PEP 475)."""
    model = layertap.open(tiny.counting(20_000).SerializeToString())
    expected = model.predict(LONG)
    seen: list[int] = []
    before = signal.signal(number, lambda *_: seen.append(1))
    try:
        with after(0.02, lambda: press(number)):
            np.testing.assert_array_equal(model.predict(LONG), expected)
    finally:
        signal.signal(number, before)
    assert seen == [1]


@posix
def test_another_owner_of_the_descriptor_gets_its_signals(endless: Path) -> None:
    """Such as an event loop."""
    model = layertap.open(endless)
    reading, writing = socket.socketpair()
    reading.settimeout(5)
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno())
    try:
        with pytest.raises(KeyboardInterrupt), after(0.2, press):
            model.predict(LONG)
        assert reading.recv(10) == bytes([signal.SIGINT])
        assert signal.set_wakeup_fd(before) == writing.fileno()
    finally:
        signal.set_wakeup_fd(before)
        reading.close()
        writing.close()


# --- The shell, and other processes -------------------------------------------------------------


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends(number: int, code: int, endless: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", LONG)
    argv = [sys.executable, "-m", "layertap", "run", str(endless), str(tmp_path / "x.npy")]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(number)
        with soon():
            _, err = process.communicate()
    assert process.returncode == code
    words = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert err == f"layertap: {words}; no file was left incomplete.\n"


def test_the_option_of_the_command_line(endless: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", LONG)
    done = fresh("run", endless, tmp_path / "x.npy", "--timeout", "0.5")
    assert (done.code, done.out) == (2, "")
    assert "took longer than the timeout of 0.5 s and was stopped" in done.err
    done = fresh("run", endless, tmp_path / "x.npy", "--timeout", "0")
    assert done.err == ("layertap: timeout must be a number of seconds greater than 0, got 0.0.\n")


@posix
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_watches_its_own_runs(endless: Path) -> None:
    """And its signals do not stop those of the parent."""
    program = f"""
        import multiprocessing, os, signal, sys, threading, time
        import numpy
        import layertap

        model = layertap.open({str(endless)!r}, threads=1)
        long, short = numpy.ones((1, 1), "float32"), numpy.zeros((1, 1), "float32")
        assert model.predict(short).item() == 1

        child = os.fork()
        if child == 0:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                model.predict(long)
            except KeyboardInterrupt:
                os._exit(7)
            os._exit(1)
        try:
            model.predict(long, timeout=1)
        except layertap.RunTimeoutError:
            print("stopped by its own timeout")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("stopped by its own timeout\n7\n", "")


def test_the_check_has_a_timeout(tmp_path: Path) -> None:
    golden = Golden(
        seed=0,
        inputs=(GoldenInput(name="x", shape=(1, 1), low=0.5, high=1.0),),
        layers={"y": GoldenLayer(shape=(1, 1), norm=1.0, scale=1.0, values=(1.0,))},
    )
    made = tiny.counting()
    (item,) = (item for item in made.metadata_props if item.key == KEY)
    item.value = replace(Card.from_json(item.value), golden=golden).to_json()
    file = tiny.save(made, tmp_path / "model.onnx")
    with soon(0.2 + SOON), pytest.raises(RunTimeoutError):
        check(layertap.open(file), timeout=0.2)
    done = command("check", file, "--timeout", "0.2")
    assert done.code == 2
    assert "timeout of 0.2 s" in done.err


def test_the_thread_ends_before_a_fork_and_starts_again(classifier: layertap.Model) -> None:
    classifier.predict(tiny.images())
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("layertap-stopping") == 1
    stopping._watcher.end()
    assert "layertap-stopping" not in [thread.name for thread in threading.enumerate()]
    classifier.predict(tiny.images())
    assert "layertap-stopping" in [thread.name for thread in threading.enumerate()]
    assert multiprocessing.active_children() == []
