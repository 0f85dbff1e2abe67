"""The names that users may rely on."""

from __future__ import annotations

import inspect
import pickle
import pickletools
import pydoc
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import layertap
import layertap_export
from layertap import errors

PUBLIC = [
    "Batch",
    "Bill",
    "CardVersionError",
    "CheckReport",
    "CollectionBusyError",
    "CollectionError",
    "CollectionMismatchError",
    "Comparison",
    "DependencyError",
    "DeviceError",
    "Drift",
    "Features",
    "ImageError",
    "InputError",
    "Layer",
    "LayerCost",
    "LayerCosts",
    "LayerDrift",
    "LayerNotFoundError",
    "LayerStatistics",
    "LayerValues",
    "LayertapError",
    "LayertapWarning",
    "Model",
    "ModelFileError",
    "OutputError",
    "Preprocessing",
    "PreprocessingError",
    "ReceptiveField",
    "RunInterruptedError",
    "RunTimeoutError",
    "Split",
    "SplitPlace",
    "Tap",
    "TopChannels",
    "UsageError",
    "__version__",
    "cam",
    "compare",
    "features",
    "load_image",
    "open",
]


def test_the_public_names() -> None:
    """A new name is a promise: it is added here on purpose."""
    assert layertap.__all__ == PUBLIC == sorted(PUBLIC) == dir(layertap)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_can_be_imported(name: str) -> None:
    assert getattr(layertap, name) is not None
    scope: dict[str, object] = {}
    exec(f"from layertap import {name}", scope)
    assert scope[name] is getattr(layertap, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError) as caught:
        layertap.load  # noqa: B018
    assert str(caught.value) == "module 'layertap' has no attribute 'load'"


def test_every_error_of_the_runtime_is_public_and_under_one_root() -> None:
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    }
    assert set(kinds) <= set(PUBLIC)
    for name, kind in kinds.items():
        assert issubclass(kind, (layertap.LayertapError, layertap.LayertapWarning)), name
        assert (errors.__doc__ or "").count(name) >= 1, f"{name} is not in the tree"


def test_star_import_works_in_a_fresh_process() -> None:
    runtime = Path(layertap.__file__).parents[1]
    code = "from layertap import *; print(open.__module__, Model.__name__, Preprocessing.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(runtime)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "layertap Model Preprocessing\n"


NAMED = [
    *(("layertap", name) for name in layertap.__all__ if name not in {"__version__", "cam"}),
    *(
        pytest.param("layertap_export", name, marks=pytest.mark.tensorflow)
        for name in layertap_export.__all__
    ),
]


@pytest.mark.parametrize(("package", "name"), NAMED)
def test_a_public_name_names_its_package_as_its_module(package: str, name: str) -> None:
    thing = getattr(import_module(package), name)
    assert (thing.__module__, thing.__qualname__) == (package, name)
    assert pickle.loads(pickle.dumps(thing)) is thing
    first = pydoc.plain(pydoc.render_doc(thing)).splitlines()[0]
    assert first.endswith(f"{name} in module {package}")


def test_a_traceback_names_layertap_as_the_module_of_an_error() -> None:
    """Also for an error class that the program never accessed."""
    done = subprocess.run(
        [sys.executable, "-c", "import layertap; layertap.open('gone.onnx')"],
        env={"PYTHONPATH": str(Path(layertap.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith("layertap.ModelFileError: there is no file")


def test_a_pickled_model_names_public_modules_only(
    tiny_file: Callable[[str], Path],
) -> None:
    """Pickles stay readable when modules move."""
    model = layertap.open(tiny_file("image_classifier"), threads=1)
    named = [
        str(argument)
        for code, argument, _ in pickletools.genops(pickle.dumps(model, protocol=2))
        if code.name == "GLOBAL"
    ]
    assert {name for name in named if name.startswith("layertap")} == {"layertap open"}


@pytest.mark.parametrize("name", ["open", "load_image", "Model", "Tap", "Layer", "Preprocessing"])
def test_public_objects_are_documented(name: str) -> None:
    thing = getattr(layertap, name)
    assert thing.__doc__
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if not key.startswith("_") and callable(getattr(member, "__func__", member)):
                assert inspect.getdoc(member), f"{name}.{key}"
