"""Neither verification nor `layertap check` can be fooled.

Each weight of small models of every kind is changed in the written file, and both must notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from generators.mutations import MODELS, STEPS, TOKENS, VOCABULARY, Mutant, make, mutants
from layertap._engine.session import plain_session
from layertap.comparing.check import check
from layertap.comparing.measures import difference
from layertap_export.keras_model.subject import subject_of
from layertap_export.verification import layers as verification
from layertap_export.verification.keras_itself import KerasItself
from layertap_export.verification.layers import verify_file
from layertap_export.verification.written_file import WrittenFile

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose: `verify`, `open` and `check` warn of that.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]

QUICK = ["dense", "batch normalisation", "float tokens", "channels first"]
"""Models for `make test`; the slow test has all, and changes each weight along every axis."""

SHOWS = 1e-3
"""A mutant counts if some output changes by at least this share of its scale: ten tolerances."""

SAMPLES = 200


def samples(path: Path) -> dict[str, np.ndarray]:
    """Random samples for the inputs of a file, not those of verification; every token occurs."""
    generator = np.random.default_rng(1)
    feeds = {}
    for info in layertap.open(path).inputs:
        shape = (SAMPLES, *(5 if size is None else size for size in info.shape[1:]))
        if info.name == TOKENS:
            values = np.resize(np.arange(VOCABULARY), (SAMPLES, STEPS)).astype(float)
        elif "int" in info.dtype:
            values = generator.integers(0, 9, shape).astype(float)
        else:
            values = generator.uniform(-1, 1, shape)
        feeds[info.name] = values.astype(info.dtype)
    return feeds


class Candidates:
    """A model's file and its mutants, and what verification and check say of each."""

    def __init__(self, keras: Any, name: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        model = make(keras, name)
        self.path = folder / "model.onnx"
        layertap_export.export(model, self.path)
        card = layertap.open(self.path).card
        assert card is not None
        self._card, self._subject = card, subject_of(model)
        self._traced = self._subject.trace()
        self._feeds = samples(self.path)
        self._expected = self._run(self.path)
        # The model in float64 is the same for every mutant; to build it takes longer than to run.
        models: dict[str, Any] = {}

        class Known(KerasItself):
            @property
            def _copies(self) -> Any:
                if not models:
                    models["copies"] = super()._copies
                return models["copies"]

        patch.setattr(verification, "KerasItself", Known)

    def mutants(self, every_axis: bool) -> Iterator[Mutant]:
        return mutants(onnx.load(self.path), every_axis)

    def written(self, mutant: Mutant) -> Path:
        path = self.path.with_name("mutant.onnx")
        onnx.save(mutant.model, path)
        return path

    def shows(self, path: Path) -> bool:
        """Whether a mutant computes something else than the file, for some sample."""
        return any(
            difference(value, expected).scaled > SHOWS
            for value, expected in zip(self._run(path), self._expected, strict=True)
        )

    def verifies(self, path: Path) -> bool:
        return bool(verify_file(WrittenFile(path), self._subject, self._card, traced=self._traced))

    def _run(self, path: Path) -> list[Any]:
        return list(plain_session(path).run(None, self._feeds))


def counted(candidates: Candidates, every_axis: bool) -> tuple[list[str], list[str], int]:
    """The mutants that verification and check do not notice, and the number of those that count."""
    unverified, unchecked, count = [], [], 0
    for mutant in candidates.mutants(every_axis):
        path = candidates.written(mutant)
        if not candidates.shows(path):
            continue
        count += 1
        if candidates.verifies(path):
            unverified.append(mutant.name)
        if check(layertap.open(path)):
            unchecked.append(mutant.name)
    return unverified, unchecked, count


@pytest.mark.parametrize("name", QUICK)
def test_changed_weights_are_noticed(
    name: str, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = Candidates(keras, name, tmp_path, monkeypatch)
    assert candidates.verifies(candidates.path)
    assert check(layertap.open(candidates.path))
    unverified, unchecked, count = counted(candidates, every_axis=False)
    assert unverified == []
    assert len(unchecked) <= max(1, 0.05 * count), unchecked
    assert count >= 3


@pytest.mark.slow
def test_changed_weights_of_all_kinds_are_noticed(keras: Any, tmp_path: Path) -> None:
    unverified, unchecked, total = [], [], 0
    for name in MODELS:
        folder = tmp_path / name
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            found = counted(Candidates(keras, name, folder, patch), every_axis=True)
        unverified += [f"{name}: {text}" for text in found[0]]
        unchecked += [f"{name}: {text}" for text in found[1]]
        total += found[2]
        print(name, len(found[0]), len(found[1]), found[2], flush=True)
    print(f"{total} mutants; check misses {len(unchecked)}: {unchecked}")
    assert unverified == []
    assert len(unchecked) <= 0.05 * total, unchecked
    assert total >= 600
