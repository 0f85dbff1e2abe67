"""The engine: makes sessions on one device."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from layertap.errors import (
    DependencyError,
    DeviceError,
    LayertapError,
    ModelFileError,
    UsageError,
    suggest,
)
from layertap.format.limits import MAPPED_BYTES
from layertap.format.text import class_text

from . import devices, probe
from .library import (
    FOLDER,
    available_threads,
    import_onnxruntime,
    spinning,
    supports_external_weights,
)
from .session import Session, check_fork, lacks_memory, options_without, reason_of, session_options
from .settings import Provider, Settings
from .stopping import raised_by_handler, start_stoppably

if TYPE_CHECKING:
    from pathlib import Path


class Engine:
    """Makes sessions on one device."""

    def __init__(self, settings: Settings) -> None:
        """Find the device. For `cpu`, onnxruntime is not imported yet.

        Raises:
            DeviceError: it is not available.
        """
        self._settings = settings
        self._ort: Any = None
        self._spinning: dict[str, str] = {}
        self._threads = int(settings.threads or available_threads())
        self.device = settings.device
        """The device in use: `cpu`, `cuda:0`, or the first provider's name in lower case."""
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
        self._maps = devices.maps(self._providers)
        self.memory = devices.memory(self._providers)
        """The memory that the device leaves its results in."""
        self._quantised_in_float = False

    def in_float(self) -> Engine:
        """The same engine, without onnxruntime's operators on integers for quantised models."""
        engine = copy(self)
        engine._quantised_in_float = True
        return engine

    def _use(self, name: str) -> None:
        ort = import_onnxruntime()
        device, unit = devices.find(name, ort.get_available_providers())
        probe.check(ort, device, unit)
        tf32, prefer_nhwc = self._settings.tf32, self._settings.prefer_nhwc
        self.device = device.label(unit)
        self._providers = devices.providers(device, unit, self._threads, tf32, prefer_nhwc)

    def _onnxruntime(self) -> Any:
        """The package onnxruntime, imported on first use."""
        if self._ort is None:
            self._ort = import_onnxruntime()
            self._spinning = spinning()
        return self._ort

    @property
    def maps_weights(self) -> bool:
        """Whether sessions may keep weights in files."""
        self._onnxruntime()
        return not self._settings.copy_weights and supports_external_weights()

    @property
    def large_remedy(self) -> str:
        """What to do about weights that are too large to be copied."""
        if self._settings.copy_weights:
            return "Open it without copy_weights=True."
        return "Upgrade onnxruntime: from version 1.21 on, weights can stay in their files."

    def leaves_weights(self, size: int) -> bool:
        """Whether weights in a model file of `size` bytes stay there.

        Raises:
            DependencyError: they are to be shared, and onnxruntime is too old.
            UsageError: they are to be shared, which the device does not support.
        """
        share = self._settings.share_weights
        if share and not supports_external_weights():
            raise DependencyError(
                "share_weights=True needs onnxruntime 1.21 or newer, but "
                f"{import_onnxruntime().__version__} is installed. Upgrade it."
            )
        if share and not self._maps:
            raise UsageError(f"share_weights=True is not supported on device {self.device!r}.")
        return self._maps and self.maps_weights and (share or size >= MAPPED_BYTES)

    def start(
        self,
        model: bytes,
        name: str,
        folder: Path | None,
        check: Callable[[], None] | None = None,
        disabled: Sequence[str] = (),
    ) -> Session:
        """Prepare `model` to run.

        Args:
            model: a whole ONNX model.
            name: the model's name in messages.
            folder: the folder of its weight files, if it has any.
            check: called before each run; raises if those files were changed.
            disabled: names of onnxruntime's optimizations that are left out.

        Raises:
            ModelFileError: onnxruntime rejects the model.
            DeviceError: onnxruntime does not use a requested provider, or there is not enough
                memory.
        """
        ort = self._onnxruntime()
        options = self._options(ort)
        check_fork(self._providers)
        if folder is not None:
            options.add_session_config_entry(FOLDER, str(folder))
        try:
            start = partial(
                ort.InferenceSession,
                model,
                options,
                providers=self._providers,
                enable_fallback=0,
                **options_without(disabled),
            )
            on_cpu = self._providers[0][0] == devices.CPU.provider
            # onnxruntime 1.31 warns at each session that CUDA is no plugin.
            with contextlib.nullcontext() if on_cpu else _quiet(ort):
                session = start_stoppably(start, options, name)
        except LayertapError:
            raise
        except Exception as exc:  # onnxruntime's errors have no common base class
            if raised_by_handler(exc):
                raise
            if lacks_memory(reason_of(exc)):
                raise DeviceError(
                    f"not enough memory on {self.device} to open {name}. Close other models there, "
                    f"and end other programs. onnxruntime's message: {reason_of(exc)}"
                ) from exc
            raise ModelFileError(_refusal(ort, name, exc)) from exc
        missing = dict(self._providers).keys() - set(session.get_providers())
        if missing:
            raise DeviceError(
                f"onnxruntime {ort.__version__} runs {name} on {session.get_providers()[0]}, "
                f"not on {', '.join(sorted(missing))} as requested."
            )
        # onnxruntime keeps the bytes, in case the providers are changed later.
        with contextlib.suppress(AttributeError):
            session._model_bytes = None
        return Session(session, name, ort.RunOptions, check, self.memory)

    def _options(self, ort: Any) -> Any:
        given = self._settings.session_options
        if isinstance(given, ort.SessionOptions):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(
                "session_options must be an onnxruntime.SessionOptions, or a dict of its "
                f"attributes and configuration entries, got {class_text(given)}."
            )
        defaults: dict[str, Any] = {
            "log_severity_level": devices.SILENT,
            "intra_op_num_threads": self._threads,
            **self._spinning,
        }
        if self._settings.share_weights:
            # Otherwise each process packs the weights into memory of its own.
            defaults["session.disable_prepacking"] = "1"
        if self._quantised_in_float:
            defaults["session.disable_quant_qdq"] = "1"
        if self._settings.reproducible:
            # Fusions depend on which tensors are outputs, sums on the number of threads.
            defaults["graph_optimization_level"] = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            defaults["intra_op_num_threads"] = 1
        return session_options(ort, {**defaults, **(given or {})})


def _checked(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """The caller's providers with their options, if the installed onnxruntime has them all."""
    ort = import_onnxruntime()
    pairs = [
        (item, {}) if isinstance(item, str) else (item[0], dict(item[1])) for item in providers
    ]
    available = ort.get_available_providers()
    for name, _ in pairs:
        if name not in available:
            raise DeviceError(
                f"the installed onnxruntime {ort.__version__} does not have {name!r}; it has "
                f"{', '.join(available)}.{suggest(str(name), available)}"
            )
    if not pairs:
        raise UsageError("providers is empty; omit it to use the CPU.")
    return pairs


WARNING = 2
"""The severity from which on onnxruntime's default logger prints, unless it is told otherwise."""


@contextlib.contextmanager
def _quiet(ort: Any) -> Iterator[None]:
    """Keep onnxruntime's default logger silent."""
    ort.set_default_logger_severity(devices.SILENT)
    try:
        yield
    finally:
        ort.set_default_logger_severity(WARNING)


def _refusal(ort: Any, name: str, exc: Exception) -> str:
    message = reason_of(exc)
    upgrade = f"Upgrade onnxruntime (this is {ort.__version__}), or export with an older opset."
    found = re.search(r"IR version: (\d+), max supported IR version: (\d+)", message)
    if found:
        return (
            f"{name} is written in ONNX IR version {found[1]}, but the installed onnxruntime reads "
            f"up to {found[2]}. {upgrade}"
        )
    found = re.search(r"Opset (\d+) is under .* domain (\S+) is till opset (\d+)", message)
    if found:
        return (
            f"{name} uses opset {found[1]} of {found[2]}, but the installed onnxruntime supports "
            f"up to {found[3]}. {upgrade}"
        )
    return f"onnxruntime {ort.__version__} rejects {name}: {message}"
