"""The checks of `python -m benchmarks.gpu` fail where the CPU computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import layertap
from generators import tiny

gpu_checks = pytest.importorskip("benchmarks.gpu_checks", reason="needs the benchmarks' packages")


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A small model on the CPU, in the place of the chest model on a GPU."""
    file = tiny.save(tiny.differentiable(), tmp_path / "tiny.onnx")
    batch = np.random.default_rng(0).random((1, 8, 6, 3)).astype(np.float32)
    monkeypatch.setattr(gpu_checks, "image", lambda: batch)
    return gpu_checks.Machine(gpu_checks.Files(file, None), "cpu")


@pytest.mark.parametrize(
    ("title", "message"),
    [
        ("float32, all layers", "equal to the CPU's to the last bit"),
        ("every heavy operator runs on the GPU", "0 operators ran on the GPU"),
        ("results stay in the GPU's memory", "they are in cpu"),
        ("without a card: an error", "no error"),
        ("without a library: an error", "there is no|needs none"),
    ],
)
def test_the_cpu_does_not_pass_for_a_gpu(cpu: object, title: str, message: str) -> None:
    with pytest.raises(gpu_checks.CheckError, match=message):
        dict(gpu_checks.checks())[title](cpu)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": np.array([np.nan, 1]), "b": np.ones(2)}, "'a'"),
        ({"a": np.ones(2), "b": np.ones(2) * 2}, "'b'"),
        ({"a": np.ones((1, 2)), "b": np.ones(2)}, "shape"),
        ({"b": np.ones(2), "a": np.ones(2)}, "other names"),
    ],
)
def test_a_nan_or_another_shape_in_any_layer_fails(
    found: dict[str, np.ndarray], message: str
) -> None:
    expected = {"a": np.ones(2), "b": np.ones(2)}
    assert gpu_checks._worst(expected, expected, 1e-4) == (0.0, "")
    with pytest.raises(gpu_checks.CheckError, match=message):
        gpu_checks._worst(found, expected, 1e-4)


def test_without_a_gpu_the_exit_code_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        layertap.open(tiny.save(tiny.digits(), tmp_path / "chest.onnx"), device="cuda")
    except layertap.DeviceError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    gpu = pytest.importorskip("benchmarks.gpu")
    assert gpu.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("Nothing was measured, because device 'cuda'")
