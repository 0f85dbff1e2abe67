"""onnxruntime: the one module that imports it, chooses its device, and makes its errors readable.

onnxruntime's wheels carry telemetry from 1.29 on. It is switched off before the import
(`ORT_DISABLE_TELEMETRY=1`, unless the user has set the variable); after it, it would be too late.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from . import _devices
from ._graph import TensorType
from ._record import Record
from .errors import DependencyError, DeviceError, InputError, ModelFileError, UsageError, suggest

if TYPE_CHECKING:
    from pathlib import Path

Provider: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""An execution provider's name, alone or with its options, as onnxruntime takes it."""

LARGE = 100_000_000
"""Bytes of a file from which on weights stay in it: below, copying them costs next to nothing."""


def import_onnxruntime() -> Any:
    """The onnxruntime package, with its telemetry off.

    Raises:
        DependencyError: it is not installed, or its installation does not work.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ModuleNotFoundError as exc:
        if exc.name != "onnxruntime":
            raise _broken(exc) from exc
        raise DependencyError(
            'onnxruntime is not installed. Install it with `pip install "layertap[cpu]"`, or with '
            '`pip install "layertap[gpu]"` on a machine with an NVIDIA card.'
        ) from exc
    except Exception as exc:  # whatever a library that does not fit makes of its import
        raise _broken(exc) from exc
    if not hasattr(onnxruntime, "InferenceSession"):
        raise _broken(ImportError("the package is empty"))
    return onnxruntime


def _broken(exc: Exception) -> DependencyError:
    hint = "Reinstall it: `pip install --force-reinstall --no-deps onnxruntime`"
    if sys.platform == "win32":
        hint += ", and install the Microsoft Visual C++ Redistributable"
    return DependencyError(f"onnxruntime is installed but cannot be imported: {exc}. {hint}.")


def available_threads() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(Record):
    """How sessions are made.

    Raises:
        DeviceError: no such device.
        UsageError: settings that contradict each other.
    """

    device: str = "cpu"
    """A short name of `_devices`: `cpu`, `cuda:1`, ...; or `auto`."""
    providers: Sequence[Provider] | None = None
    """onnxruntime's own list of execution providers; then `device` is not consulted."""
    session_options: Any = None
    """An `onnxruntime.SessionOptions`, used as it is; or a mapping of its attributes and of
    configuration entries (keys with a dot), set on top of layertap's."""
    threads: int | None = None
    """Threads for one operation; `None` takes the cores that the process may use."""
    copy_weights: bool = False
    """Never leave weights in their files: sessions are independent of them."""
    share_weights: bool = False
    """Always leave weights in their files, and use them as they stand there: processes share
    them."""
    reproducible: bool = False
    """Run the graph as it stands, on one thread."""
    tf32: bool = False
    """Let CUDA round float32 to TF32."""
    prefer_nhwc: bool = False
    """Let CUDA convolve channels last."""

    def __post_init__(self) -> None:
        if self.share_weights and self.copy_weights:
            raise UsageError("share_weights=True and copy_weights=True cannot both be given.")
        options = self.session_options
        if self.share_weights and not (options is None or isinstance(options, Mapping)):
            raise UsageError(
                "share_weights=True sets session options, and session_options that are no dict are "
                'used as they are. Give a dict, or set "session.disable_prepacking" to "1" in them.'
            )
        if self.reproducible and not (options is None or isinstance(options, Mapping)):
            raise UsageError(
                "reproducible=True sets session options, and session_options that are no dict are "
                "used as they are. Give a dict."
            )
        if self.reproducible and self.threads not in (None, 1):
            raise UsageError(f"reproducible=True runs on one thread, and threads={self.threads!r}.")
        device = self.device
        if not isinstance(device, str):
            raise DeviceError(f"there is no device {device!r}. Give a name, as in 'cuda:0'.")
        if self.providers is not None and device != "cpu":
            raise UsageError(
                f"device={device!r} and providers={list(self.providers)!r} cannot both be given."
            )
        for name, option in (("tf32", "use_tf32"), ("prefer_nhwc", "prefer_nhwc")):
            if getattr(self, name) and device.partition(":")[0] not in ("cuda", "auto"):
                raise UsageError(
                    f"{name}=True is for device='cuda', and this is {device!r}."
                    if self.providers is None
                    else f"{name}=True and providers cannot both be given. Put {option} into the "
                    "options of CUDAExecutionProvider."
                )
        threads = self.threads
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise UsageError(f"threads={threads!r}: give a whole number from 1 up, or None.")


class Engine:
    """Makes sessions on one device."""

    def __init__(self, settings: Settings) -> None:
        """Finds the device; for `cpu` alone onnxruntime is not imported yet.

        Raises:
            DeviceError: it is not to be had.
        """
        self._settings = settings
        self.device = settings.device
        """The device in use: `cpu`, `cuda:0`, or the first provider's name in short."""
        self._providers: _devices.Providers = [(_devices.CPU.provider, {})]
        if settings.providers is not None:
            self._providers = _checked(settings.providers)
            self.device = self._providers[0][0].removesuffix("ExecutionProvider").lower()
        elif settings.device == "auto":
            try:
                self._use("cuda")
            except DeviceError:
                self.device = "cpu"
        elif settings.device != "cpu":
            self._use(settings.device)
        self.place = _devices.memory(self._providers)
        """The memory in which the device leaves results."""

    def _use(self, name: str) -> None:
        ort = import_onnxruntime()
        device, unit = _devices.find(name, ort.get_available_providers())
        _devices.check(ort, device, unit)
        settings = self._settings
        threads = settings.threads or available_threads()
        self.device = device.label(unit)
        self._providers = _devices.providers(
            device, unit, threads, settings.tf32, settings.prefer_nhwc
        )

    @property
    def maps_weights(self) -> bool:
        """Whether sessions may keep weights in files."""
        return not self._settings.copy_weights and supports_external_weights()

    @property
    def large_remedy(self) -> str:
        """What to do about weights that are too large to be copied."""
        if self._settings.copy_weights:
            return "Open it without copy_weights=True."
        return "From onnxruntime 1.21 on, weights stay in their files: upgrade it."

    def leaves_weights(self, size: int) -> bool:
        """Whether weights within a file of `size` bytes are to stay there.

        Raises:
            DependencyError: they are to be shared, and this onnxruntime cannot do so.
            UsageError: they are to be shared, and this device cannot do so.
        """
        share = self._settings.share_weights
        if share and not supports_external_weights():
            raise DependencyError(
                "share_weights=True needs onnxruntime 1.21 or newer, and this is "
                f"{import_onnxruntime().__version__}. Upgrade it."
            )
        if share and not _devices.maps(self._providers):
            raise UsageError(f"share_weights=True is not for device {self.device!r}.")
        mapped = self.maps_weights and _devices.maps(self._providers)
        return mapped and (share or size >= LARGE)

    def start(
        self,
        model: bytes,
        name: str,
        folder: Path | None,
        check: Callable[[], None] | None = None,
    ) -> Session:
        """Prepare `model` to run.

        Args:
            model: a whole ONNX model.
            name: what messages call it.
            folder: where the files are in which it keeps weights.
            check: called before each run; raises if those files are not what they were.

        Raises:
            ModelFileError: onnxruntime does not take the model.
            DeviceError: a provider that was asked for is not in use.
        """
        if _UNFORKABLE & _lost_providers & {name for name, _ in self._providers}:
            raise DeviceError(
                "CUDA cannot be used in a process that was forked from one that has used it. Start "
                'processes with multiprocessing.get_context("spawn").'
            )
        ort = import_onnxruntime()
        options = self._options(ort)
        if folder is not None:
            entry = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(entry, str(folder))
        try:
            session = ort.InferenceSession(
                model, options, providers=self._providers, enable_fallback=0
            )
        except Exception as exc:  # onnxruntime's errors have no common class but this
            raise ModelFileError(_refusal(ort, name, exc)) from exc
        missing = {name for name, _ in self._providers} - set(session.get_providers())
        if missing:
            raise DeviceError(
                f"onnxruntime {ort.__version__} runs {name} on {session.get_providers()[0]}, and "
                f"not on {', '.join(sorted(missing))} as asked."
            )
        # It keeps the bytes for ever, in case somebody changes the providers.
        with contextlib.suppress(AttributeError):
            session._model_bytes = None
        return Session(session, name, check, self.place)

    def _options(self, ort: Any) -> Any:
        given = self._settings.session_options
        if isinstance(given, ort.SessionOptions):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(
                f"session_options is a {type(given).__name__}. Give an "
                "onnxruntime.SessionOptions, or a dict of its attributes and configuration entries."
            )
        defaults = {
            "log_severity_level": _devices.SILENT,
            "intra_op_num_threads": self._settings.threads or available_threads(),
            # Threads that wait for the next run by spinning halve the speed of other sessions.
            "session.force_spinning_stop": "1",
        }
        if self._settings.share_weights:
            # Else each process packs weights anew, into memory of its own.
            defaults["session.disable_prepacking"] = "1"
        if self._settings.reproducible:
            # Fusions hang on what is an output; and sums may hang on the number of threads.
            defaults["graph_optimization_level"] = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            defaults["intra_op_num_threads"] = 1
        options = ort.SessionOptions()
        for key, value in {**defaults, **(given or {})}.items():
            _set_option(options, key, value)
        return options


def _set_option(options: Any, key: str, value: Any) -> None:
    known = [item for item in dir(options) if not item.startswith("_")]
    try:
        if "." in key:
            options.add_session_config_entry(key, str(value))
            return
        if key in known:
            setattr(options, key, value)
            return
    except Exception as exc:
        raise UsageError(f"session_options: {key} cannot be {value!r}: {exc}") from exc
    raise UsageError(
        f"session_options: onnxruntime.SessionOptions has no attribute {key!r}."
        + suggest(key, known)
    )


def supports_external_weights() -> bool:
    """Whether models given as bytes may keep weights in files (onnxruntime 1.21)."""
    return _version(import_onnxruntime()) >= (1, 21)


def _version(ort: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])


def give_back_memory() -> None:
    """Return to the system what glibc keeps for later: after a session was made, about twice the
    size of the model's weights."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # others do so by themselves
        ctypes.CDLL(None).malloc_trim(0)


class Session:
    """A model that is ready to run, from any number of threads."""

    def __init__(
        self,
        session: Any,
        name: str,
        check: Callable[[], None] | None = None,
        place: _devices.Place = _devices.HOST,
    ) -> None:
        self._session = session
        self._name = name
        self._check = check
        self._place = place
        _sessions.add(self)

    @property
    def lost(self) -> bool:
        """Whether this is a forked process, in which another one is needed."""
        return self._session is None

    def _lose(self) -> None:
        if self._session is not None:
            # Its threads did not come along, and to free it would wait for them, or crash.
            _lost_providers.update(self._session.get_providers())
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def output_type(self) -> TensorType:
        """What onnxruntime has inferred about the first output."""
        info = self._session.get_outputs()[0]
        dtype = re.sub(r"tensor\((\w+)\)", r"\1", info.type)
        dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
        return TensorType(dtype, tuple(info.shape))

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], on_device: bool = False
    ) -> list[Any]:
        """The values of `outputs`, in that order: arrays, or `OrtValue`s that stay on the device.

        Raises:
            InputError: the model cannot be run with these inputs.
            DeviceError: the memory does not suffice.
            ModelFileError: a file that holds weights was overwritten.
        """
        if self._check is not None:
            self._check()
        try:
            if on_device or any(hasattr(value, "data_ptr") for value in feeds.values()):
                return self._run_bound(outputs, feeds, on_device)
            values: list[Any] = self._session.run(outputs, feeds)
        except Exception as exc:  # onnxruntime's errors have no common class but this
            message = _devices.reason_of(exc)
            given = ", ".join(f"{name} {_shape(value)}" for name, value in feeds.items())
            if re.search(r"allocat|out of memory|bad_alloc", message, re.IGNORECASE):
                raise DeviceError(
                    f"there is not enough memory to run {self._name} on {given}. Give smaller "
                    f"batches. onnxruntime says: {message}"
                ) from exc
            raise InputError(
                f"onnxruntime could not run {self._name} on {given}. It says: {message}"
            ) from exc
        return values

    def _run_bound(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], on_device: bool
    ) -> list[Any]:
        """The same with inputs or outputs that are in the device's memory."""
        from ._on_device import is_ortvalue, shareable

        binding = self._session.io_binding()
        for name, value in feeds.items():
            bind = binding.bind_ortvalue_input if is_ortvalue(value) else binding.bind_cpu_input
            bind(name, value)
        for name in outputs:
            binding.bind_output(name, *(self._place if on_device else _devices.HOST))
        # Other libraries compute in queues of their own, and may not have finished what they gave.
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        values = binding.get_outputs()
        return [shareable(value) if on_device else value.numpy() for value in values]


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
"""All sessions that there are in this process."""

_lost_providers: set[str] = set()
"""Execution providers that were in use in the process that this one was forked from."""

_UNFORKABLE = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})
"""Those whose driver does not survive a fork."""


def _after_fork() -> None:
    """In a forked process: let go of all sessions, and of locks that other threads held."""
    for session in list(_sessions):
        session._lose()
    for cache in list(_caches):
        cache._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _shape(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def _checked(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """onnxruntime's own list of providers, each of them one that it has."""
    ort = import_onnxruntime()
    pairs = [
        (item, {}) if isinstance(item, str) else (item[0], dict(item[1])) for item in providers
    ]
    available = ort.get_available_providers()
    for name, _ in pairs:
        if name not in available:
            raise DeviceError(
                f"the installed onnxruntime {ort.__version__} has no {name!r}; it has "
                f"{', '.join(available)}.{suggest(str(name), available)}"
            )
    if not pairs:
        raise UsageError("providers is empty; leave it out for the CPU.")
    return pairs


# --- onnxruntime's errors -----------------------------------------------------------------------


def _refusal(ort: Any, name: str, exc: Exception) -> str:
    message = _devices.reason_of(exc)
    upgrade = f"Upgrade onnxruntime (this is {ort.__version__}), or export with an older opset."
    found = re.search(r"IR version: (\d+), max supported IR version: (\d+)", message)
    if found:
        return (
            f"{name} is written in ONNX IR version {found[1]}, and the installed onnxruntime reads "
            f"up to {found[2]}. {upgrade}"
        )
    found = re.search(r"Opset (\d+) is under .* domain (\S+) is till opset (\d+)", message)
    if found:
        return (
            f"{name} uses opset {found[1]} of {found[2]}, and the installed onnxruntime knows up "
            f"to {found[3]}. {upgrade}"
        )
    return f"onnxruntime {ort.__version__} does not take {name}. It says: {message}"


# --- The cache ----------------------------------------------------------------------------------

T = TypeVar("T")


class Cache(Generic[T]):
    """Keeps the last few things made; what many threads ask for at once is made once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._forget()
        _caches.add(self)

    def _forget(self) -> None:
        self._slots: OrderedDict[Hashable, _Slot[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for `key`; made now if it is not here."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._size:
                self._slots.popitem(last=False)
        with slot.lock:
            if not slot.made:
                slot.made.append(make())
            return slot.made[0]


class _Slot(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[T] = []


_caches: weakref.WeakSet[Cache[Any]] = weakref.WeakSet()
"""All caches that there are in this process."""
