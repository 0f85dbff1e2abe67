"""Stops native runs: on a signal such as Ctrl-C, and when their time is over.

While onnxruntime computes, Python cannot react to a signal: its handlers run in the main thread
when the native call has returned. But the system's handler writes the signal's number to a file
descriptor at once (`signal.set_wakeup_fd`). A thread reads it and sets `terminate` in the options
of the runs, which onnxruntime looks at between two operators. Then the call returns, and Python's
own handler is run as usual: that of Ctrl-C raises `KeyboardInterrupt`. If a handler raises nothing,
the run is repeated, as Python repeats system calls (PEP 475).

A run costs about two microseconds more by this. The thread is started by the first run, and ends
before a fork.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from layertap._log import timed, wanted
from layertap.errors import RunInterruptedError, RunTimeoutError, UsageError

T = TypeVar("T")

SIGNALS = frozenset(
    getattr(signal, name).value
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    if hasattr(signal, name)
)
"""The signals that stop a run. A signal without a handler in Python ends the process anyway."""


LONGEST = 1e6
"""Seconds; the system cannot wait for much longer."""


class _Run:
    """A native call that can be stopped."""

    __slots__ = ("deadline", "expired", "in_main", "seen", "stop", "stopped_by", "unheeded")

    def __init__(self, stop: Callable[[], None], in_main: bool, deadline: float | None) -> None:
        self.stop = stop
        self.in_main = in_main
        self.deadline = deadline
        self.expired = False
        self.stopped_by: int | None = None
        self.seen = 0
        self.unheeded: set[int] = set()

    def signalled(self, number: int) -> None:
        """React to a signal that the process got."""
        if number not in SIGNALS or number in self.unheeded:
            return
        if not self.in_main:
            # Its exception is raised in the main thread, which may wait for this one. A handler
            # that does something else, such as a server's, is only overridden by a second Ctrl-C.
            self.seen += number == signal.SIGINT
            handler = signal.getsignal(signal.SIGINT)
            raises = handler is signal.default_int_handler or hasattr(handler, "raises_interrupt")
            if number != signal.SIGINT or not (raises or self.seen > 1):
                return
        self.stopped_by = number
        self.stop()

    def expire(self) -> None:
        """React to the end of its time."""
        self.expired = True
        self.stop()


class _Watcher:
    """The thread that stops runs, and the file descriptors that wake it up."""

    def __init__(self) -> None:
        self.runs: dict[int, _Run] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._others = -1

    def add(self, run: _Run) -> None:
        """Watch a run from now on."""
        self.runs[id(run)] = run
        if self._thread is None:
            self._start()
        if run.in_main:
            self._take_signals()
        if run.deadline is not None:
            self._wake()

    def remove(self, run: _Run) -> None:
        """Watch a run no longer."""
        self.runs.pop(id(run), None)
        if run.in_main and self._others >= 0:
            self._return_signals()

    def end(self) -> None:
        """End the thread, before a fork."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._wake(_END)
                thread.join()

    def resume(self) -> None:
        """Start the thread again after a fork, if there are runs to watch."""
        if self.runs:
            self._start()

    def forget(self) -> None:
        """In a forked process: leave the file descriptors to the parent."""
        ends, taken = self._ends, self._others
        self.__init__()  # type: ignore[misc]
        if ends is not None:
            if signal.set_wakeup_fd(-1) != ends[1].fileno():
                signal.set_wakeup_fd(taken)
            for end in ends:
                end.close()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            if self._ends is None:
                self._ends = socket.socketpair()
                self._ends[1].setblocking(False)
            reading = self._ends[0]
            reading.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # signals from before
                reading.recv(4096)
            thread = threading.Thread(
                target=self._watch, args=(reading,), name="layertap-stopping", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # while Python ends, there are no new threads
                thread.start()
                self._thread = thread

    def _take_signals(self) -> None:
        """Let signals wake this thread up; they are passed on to another owner's descriptor."""
        assert self._ends is not None
        ours = self._ends[1].fileno()
        try:
            before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        except ValueError:  # in a subinterpreter
            return
        self._others = -1 if before == ours else before

    def _return_signals(self) -> None:
        signal.set_wakeup_fd(self._others)
        self._others = -1

    def _wake(self, message: bytes = b"\0") -> None:
        if self._ends is not None:
            with contextlib.suppress(BlockingIOError):
                self._ends[1].send(message)

    def _watch(self, reading: socket.socket) -> None:
        while True:
            limits = [run.deadline for run in [*self.runs.values()] if run.deadline is not None]
            reading.settimeout(max(0.0, min(limits) - time.monotonic()) if limits else None)
            try:
                received = reading.recv(4096)
            except (TimeoutError, BlockingIOError):
                received = b""
            if _END in received:
                return
            others = self._others
            if others >= 0 and received.strip(b"\0"):
                with contextlib.suppress(OSError):
                    os.write(others, received.replace(b"\0", b""))
            now = time.monotonic()
            for run in [*self.runs.values()]:
                for number in received:
                    run.signalled(number)
                if run.deadline is not None and run.deadline <= now:
                    run.deadline = None
                    run.expire()


_END = b"\xff"
"""The message that ends the thread; no signal has this number."""

_watcher = _Watcher()
_local = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_watcher.end,
        after_in_parent=_watcher.resume,
        after_in_child=_watcher.forget,
    )


class _Limit(NamedTuple):
    """When the time of a thread's runs is over."""

    ends: float
    seconds: float
    advice: str


ADVICE = "Give a longer timeout, or smaller batches. The model can be used again."
"""What to do after a run that took too long."""


def check_timeout(seconds: object) -> float:
    """A timeout as a number of seconds.

    Raises:
        UsageError: it is not a positive number.
    """
    try:
        limit = float(seconds)  # type: ignore[arg-type]
        valid = 0 < limit < math.inf and not isinstance(seconds, (bool, str, bytes))
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise UsageError(f"timeout must be a number of seconds greater than 0, got {seconds!r}.")
    return limit


@contextmanager
def time_limit(seconds: float | None, advice: str = ADVICE) -> Iterator[None]:
    """Stop the runs of this thread that are still going on after some time.

    Args:
        seconds: the time for all runs in the block together; `None` for no limit.
        advice: the last sentences of the error.

    Raises:
        RunTimeoutError: the time was over before the last run had finished.
        UsageError: it is not a positive number.
    """
    if seconds is None:
        yield
        return
    limit = check_timeout(seconds)
    before: _Limit | None = getattr(_local, "limit", None)
    own = _Limit(time.monotonic() + min(limit, LONGEST), limit, advice)
    _local.limit = own if before is None else min(before, own)
    try:
        yield
    finally:
        _local.limit = before


STOPPED = (RunTimeoutError, RunInterruptedError)
"""The errors of runs that were stopped, which are not the model's."""


def time_left(what: str = "this step") -> float:
    """Seconds until the `time_limit` of this thread ends; infinite without one.

    Args:
        what: what was done last, for the error.

    Raises:
        RunTimeoutError: it has ended.
    """
    limit: _Limit | None = getattr(_local, "limit", None)
    if limit is None:
        return math.inf
    left = limit.ends - time.monotonic()
    if left <= 0:
        raise _timeout(what, limit)
    return left


def start_stoppably(start: Callable[[], T], options: Any, name: str) -> T:
    """Make a session so that Ctrl-C and the end of its time stop it.

    onnxruntime can be stopped while it loads a model if its session options have a flag for that;
    1.32 has.

    Args:
        start: makes the session.
        options: its `onnxruntime.SessionOptions`.
        name: the model's name in messages.

    Raises:
        RunTimeoutError: see `stoppable`.
        RunInterruptedError: see there.
        Exception: onnxruntime's own error, if it refuses the model.
    """
    cancel = getattr(options, "set_load_cancellation_flag", lambda _: None)
    try:
        return stoppable(
            start, lambda: cancel(True), lambda: cancel(False), lambda: f"loading {name}"
        )
    finally:
        cancel(False)


def run_stoppably(
    run: Callable[[Any], T], make_options: Callable[[], Any], what: Callable[[], str]
) -> T:
    """Run a session so that Ctrl-C and the end of its time stop it.

    Args:
        run: runs it with the options.
        make_options: onnxruntime's class `RunOptions`.
        what: gives what it does, for messages.

    Raises:
        RunTimeoutError: see `stoppable`.
        RunInterruptedError: see there.
    """
    options = make_options()

    def renew() -> None:
        nonlocal options
        options = make_options()

    def stop() -> None:
        options.terminate = True

    return stoppable(lambda: run(options), stop, renew, what)


def stoppable(
    call: Callable[[], T],
    stop: Callable[[], None],
    renew: Callable[[], None],
    what: Callable[[], str],
) -> T:
    """Make a native call that a signal, or the end of its time, stops.

    Args:
        call: makes the call. It raises an exception if it was stopped.
        stop: stops it; called in another thread.
        renew: called before the call is made again.
        what: gives what it does, for messages: `running 'chest.onnx'`.

    Raises:
        RunTimeoutError: it took longer than its `time_limit`.
        RunInterruptedError: Ctrl-C was pressed while it ran in another thread than the main one.
        KeyboardInterrupt: Ctrl-C was pressed while it ran in the main thread.
        Exception: of the handler of a signal, unchanged; or of the call.
    """
    if wanted():
        call = timed(call, what)
    limit: _Limit | None = getattr(_local, "limit", None)
    in_main = threading.get_ident() == _main_thread()
    run = _Run(stop, in_main, limit.ends if limit else None)
    while True:
        if limit is not None and limit.ends <= time.monotonic():
            raise _timeout(what(), limit)
        try:
            _watcher.add(run)
            return call()
        except Exception as exc:
            if raised_by_handler(exc):
                raise
            if run.expired and limit is not None:
                raise _timeout(what(), limit) from exc
            if run.stopped_by is None:
                raise
            if not in_main:
                raise RunInterruptedError(
                    f"{what()} was interrupted, because the process got Ctrl-C."
                ) from exc
        finally:
            try:
                _watcher.remove(run)
            except BaseException:  # of a signal's handler, which may run at any call
                _watcher.remove(run)
                raise
        # The handler of the signal has been run by now, and has not raised an exception.
        if run.stopped_by != signal.SIGINT:
            run.unheeded.add(run.stopped_by)
        run.stopped_by = None
        renew()


def raised_by_handler(exc: BaseException) -> bool:
    """Whether a signal's handler raised an exception that came out of a native call.

    The handler is the only code in such a call that is neither ours nor onnxruntime's. It runs in
    the main thread.
    """
    if threading.get_ident() != _main_thread():
        return False
    traceback, module = exc.__traceback__, ""
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__"))
        traceback = traceback.tb_next
    return module.partition(".")[0] not in _OWN


_OWN = frozenset({"layertap", "onnxruntime", "numpy"})
"""The packages whose functions run while onnxruntime is called."""


def _main_thread() -> int | None:
    return threading.main_thread().ident


def _timeout(what: str, limit: _Limit) -> RunTimeoutError:
    return RunTimeoutError(
        f"{what} took longer than the timeout of {limit.seconds:g} s and was stopped. "
        + limit.advice
    )
