"""Sessions: models that are ready to run, also after a fork, with readable errors."""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from layertap._cut.guards import ERROR, guarded, may_need_guards
from layertap._escaping import shortened
from layertap.errors import DeviceError, InputError, LayertapError, UsageError, suggest
from layertap.format.graph import Graph, TensorType, read_graph
from layertap.format.limits import PROTOBUF_BYTES
from layertap.format.source import BytesSource, FileSource

from . import devices
from .cache import forget_all
from .constant_work import FOLDING, much_from_constants
from .library import FOLDER, import_onnxruntime, supports_external_weights
from .stopping import raised_by_handler, run_stoppably, start_stoppably


def lacks_memory(message: str) -> bool:
    """Whether onnxruntime's message says that there is not enough memory."""
    return re.search(r"allocat|out of memory|bad_alloc", message, re.IGNORECASE) is not None


def plain_session(
    model: bytes | str | os.PathLike[str],
    *,
    providers: devices.Providers | None = None,
    **entries: Any,
) -> Any:
    """An `onnxruntime.InferenceSession` over a whole model that prints nothing.

    Args:
        model: a file, or its contents.
        providers: onnxruntime's execution providers; by default the CPU.
        entries: see `session_options`.

    Raises:
        Exception: onnxruntime's own error, if it refuses the model.
    """
    ort = import_onnxruntime()
    options = session_options(ort, {"log_severity_level": devices.SILENT, **entries})
    chosen = providers or [(devices.CPU.provider, {})]
    name = "the model" if isinstance(model, bytes) else repr(os.fspath(model))
    source = BytesSource(model) if isinstance(model, bytes) else FileSource(model)
    with source.read(sparsely=True) as buffer:
        graph = read_graph(buffer)
        much = much_from_constants(source, graph)
    if may_need_guards(graph, range(len(graph.nodes))):
        model = _guarded(source, model, graph, options)
    start = partial(
        ort.InferenceSession,
        model,
        options,
        providers=chosen,
        enable_fallback=0,
        **options_without([FOLDING] if much else []),
    )
    return _Plain(start_stoppably(start, options, name), name, ort.RunOptions)


def _guarded(
    source: BytesSource | FileSource,
    model: bytes | str | os.PathLike[str],
    graph: Graph,
    options: Any,
) -> bytes | str | os.PathLike[str]:
    """The contents of a model with guards, if it needs some; otherwise the model.

    Args:
        options: of its session; the folder of its weights is added.
    """
    separate = graph.locations and source.path is not None
    if source.size > PROTOBUF_BYTES or (separate and not supports_external_weights()):
        return model
    with source.read() as buffer:
        whole = bytes(buffer)
    found = guarded(whole)
    if found is whole:
        return model
    if separate and source.path is not None:
        options.add_session_config_entry(FOLDER, os.fspath(source.path.parent))
    return found


def options_without(optimizations: Sequence[str]) -> dict[str, Any]:
    """Arguments of `InferenceSession` that leave out some optimizations."""
    return {"disabled_optimizers": list(optimizations)} if optimizations else {}


class _Plain:
    """An `InferenceSession` whose runs Ctrl-C stops."""

    def __init__(self, inner: Any, name: str, kind: Any) -> None:
        self._inner = inner
        self._name = name
        self._kind = kind

    def run(self, outputs: Any, feeds: Any) -> Any:
        """See `InferenceSession.run`; its errors are those of `Session.run`."""
        run = partial(self._inner.run, outputs, feeds)
        try:
            return run_stoppably(run, self._kind, partial(_running, self._name, feeds))
        except LayertapError:
            raise
        except Exception as exc:
            if raised_by_handler(exc):
                raise
            raise _explained(exc, self._name, feeds) from exc

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def session_options(ort: Any, entries: Mapping[str, Any]) -> Any:
    """An `onnxruntime.SessionOptions`.

    Args:
        ort: the onnxruntime package.
        entries: attributes of it, and configuration entries, which have a dot in their name.

    Raises:
        UsageError: onnxruntime has no such attribute, or rejects the value.
    """
    options = ort.SessionOptions()
    for key, value in entries.items():
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


_CONTAINERS = {"seq": "sequence", "map": "map", "optional": "optional"}
"""Types of values that are not tensors, by onnxruntime's word for them."""


class Session:
    """A model that is ready to run. It is safe to use from several threads."""

    def __init__(
        self,
        session: Any,
        name: str,
        run_options: Callable[[], Any],
        check: Callable[[], None] | None = None,
        memory: devices.DeviceMemory = devices.HOST,
    ) -> None:
        """
        Args:
            session: onnxruntime's own session.
            name: the model's name in messages.
            run_options: onnxruntime's class `RunOptions`.
            check: called before each run; raises if files of weights were changed.
            memory: the memory of its device.
        """
        self.inner = session
        """onnxruntime's own session."""
        self._run_options = run_options
        self.lost = False
        """Whether this is a forked process, which needs a session of its own."""
        self._name = name
        self._check = check
        self._memory = memory
        _sessions.add(self)

    def _lose(self) -> None:
        if self.inner is not None:
            # Its threads do not exist here, and freeing it would wait for them, or crash.
            _lost_providers.update(self.inner.get_providers())
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.inner))
            self.inner = None
            self.lost = True

    def output_type(self) -> TensorType:
        """The type of the first output, as onnxruntime inferred it.

        onnxruntime gives the same empty shape for a scalar and for a tensor whose number of axes
        it does not know: then there are no dims.
        """
        info = self.inner.get_outputs()[0]
        kind, _, _ = info.type.partition("(")
        if kind in _CONTAINERS:
            return TensorType(_CONTAINERS[kind])
        dtype = re.sub(r"tensor\((\w+)\)", r"\1", info.type)
        dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
        return TensorType(dtype, tuple(info.shape) or None)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], on_device: bool = False
    ) -> list[Any]:
        """Compute `outputs`, in that order: arrays, or `OrtValue`s that stay on the device.

        Raises:
            InputError: the model cannot be run with these inputs.
            DeviceError: there is not enough memory.
            ModelFileError: a file that holds weights was overwritten.
            Exception: the handler of a signal raised it while the model ran.
        """
        if self._check is not None:
            self._check()
        try:
            if on_device or any(hasattr(value, "data_ptr") for value in feeds.values()):
                return self._run_bound(outputs, feeds, on_device)
            values: list[Any] = run_stoppably(
                partial(self.inner.run, outputs, feeds),
                self._run_options,
                partial(_running, self._name, feeds),
            )
        except LayertapError:
            raise
        except Exception as exc:  # onnxruntime's errors have no common base class
            if raised_by_handler(exc):
                raise
            raise _explained(exc, self._name, feeds) from exc
        return values

    def _run_bound(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], on_device: bool
    ) -> list[Any]:
        """The same, with inputs or outputs in the device's memory."""
        from .on_device import is_ortvalue, shareable

        binding = self.inner.io_binding()
        for name, value in feeds.items():
            bind = binding.bind_ortvalue_input if is_ortvalue(value) else binding.bind_cpu_input
            bind(name, value)
        for name in outputs:
            binding.bind_output(name, *(self._memory if on_device else devices.HOST))
        # Other libraries compute asynchronously, and may not have finished yet.
        binding.synchronize_inputs()
        run_stoppably(
            partial(self.inner.run_with_iobinding, binding),
            self._run_options,
            partial(_running, self._name, feeds),
        )
        binding.synchronize_outputs()
        values = binding.get_outputs()
        return [shareable(value) if on_device else value.numpy() for value in values]


def _running(name: str, feeds: Mapping[str, Any]) -> str:
    """What a session does, for messages."""
    return f"running {name} on {_listing(feeds)}"


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
"""All sessions in this process."""

_lost_providers: set[str] = set()
"""Execution providers that the parent process used before a fork."""

_UNFORKABLE = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})
"""Providers with a driver that does not survive a fork."""


def check_fork(providers: devices.Providers) -> None:
    """Return if sessions on these providers can be made in this process.

    Raises:
        DeviceError: it was forked from a process that used CUDA.
    """
    if _UNFORKABLE & _lost_providers & dict(providers).keys():
        raise DeviceError(
            "CUDA cannot be used in a process that was forked from one that has used it. Start "
            'processes with multiprocessing.get_context("spawn").'
        )


def _after_fork() -> None:
    """Drop all sessions in a forked process, and only then the caches that hold them."""
    for session in list(_sessions):
        session._lose()
    forget_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _explained(exc: Exception, name: str, feeds: Mapping[str, Any]) -> LayertapError:
    """The error for a run that onnxruntime gave up.

    Args:
        exc: onnxruntime's own error.
        name: the model's.
        feeds: what it was run on.
    """
    message = reason_of(exc)
    given = _listing(feeds)
    if lacks_memory(message):
        return DeviceError(
            f"not enough memory to run {name} on {given}. Use smaller batches. onnxruntime's "
            f"message: {message}"
        )
    nothing = re.search(f"{ERROR}(\\w+)", message)
    if nothing:
        return InputError(
            f"{name} cannot be run on {given}: an input of its operator {nothing[1]} becomes "
            "empty, and onnxruntime would end the process. Leave such samples out."
        )
    return InputError(f"onnxruntime could not run {name} on {given}: {message}")


def _listing(feeds: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_shape(value)}" for name, value in feeds.items()) or "no inputs"


def _shape(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def reason_of(exc: Exception) -> str:
    """onnxruntime's message without its codes and source lines; also of an `_explained` error."""
    if isinstance(exc, LayertapError) and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    # It may contain names from the file, of any length; the time of a search grows with its square.
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", shortened(str(exc).strip(), 2000))
    message = re.sub(r"^Failed to load model with error: ", "", message)
    # A source file's line, and the signature of the function there.
    message = re.sub(r"\S*/onnxruntime/\S+:\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\) ", "", message)
    return " ".join(message.split()) or type(exc).__name__
