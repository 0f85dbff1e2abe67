"""Sources of models, and the errors for invalid ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layertap_export import ModelLoadError, load_model

pytestmark = [
    pytest.mark.tensorflow,
    # Keras's saving code, with numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture
def model_folder(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model in it."""
    small.save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("model_folder")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "chest",
            {},
            "'chest' is neither a file nor a function. Give a .keras file, a whole-model .h5 file, "
            "a SavedModel folder, or package.module:function.",
        ),
        ("modle.keras", {}, "there is no file 'modle.keras'. Did you mean 'model.keras'?"),
        ("saved/model", {}, "there is no file 'saved/model'."),
        (
            "model.keras",
            {"weights": "w.h5"},
            "'model.keras' contains its weights; `weights` is only for package.module:function.",
        ),
        (
            "model.keras",
            {"signature": "serving_default"},
            "'model.keras' has no signatures; only SavedModel folders have them.",
        ),
        (
            "no_such_module_here:build",
            {},
            "cannot import the module 'no_such_module_here': there is no module "
            "'no_such_module_here', neither in this folder nor installed.",
        ),
    ],
)
def test_an_invalid_source_is_an_error(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(source, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "argv",
    [
        ["export", "--help"],
        ["export", "missing.keras", "-o", "out.onnx"],
        ["export", "empty.h5", "-o", "out.onnx"],
        ["export", "model.keras", "-o", "missing/out.onnx"],
        ["export", "model.keras", "-o", "out.onnx", "--custom-objects", "nothing"],
        ["export", "model.keras", "-o", "out.onnx", "--custom-objects", "nomodule:Plain"],
        ["export", "model.keras", "-o", "out.onnx", "--tolerance", "-1"],
        ["export", "model.keras", "-o", "out.onnx", "--tolerance", "nan"],
        ["export", "model.keras", "-o", "out.onnx", "--timeout", "0"],
        ["export", "nomodule:build", "-o", "out.onnx"],
        ["export", "no.package:build", "-o", "out.onnx"],
        ["verify", "missing.onnx", "model.keras"],
    ],
)
def test_invalid_arguments_are_reported_without_importing_tensorflow(
    argv: list[str], model_folder: Path
) -> None:
    (model_folder / "empty.h5").touch()
    code = (
        f"import sys; from layertap.cli import main; code = main({argv!r}); "
        "print(code, 'tensorflow' in sys.modules, 'keras' in sys.modules, 'h5py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()[-1]
    assert printed == ("0 False False False" if "--help" in argv else "2 False False False")
    assert done.stderr.startswith("layertap: ") == ("--help" not in argv)
