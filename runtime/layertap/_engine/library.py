"""The only module that imports onnxruntime.

onnxruntime's wheels carry telemetry from 1.29 on. It is switched off before the import
(`ORT_DISABLE_TELEMETRY=1`, unless the user has set the variable); after it, it would be too late.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from typing import Any

from layertap.errors import (
    DependencyError,
    install_hint,
)


def import_onnxruntime() -> Any:
    """The onnxruntime package, with its telemetry off.

    Raises:
        DependencyError: it is not installed, or its installation does not work.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as exc:
        if exc.name != "onnxruntime":
            raise _broken(exc) from exc
        raise DependencyError(
            f"onnxruntime is not installed. Install it with {install_hint('cpu')}; on a machine "
            "with an NVIDIA card, with the extra gpu instead of cpu."
        ) from exc
    except Exception as exc:  # a broken installation may raise anything
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
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for the folder of the files of weights."""


def supports_external_weights() -> bool:
    """Whether models given as bytes may keep weights in files (onnxruntime 1.21)."""
    return _version(import_onnxruntime()) >= (1, 21)


def normalises_exactly() -> bool:
    """Whether a LayerNormalization is exact where the mean is far from 0 (onnxruntime 1.30).

    At a mean of 100 deviations, its scaled error is 6e-3 before 1.27, 2e-5 before 1.30, and 1e-6
    since then.
    """
    return _version(import_onnxruntime()) >= (1, 30)


SPINNING_MICROSECONDS = 1000
"""How long threads look for work before they sleep: through the pauses within a run, and between
runs that follow each other. For longer, they would take the cores from whatever runs next."""


def spinning() -> dict[str, str]:
    """The entries of a session's options that limit for how long threads look for work.

    A time can be set from onnxruntime 1.26 on. Before that, threads would spin for up to half a
    second, and stop at the end of each run instead.
    """
    if _version(import_onnxruntime()) >= (1, 26):
        return {"session.intra_op.spin_duration_us": str(SPINNING_MICROSECONDS)}
    return {"session.force_spinning_stop": "1"}


def _version(ort: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])


def shared_memory() -> dict[str, str]:
    """The entries of a session's options that let it take memory from where all such sessions do.

    Otherwise each session keeps the memory that it once took. Of sessions that run one after the
    other, each would take pages of its own, which takes half as long again. What is shared stays
    with the process. Empty for an onnxruntime that cannot share.
    """
    ort = import_onnxruntime()
    try:
        memory = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        # No limit, by as much as is asked for, and onnxruntime's own sizes of chunks.
        settings = {
            "max_mem": 0,
            "arena_extend_strategy": 1,
            "initial_chunk_size_bytes": -1,
            "max_dead_bytes_per_chunk": -1,
        }
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(settings))
    except Exception:  # noqa: BLE001 - another version may lack any of these names
        return {}
    return {"session.use_env_allocators": "1"}


def give_back_memory() -> None:
    """Return to the system what glibc keeps for later: after a session was made, about twice the
    size of the model's weights."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # others do so by themselves
        ctypes.CDLL(None).malloc_trim(0)
