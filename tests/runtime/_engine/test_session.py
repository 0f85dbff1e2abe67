"""onnxruntime: devices, options, errors in words, and the cache of sessions."""

from __future__ import annotations

import builtins
import contextlib
import os
import re
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import layertap
from generators import tiny
from layertap._engine import engine
from layertap._engine import session as session_module
from layertap._engine.cache import Cache
from layertap._engine.engine import Engine
from layertap._engine.library import available_threads, import_onnxruntime
from layertap._engine.settings import Settings
from layertap.errors import (
    DependencyError,
    DeviceError,
    InputError,
    LayertapError,
    ModelFileError,
    UsageError,
)

HERE = onnxruntime.__version__
UPGRADE = re.escape(f"Upgrade onnxruntime (this is {HERE}), or export with an older opset.")


def start(model: onnx.ModelProto, **settings: Any) -> session_module.Session:
    return Engine(Settings(**settings)).start(model.SerializeToString(), "'m.onnx'", None)


def options(session: session_module.Session) -> Any:
    return session.inner.get_session_options()


# --- Settings and options -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"device": 1}, DeviceError, "device must be a name such as 'cuda:0', got 1."),
        (
            {"device": "cuda", "providers": ["CPUExecutionProvider"]},
            UsageError,
            "device='cuda' and providers=['CPUExecutionProvider'] cannot both be given.",
        ),
        ({"threads": 0}, UsageError, "threads must be an integer of at least 1, got 0."),
        (
            {"threads": "two"},
            UsageError,
            "threads must be an integer of at least 1, got 'two'.",
        ),
        ({"tf32": True}, UsageError, "tf32=True needs device='cuda', got 'cpu'."),
        (
            {"tf32": True, "providers": ["CUDAExecutionProvider"]},
            UsageError,
            "tf32=True and providers cannot both be given. Put use_tf32 into the options of "
            "CUDAExecutionProvider.",
        ),
        (
            {"prefer_nhwc": True},
            UsageError,
            "prefer_nhwc=True needs device='cuda', got 'cpu'.",
        ),
        (
            {"prefer_nhwc": True, "providers": ["CUDAExecutionProvider"]},
            UsageError,
            "prefer_nhwc=True and providers cannot both be given. Put prefer_nhwc into the options "
            "of CUDAExecutionProvider.",
        ),
    ],
)
def test_invalid_settings_are_refused(
    settings: dict[str, Any], kind: type[LayertapError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        Settings(**settings)
    assert str(caught.value) == words


def test_threads_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_threads() == 3
    assert options(start(tiny.residual())).intra_op_num_threads == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_threads() == os.cpu_count()
    assert options(start(tiny.residual(), threads=2)).intra_op_num_threads == 2


def test_session_options_as_a_mapping() -> None:
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = options(
        start(
            tiny.residual(),
            session_options={
                "graph_optimization_level": level,
                "session.disable_prepacking": 1,
            },
        )
    )
    assert made.graph_optimization_level == level
    assert made.get_session_config_entry("session.disable_prepacking") == "1"
    assert made.log_severity_level == 4


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.14.1", {"session.force_spinning_stop": "1"}),
        ("1.25.0", {"session.force_spinning_stop": "1"}),
        ("1.26.0", {"session.intra_op.spin_duration_us": "1000"}),
        ("1.32.0", {"session.intra_op.spin_duration_us": "1000"}),
    ],
)
def test_threads_sleep_soon_after_a_run(
    version: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit, onnxruntime's threads would take a core for up to half a second."""
    monkeypatch.setattr(onnxruntime, "__version__", version)
    made = options(start(tiny.residual()))
    found = {}
    for key in ("session.force_spinning_stop", "session.intra_op.spin_duration_us"):
        with contextlib.suppress(RuntimeError):  # it is not set
            found[key] = made.get_session_config_entry(key)
    assert found == expected


def test_session_options_win_over_layertaps_own(capfd: pytest.CaptureFixture[str]) -> None:
    given = {"session.force_spinning_stop": "0", "intra_op_num_threads": 1}
    made = options(start(tiny.residual(), session_options=given, threads=2))
    assert made.get_session_config_entry("session.force_spinning_stop") == "0"
    assert made.intra_op_num_threads == 1
    assert capfd.readouterr() == ("", "")


def test_session_options_as_they_are() -> None:
    own = onnxruntime.SessionOptions()
    own.log_severity_level = 3
    own.intra_op_num_threads = 1
    made = options(start(tiny.residual(), session_options=own, threads=2))
    assert (made.log_severity_level, made.intra_op_num_threads) == (3, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"intra_op_threads": 1},
            r"session_options: onnxruntime\.SessionOptions has no attribute 'intra_op_threads'\. "
            r"Did you mean 'intra_op_num_threads'.*\?",
        ),
        ({"intra_op_num_threads": "x"}, r"session_options: intra_op_num_threads cannot be 'x': .*"),
        (
            7,
            r"session_options must be an onnxruntime\.SessionOptions, or a dict of its attributes "
            r"and configuration entries, got an int\.",
        ),
    ],
)
def test_invalid_session_options_are_refused(given: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        start(tiny.residual(), session_options=given)
    assert re.fullmatch(words, str(caught.value), re.DOTALL)


def test_the_models_bytes_are_let_go() -> None:
    assert start(tiny.residual()).inner._model_bytes is None


# --- Devices ------------------------------------------------------------------------------------


def test_cpu_needs_no_onnxruntime_to_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "import_onnxruntime", lambda: pytest.fail("imported"))
    assert Engine(Settings()).device == "cpu"


def test_providers_are_those_of_onnxruntime() -> None:
    engine = Engine(Settings(providers=[("CPUExecutionProvider", {})]))
    assert engine.device == "cpu"
    with pytest.raises(DeviceError) as caught:
        Engine(Settings(providers=["OpenVinoExecutionProvider", "CPUExecutionProvider"]))
    available = onnxruntime.get_available_providers()
    assert str(caught.value).startswith(
        f"the installed onnxruntime {HERE} does not have 'OpenVinoExecutionProvider'; it has "
        f"{', '.join(available)}."
    )
    with pytest.raises(UsageError, match=r"^providers is empty; omit it to use the CPU\.$"):
        Engine(Settings(providers=[]))


# --- The import ---------------------------------------------------------------------------------


def failing_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> DependencyError:
    plain = builtins.__import__

    def fail(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise error
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(DependencyError) as caught:
        import_onnxruntime()
    assert caught.value.__cause__ is error
    return caught.value


def test_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    assert str(failing_import(monkeypatch, error)) == (
        'onnxruntime is not installed. Install it with `pip install ".[cpu]"` in a checkout of '
        "layertap; on a machine with an NVIDIA card, with the extra gpu instead of cpu."
    )


@pytest.mark.parametrize(
    "error",
    [
        ImportError("DLL load failed while importing onnxruntime_pybind11_state"),
        ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"),
    ],
)
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_a_broken_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, error: Exception, platform: str
) -> None:
    """It is not taken for one that is not installed."""
    monkeypatch.setattr(sys, "platform", platform)
    hint = ", and install the Microsoft Visual C++ Redistributable" if platform == "win32" else ""
    assert str(failing_import(monkeypatch, error)) == (
        f"onnxruntime is installed but cannot be imported: {error}. Reinstall it: `pip install "
        f"--force-reinstall --no-deps onnxruntime`{hint}."
    )


def test_an_onnxruntime_of_which_only_the_folder_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(DependencyError, match="cannot be imported: the package is empty"):
        import_onnxruntime()


@pytest.mark.parametrize("chosen", [None, "0"])
def test_telemetry_is_off_unless_the_user_decided(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", chosen or "")
    if chosen is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == (chosen or "1")


# --- Errors -------------------------------------------------------------------------------------


def rejected(model: onnx.ModelProto) -> str:
    with pytest.raises(ModelFileError) as caught:
        start(model)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_a_newer_ir_version() -> None:
    words = rejected(tiny.model([], [], [], ir_version=99))
    assert re.fullmatch(
        r"'m\.onnx' is written in ONNX IR version 99, but the installed onnxruntime reads up to "
        rf"\d+\. {UPGRADE}",
        words,
    )


def test_a_newer_opset() -> None:
    words = rejected(
        tiny.model(
            [tiny.node("Neg", "x", "y")], [tiny.value("x", [1])], [tiny.value("y", [1])], opset=99
        )
    )
    assert re.fullmatch(
        r"'m\.onnx' uses opset 99 of ai\.onnx, but the installed onnxruntime supports up to \d+\. "
        rf"{UPGRADE}",
        words,
    )


def test_an_operator_that_onnxruntime_has_not() -> None:
    made = tiny.model([tiny.node("Nope", "x", "y")], [tiny.value("x", [1])], [tiny.value("y", [1])])
    assert rejected(made).startswith(
        f"onnxruntime {HERE} rejects 'm.onnx': This is an invalid model."
    )


def test_inputs_that_do_not_go_together() -> None:
    model = tiny.residual()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "m"
    with pytest.raises(InputError) as caught:
        start(model).run(["y"], {"x": np.zeros((2, 5), np.float32)})
    assert str(caught.value) == (
        "onnxruntime could not run 'm.onnx' on x (2, 5) float32: Non-zero status code returned "
        "while running MatMul node. Name:'a' Status Message: matmul_helper.h:59 Compute MatMul "
        "dimension mismatch"
    )


def test_source_lines_of_onnxruntime_are_left_out() -> None:
    made = tiny.model(
        [tiny.node("Reshape", "x s", "y")],
        [tiny.value("x", ["n"])],
        [tiny.value("y", [3])],
        [tiny.constant("s", [3])],
    )
    with pytest.raises(InputError) as caught:
        start(made).run(["y"], {"x": np.zeros(2, np.float32)})
    assert "onnxruntime_src" not in str(caught.value)
    assert "The input tensor cannot be reshaped to the requested shape" in str(caught.value)


def test_too_little_memory() -> None:
    made = tiny.model(
        [tiny.node("ConstantOfShape", "s", "y")],
        [tiny.value("s", [3], onnx.TensorProto.INT64)],
        [tiny.value("y", None)],
    )
    with pytest.raises(DeviceError) as caught:
        start(made).run(["y"], {"s": np.array([100_000, 100_000, 1000])})
    assert str(caught.value).startswith(
        "not enough memory to run 'm.onnx' on s (3,) int64. Use smaller batches. onnxruntime's "
        "message: Non-zero status code returned while running ConstantOfShape node."
    )


def test_too_little_memory_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, the weights may not fit beside those of other sessions."""

    message = (
        "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: "
        "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* "
        "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed "
        "to allocate memory for requested buffer of size 458752"
    )
    # As if onnxruntime itself raised it.
    code = f"def refuse(*_, **__): raise RuntimeError({message!r})"
    scope: dict[str, Any] = {"__name__": "onnxruntime.capi"}
    exec(code, scope)
    monkeypatch.setattr(onnxruntime, "InferenceSession", scope["refuse"])
    problem = r"not enough memory on cpu to open 'm\.onnx'\. Close other models"
    with pytest.raises(DeviceError, match=problem):
        start(tiny.residual())


def test_the_default_logger_is_silent_while_a_session_starts_on_a_device() -> None:
    """onnxruntime 1.31 prints a warning for each session on CUDA."""
    calls: list[int] = []
    with engine._quiet(types.SimpleNamespace(set_default_logger_severity=calls.append)):
        assert calls == [4]
    assert calls == [4, 2]


def test_the_default_logger_stays_as_it_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", calls.append)
    start(tiny.residual())
    assert calls == []


def test_onnxruntime_prints_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    session = start(tiny.residual())
    with pytest.raises(InputError):
        session.run(["y"], {"x": np.zeros((2, 5), np.float32)})
    assert capfd.readouterr() == ("", "")


# --- The cache ----------------------------------------------------------------------------------


def test_the_cache_keeps_what_was_used_last() -> None:
    cache: Cache[object] = Cache(2)
    made = {key: cache.get(key, object) for key in "ab"}
    assert cache.get("a", object) is made["a"]
    cache.get("c", object)  # pushes out b, which was used longest ago
    assert cache.get("a", object) is made["a"]
    assert cache.get("b", object) is not made["b"]


def test_what_many_threads_want_is_made_once() -> None:
    cache: Cache[object] = Cache(4)
    made: list[object] = []
    found: list[object] = []

    def make() -> object:
        time.sleep(0.02)
        made.append(object())
        return made[-1]

    threads = [
        threading.Thread(target=lambda: found.append(cache.get("k", make))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == made * 16


def test_different_things_are_made_side_by_side() -> None:
    cache: Cache[int] = Cache(4)
    barrier = threading.Barrier(2, timeout=10)
    threads = [threading.Thread(target=cache.get, args=(key, barrier.wait)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_what_failed_is_tried_again() -> None:
    cache: Cache[int] = Cache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("k", lambda: 1 // 0)
    assert cache.get("k", lambda: 7) == 7


# --- Plain sessions -----------------------------------------------------------------------------


@pytest.mark.parametrize("as_path", [True, False])
def test_a_plain_session_computes_a_file_or_its_bytes(tmp_path: Path, as_path: bool) -> None:
    made = tiny.linear_chain()
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    opened = session_module.plain_session(path if as_path else path.read_bytes())
    x = np.ones((1, 4), np.float32)
    (found,) = opened.run(["c"], {"x": x})
    np.testing.assert_array_equal(found, layertap.open(path).activations(x, "c"))
    assert opened.get_providers() == ["CPUExecutionProvider"]


def test_a_plain_session_takes_attributes_and_entries() -> None:
    opened = session_module.plain_session(
        tiny.linear_chain().SerializeToString(),
        enable_cpu_mem_arena=False,
        **{"session.disable_prepacking": "1"},  # type: ignore[arg-type]
    )
    found = opened.get_session_options()
    assert found.log_severity_level == 4
    assert found.enable_cpu_mem_arena is False
    assert found.get_session_config_entry("session.disable_prepacking") == "1"
    with pytest.raises(UsageError, match="has no attribute 'enable_cpu_arena'"):
        session_module.plain_session(b"", enable_cpu_arena=False)


def test_a_plain_session_raises_what_onnxruntime_raises_and_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = tiny.model(
        [tiny.node("Gather", "x at", "y")],
        [tiny.value("x", ["n"]), tiny.value("at", ["m"], onnx.TensorProto.INT64)],
        [tiny.value("y", ["m"])],
    )
    opened = session_module.plain_session(made.SerializeToString())
    with pytest.raises(Exception, match="indices element out of data bounds"):
        opened.run(None, {"x": np.zeros(2, np.float32), "at": np.array([9])})
    assert capfd.readouterr() == ("", "")
