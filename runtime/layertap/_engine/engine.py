"""The engine: sessions on one device, with one way to treat weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layertap.errors import (
    DependencyError,
    DeviceError,
    ModelFileError,
    UsageError,
    suggest,
)
from layertap.format.limits import MAPPED_BYTES

from . import devices, probe
from .library import (
    available_threads,
    import_onnxruntime,
    supports_external_weights,
)
from .session import Session, check_fork, reason_of, session_options
from .settings import Provider, Settings

if TYPE_CHECKING:
    from pathlib import Path


class Engine:
    """Makes sessions on one device."""

    def __init__(self, settings: Settings) -> None:
        """Finds the device; for `cpu` alone onnxruntime is not imported yet.

        Raises:
            DeviceError: it is not to be had.
        """
        self._settings = settings
        self._threads = settings.threads or available_threads()
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
        self._maps = devices.maps(self._providers)
        self.memory = devices.memory(self._providers)
        """The memory in which the device leaves results."""

    def _use(self, name: str) -> None:
        ort = import_onnxruntime()
        device, unit = devices.find(name, ort.get_available_providers())
        probe.check(ort, device, unit)
        tf32, prefer_nhwc = self._settings.tf32, self._settings.prefer_nhwc
        self.device = device.label(unit)
        self._providers = devices.providers(device, unit, self._threads, tf32, prefer_nhwc)

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
        if share and not self._maps:
            raise UsageError(f"share_weights=True is not for device {self.device!r}.")
        return self._maps and self.maps_weights and (share or size >= MAPPED_BYTES)

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
        ort = import_onnxruntime()
        options = self._options(ort)
        check_fork(self._providers)
        if folder is not None:
            entry = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(entry, str(folder))
        try:
            session = ort.InferenceSession(
                model, options, providers=self._providers, enable_fallback=0
            )
        except Exception as exc:  # onnxruntime's errors have no common class but this
            raise ModelFileError(_refusal(ort, name, exc)) from exc
        missing = dict(self._providers).keys() - set(session.get_providers())
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
            "intra_op_num_threads": self._threads,
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
        return session_options(ort, {**defaults, **(given or {})})


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


def _refusal(ort: Any, name: str, exc: Exception) -> str:
    message = reason_of(exc)
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
