"""A user's own function that reads images, in processes of its own.

A process reads one image at a time: so the images of all threads are read at once, and a process
that ends is known by the image that it read. Whichever thread is next takes a process that is idle.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from layertap.errors import ImageError, UsageError
from layertap.format.text import class_text

from .archives import pixels
from .items import Data, Items
from .sequences import one_line_reason


class Reader:
    """A function that makes an image of a path, or of bytes."""

    def __init__(self, given: str | Callable[[Any], Any]) -> None:
        """
        Args:
            given: `MODULE:FUNCTION`, or a function at the top level of a module.

        Raises:
            UsageError: there is no such function, or another process cannot find it.
        """
        function = _imported(given) if isinstance(given, str) else given
        if not callable(function):
            raise UsageError(
                f"a reader is a function of a path, or MODULE:FUNCTION, got {class_text(given)}."
            )
        try:
            self._pickled = pickle.dumps(function)
        except Exception as exc:  # pickle raises what it likes
            raise UsageError(
                "a reader runs in processes of its own, which must be able to import it: give a "
                f"function at the top level of a module, got {function!r}."
            ) from exc
        # What is in the script itself is found by running the script once more.
        self._imports = b"__main__" not in self._pickled
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.name = given if isinstance(given, str) else f"{function.__module__}:{name}"
        """`MODULE:FUNCTION`."""
        self.sha256 = _file_hash(function)
        """Of the file that it is defined in; empty if it has none."""
        self._idle: list[ProcessPoolExecutor] = []
        self._lock = threading.Lock()

    def __call__(self, given: Any) -> Any:
        """What the function returns for a path or bytes: a PIL image or an array.

        Raises:
            ImageError: it raised an exception, returned something else, or its process ended; the
                message is the reason alone.
        """
        with self._lock:
            pool = self._idle.pop() if self._idle else None
        if pool is None:
            context = _Spawning() if self._imports else get_context("spawn")
            pool = ProcessPoolExecutor(1, context, initializer=_end_with_parent)
        broken = False
        try:
            kind, found = pool.submit(_read, self._pickled, given).result()
        except BrokenProcessPool as exc:
            broken = True
            pool.shutdown(wait=False)
            raise ImageError(
                f"the process of the reader {self.name} ended while it read this."
                + (
                    " If that happens to every image, the script that starts it may lack "
                    '`if __name__ == "__main__":`.'
                )
                * (not self._imports)
            ) from exc
        finally:
            if not broken:
                with self._lock:
                    self._idle.append(pool)
        if kind == "error":
            raise ImageError(f"the reader {self.name} {found}")
        if not isinstance(found, (np.ndarray, Image.Image)):
            raise ImageError(
                f"the reader {self.name} returned {found}, and it must return a PIL image or an "
                "array."
            )
        return found

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            for pool in self._idle:
                pool.shutdown(wait=True, cancel_futures=True)
            self._idle.clear()


class _Process(SpawnProcess):
    """A process that does not run the script of its parent.

    Otherwise a script without `if __name__ == "__main__":` would do all of its work again.
    """

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - the name in multiprocessing
        with _starting:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process)
            finally:
                sys.modules["__main__"] = script


class _Spawning(SpawnContext):
    Process = _Process


_starting = threading.Lock()


def _imported(text: str) -> Any:
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise UsageError(f"a reader is given as MODULE:FUNCTION, got {text!r}.")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as exc:  # the module's own code may raise anything
        raise UsageError(
            f"the reader {text!r} cannot be imported "
            f"({one_line_reason(exc, 'importing it raised').rstrip('.')}). The module must be "
            "installed, or in a folder of PYTHONPATH."
        ) from exc
    return found


def _file_hash(function: Any) -> str:
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
        return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest() if file else ""
    except (TypeError, OSError, ValueError):
        return ""


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it did."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read(pickled: bytes, given: Any) -> tuple[str, Any]:
    """Call the function, in its process."""
    try:
        found = pickle.loads(pickled)(given)
        if isinstance(found, Image.Image):
            found.load()
        elif hasattr(found, "__array__"):
            found = np.asarray(found)
        else:
            found = class_text(found)
        pickle.dumps(found)
    except BaseException as exc:  # noqa: BLE001 - someone else's code
        return "error", one_line_reason(exc, "raised")
    return "image", found


class ReaderItems(Items):
    """Items whose images a reader makes."""

    def __init__(self, inner: Items, reader: Reader, *, ready: bool) -> None:
        """
        Args:
            inner: the files or bytes.
            reader: makes an image of each.
            ready: whether what the reader returns is ready for the model.
        """
        self._inner, self.reader = inner, reader
        self.items, self.ready = inner.items, ready

    def read(self, row: int) -> Data:
        """What the reader makes of a file's path, or of other bytes."""
        data = self._inner.read(row)
        found = self.reader(self._inner.path(row) or data.content)
        if isinstance(found, Image.Image):
            if self.ready:
                found = np.asarray(found)
            return Data(found, data.sha256)
        if self.ready or found.dtype.kind not in "iu":
            return Data(found, data.sha256)
        return Data(pixels(found), data.sha256)

    def close(self) -> None:
        """Close the files and end the processes."""
        self._inner.close()
        self.reader.close()
