"""The descriptions of the models in `layertap_models`."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import layertap_models
from layertap.errors import UsageError
from layertap.extract.moments import collection_statistics
from layertap.images.preprocessing import Preprocessing, Standardize
from layertap_models.registry import MODELS, find


def test_registry_lists_the_models() -> None:
    """The complete list, in order; a new model must be added here."""
    assert {name: spec.entry_point for name, spec in MODELS.items()} == {
        "chest_xray": "layertap_models.chest_xray:build",
        "digits": "layertap_models.digits:train",
    }
    assert [spec.name for spec in MODELS.values()] == list(MODELS)


def test_public_names_are_exported() -> None:
    assert sorted(layertap_models.__all__) == ["MODELS", "ModelSpec", "find"]
    assert layertap_models.find("digits") is MODELS["digits"]


def test_chest_labels_are_those_of_chestx_ray14() -> None:
    """The fourteen findings, in the order of the outputs."""
    assert list(MODELS["chest_xray"].labels) == [
        *("Cardiomegaly", "Emphysema", "Effusion", "Hernia", "Infiltration", "Mass", "Nodule"),
        *("Atelectasis", "Pneumothorax", "Pleural_Thickening", "Pneumonia", "Fibrosis", "Edema"),
        "Consolidation",
    ]


@pytest.mark.parametrize("name", MODELS)
def test_preprocessing_fits_the_input(name: str) -> None:
    spec = MODELS[name]
    recipe = Preprocessing.from_dict(spec.preprocessing)
    assert recipe.size is not None
    assert (*recipe.size, recipe.channel_count) == spec.input_shape


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("entry_point", ["entry_point", "samples"])
def test_entry_points_are_functions(name: str, entry_point: str) -> None:
    module, function = getattr(MODELS[name], entry_point).split(":")
    assert callable(getattr(import_module(module), function))


def test_chest_constants_are_those_of_the_named_radiographs(shared_xrays: Path) -> None:
    """Mean and standard deviation have the origin that `source` states."""
    recipe = Preprocessing.from_dict(MODELS["chest_xray"].preprocessing)
    measured = collection_statistics(shared_xrays, size=(320, 320))
    assert isinstance(recipe.scaling, Standardize)
    assert recipe.scaling.mean == pytest.approx(measured.mean, abs=0.005)
    assert recipe.scaling.std == pytest.approx(measured.std, abs=0.005)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "chest_x-ray",
            "no model is named 'chest_x-ray'; the models are chest_xray, digits."
            " Did you mean 'chest_xray'?",
        ),
        ("resnet", "no model is named 'resnet'; the models are chest_xray, digits."),
    ],
)
def test_unknown_model_is_a_usage_error(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(name)
    assert str(caught.value) == message


def test_registry_is_read_only() -> None:
    with pytest.raises(TypeError):
        MODELS["other"] = MODELS["digits"]  # type: ignore[index]


def test_import_does_not_import_tensorflow() -> None:
    """Neither the package nor the modules that build models import large packages."""
    code = (
        "import sys, layertap_models, layertap_models.chest_xray, layertap_models.digits\n"
        "print({'tensorflow', 'keras', 'h5py', 'sklearn', 'onnx'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"
