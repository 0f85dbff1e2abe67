"""How sessions are made: device, threads, where weights stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from layertap._arguments import flag
from layertap._record import Record
from layertap.errors import DeviceError, UsageError

Provider: TypeAlias = "str | tuple[str, Mapping[str, Any]]"
"""An execution provider's name, alone or with its options, as onnxruntime takes it."""


def _is_count(value: object) -> bool:
    """Whether it is an integer, of Python or numpy, that is at least 1."""
    from operator import index

    try:
        return not isinstance(value, bool) and index(value) >= 1  # type: ignore[arg-type]
    except TypeError:
        return False


def _is_provider(given: object) -> bool:
    """Whether it is a name, or a pair of a name and options."""
    if isinstance(given, (list, tuple)):
        return len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping)
    return isinstance(given, str)


class Settings(Record):
    """How sessions are made.

    Raises:
        DeviceError: the device is not a name.
        UsageError: options that contradict each other.
    """

    device: str = "cpu"
    """A short name from `devices`: `cpu`, `cuda:1`, ...; or `auto`."""
    providers: Sequence[Provider] | None = None
    """onnxruntime's own list of execution providers; `device` is ignored then."""
    session_options: Any = None
    """An `onnxruntime.SessionOptions`, used unchanged; or a mapping of its attributes and of
    configuration entries (keys with a dot), applied on top of layertap's own options."""
    threads: int | None = None
    """Threads for one operation; `None` uses all cores that the process may use."""
    copy_weights: bool = False
    """Never leave weights in their files: sessions do not depend on the files."""
    share_weights: bool = False
    """Always leave weights in their files and use them as they are stored: processes share them."""
    reproducible: bool = False
    """Run the graph unoptimized, on one thread."""
    tf32: bool = False
    """Let CUDA round float32 to TF32."""
    prefer_nhwc: bool = False
    """Let CUDA run convolutions with channels last."""

    def __post_init__(self) -> None:
        for name in ("copy_weights", "share_weights", "reproducible", "tf32", "prefer_nhwc"):
            flag(name, getattr(self, name))
        if self.share_weights and self.copy_weights:
            raise UsageError("share_weights=True and copy_weights=True cannot both be given.")
        options = self.session_options
        if self.share_weights and not (options is None or isinstance(options, Mapping)):
            raise UsageError(
                "share_weights=True sets session options, and an onnxruntime.SessionOptions is "
                'used unchanged. Give a dict, or set "session.disable_prepacking" to "1" in it.'
            )
        if self.reproducible and not (options is None or isinstance(options, Mapping)):
            raise UsageError(
                "reproducible=True sets session options, and an onnxruntime.SessionOptions is "
                "used unchanged. Give a dict."
            )
        if self.reproducible and self.threads not in (None, 1):
            raise UsageError(f"reproducible=True runs on one thread, got threads={self.threads!r}.")
        device = self.device
        if not isinstance(device, str):
            raise DeviceError(f"device must be a name such as 'cuda:0', got {device!r}.")
        given = self.providers
        if given is not None and not (
            isinstance(given, (list, tuple)) and all(map(_is_provider, given))
        ):
            raise UsageError(
                "providers must be a list of names of execution providers, or of pairs of a name "
                f"and a dict of its options, got {given!r}."
            )
        if self.providers is not None and device != "cpu":
            raise UsageError(
                f"device={device!r} and providers={list(self.providers)!r} cannot both be given."
            )
        for name, option in (("tf32", "use_tf32"), ("prefer_nhwc", "prefer_nhwc")):
            if getattr(self, name) and device.partition(":")[0] not in ("cuda", "auto"):
                raise UsageError(
                    f"{name}=True needs device='cuda', got {device!r}."
                    if self.providers is None
                    else f"{name}=True and providers cannot both be given. Put {option} into the "
                    "options of CUDAExecutionProvider."
                )
        threads = self.threads
        if threads is not None and not _is_count(threads):
            raise UsageError(f"threads must be an integer of at least 1, got {threads!r}.")
