"""The errors that layertap raises on purpose, to be read by people and caught by programs.

    LayertapError
    +-- ModelFileError          the .onnx file cannot be used
    |   `-- CardVersionError    its card was written by a newer layertap
    +-- LayerNotFoundError      no such layer, or nothing matches (also a KeyError)
    +-- InputError              an input of the wrong rank, size or dtype (also a ValueError)
    +-- ImageError              a file or object that cannot be read as an image (also a ValueError)
    +-- PreprocessingError      an invalid preprocessing recipe (also a ValueError)
    +-- DeviceError             the requested device or execution provider is not available
    +-- RunTimeoutError         a run took longer than its timeout (also a TimeoutError)
    +-- RunInterruptedError     a run in another thread was stopped by Ctrl-C
    +-- DependencyError         a package that this step needs is missing (also an ImportError)
    +-- OutputError             a result could not be written
    +-- CollectionError         a folder is no collection, or it is damaged
    |   +-- CollectionMismatchError   it was begun with something else
    |   `-- CollectionBusyError       another process writes to it
    +-- UsageError              an invalid option or argument (also a ValueError)
    `-- ExportError             in layertap_export, with subclasses of its own

Warnings from layertap are `LayertapWarning`s.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._escaping import one_line
from ._public import public


@public
class LayertapError(Exception):
    """The root of every error that layertap raises on purpose.

    Its text is one line without control characters, whatever a file has put into it.
    """

    def __str__(self) -> str:
        # KeyError would print the message in quotes.
        return one_line(str(self.args[0])) if self.args else ""


@public
class ModelFileError(LayertapError):
    """The `.onnx` file cannot be used; the message names the file and the reason."""


@public
class CardVersionError(ModelFileError):
    """The file's card has a newer major format version than this layertap reads."""


@public
class LayerNotFoundError(LayertapError, KeyError):
    """A layer name, index or pattern that selects nothing."""


@public
class InputError(LayertapError, ValueError):
    """An input whose rank, size, dtype or name does not fit the model."""


@public
class ImageError(LayertapError, ValueError):
    """A file, byte string or object that cannot be read as an image."""


@public
class PreprocessingError(LayertapError, ValueError):
    """A preprocessing recipe with an unknown key or an invalid value."""


@public
class DeviceError(LayertapError):
    """The requested device or execution provider is not available; the message says why."""


@public
class RunTimeoutError(LayertapError, TimeoutError):
    """A run took longer than its timeout and was stopped; the model can be used again."""


@public
class RunInterruptedError(LayertapError):
    """A run was stopped because Ctrl-C was pressed while it was in another thread than the main
    one; in the main thread, Ctrl-C raises `KeyboardInterrupt`."""


@public
class DependencyError(LayertapError, ImportError):
    """A package that this step needs is not installed; the message says what to install."""


@public
class OutputError(LayertapError):
    """A result could not be written. A file that was there before is unchanged."""


@public
class CollectionError(LayertapError):
    """A folder that is not a collection, is damaged, or was written by a newer layertap."""


@public
class CollectionMismatchError(CollectionError):
    """A collection was begun with another model, recipe or list of items; the message says which.

    Also shards that do not belong together, when they are merged.
    """


@public
class CollectionBusyError(CollectionError):
    """Another process writes to the collection; the message names it."""


@public
class UsageError(LayertapError, ValueError):
    """An invalid option or argument; the message says what is valid."""


@public
class LayertapWarning(UserWarning):
    """Something worth knowing that does not stop the call.

    Its text is one line without control characters, as that of errors is.
    """

    def __str__(self) -> str:
        return one_line(str(self.args[0])) if self.args else ""


_COMPARED, _LONGEST = 10_000, 300
"""Most names that are compared, and their most characters: the time grows with both."""


def suggest(name: str, known: Sequence[str]) -> str:
    """` Did you mean 'a', 'b'?` with up to three similar names, or an empty string.

    Capitals do not count.
    """
    import difflib

    short: dict[str, str] = {}
    for one in known[:_COMPARED]:
        if len(one) <= _LONGEST:
            short.setdefault(one.lower(), one)
    found = difflib.get_close_matches(name[:_LONGEST].lower(), list(short), n=3, cutoff=0.5)
    near = [short[one] for one in found]
    return f" Did you mean {', '.join(map(repr, near))}?" if near else ""


def install_hint(*extras: str) -> str:
    """How to install extras of layertap, which is on no package index: from a checkout of it."""
    return f'`pip install ".[{",".join(extras)}]"` in a checkout of layertap'
