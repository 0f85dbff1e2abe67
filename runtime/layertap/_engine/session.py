"""Sessions on one device, and onnxruntime's errors in words that help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layertap.errors import (
    DependencyError,
    DeviceError,
    InputError,
    ModelFileError,
    UsageError,
    suggest,
)
from layertap.format.graph import TensorType

from . import devices

if TYPE_CHECKING:
    from pathlib import Path

from layertap.format.limits import MAPPED_BYTES

from .library import (
    available_threads,
    import_onnxruntime,
    supports_external_weights,
)
from .settings import Provider, Settings


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
        self._providers: devices.Providers = [(devices.CPU.provider, {})]
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
        self.memory = devices.memory(self._providers)
        """The memory in which the device leaves results."""

    def _use(self, name: str) -> None:
        ort = import_onnxruntime()
        device, unit = devices.find(name, ort.get_available_providers())
        devices.check(ort, device, unit)
        settings = self._settings
        threads = settings.threads or available_threads()
        self.device = device.label(unit)
        self._providers = devices.providers(
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
        if share and not devices.maps(self._providers):
            raise UsageError(f"share_weights=True is not for device {self.device!r}.")
        mapped = self.maps_weights and devices.maps(self._providers)
        return mapped and (share or size >= MAPPED_BYTES)

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
        return Session(session, name, check, self.memory)

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
            "log_severity_level": devices.SILENT,
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


class Session:
    """A model that is ready to run, from any number of threads."""

    def __init__(
        self,
        session: Any,
        name: str,
        check: Callable[[], None] | None = None,
        memory: devices.DeviceMemory = devices.HOST,
    ) -> None:
        self.inner = session
        self._name = name
        self._check = check
        self._memory = memory
        _sessions.add(self)

    @property
    def lost(self) -> bool:
        """Whether this is a forked process, in which another one is needed."""
        return self.inner is None

    def _lose(self) -> None:
        if self.inner is not None:
            # Its threads did not come along, and to free it would wait for them, or crash.
            _lost_providers.update(self.inner.get_providers())
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.inner))
            self.inner = None

    def output_type(self) -> TensorType:
        """What onnxruntime has inferred about the first output."""
        info = self.inner.get_outputs()[0]
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
            values: list[Any] = self.inner.run(outputs, feeds)
        except Exception as exc:  # onnxruntime's errors have no common class but this
            message = devices.reason_of(exc)
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
        from .on_device import is_ortvalue, shareable

        binding = self.inner.io_binding()
        for name, value in feeds.items():
            bind = binding.bind_ortvalue_input if is_ortvalue(value) else binding.bind_cpu_input
            bind(name, value)
        for name in outputs:
            binding.bind_output(name, *(self._memory if on_device else devices.HOST))
        # Other libraries compute in queues of their own, and may not have finished what they gave.
        binding.synchronize_inputs()
        self.inner.run_with_iobinding(binding)
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
    """In a forked process: let go of all sessions."""
    for session in list(_sessions):
        session._lose()


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
    message = devices.reason_of(exc)
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
