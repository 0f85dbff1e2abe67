"""Model files of strangers: what loading them may not reach without `--unsafe`."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import layertap
import layertap_export
from layertap_export import UnsafeModelError, UnsupportedLayerError, load_model
from layertap_export.keras_model.loading import hdf5
from layertap_export.keras_model.loading.weight_files import read_weights

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


# --- SavedModels --------------------------------------------------------------------------------


def module(body: Callable[[Any, Any], Any]) -> Any:
    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.ones((5, 2), np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32, name="x")])
        def serve(self, x: Any) -> Any:
            return {"y": body(self, x)}

    return Net()


def saved(body: Callable[[Any, Any], Any], folder: Path) -> Path:
    net = module(body)
    tf.saved_model.save(net, str(folder), signatures={"serving_default": net.serve})
    return folder


def writes(target: Path) -> Callable[[Any, Any], Any]:
    def body(net: Any, x: Any) -> Any:
        tf.io.write_file(str(target), tf.strings.as_string(tf.shape(x)[0]))
        return x @ net.w

    return body


def in_a_branch(target: Path) -> Callable[[Any, Any], Any]:
    def body(net: Any, x: Any) -> Any:
        y = x @ net.w
        return tf.cond(
            tf.reduce_sum(x) > 1e9,
            lambda: tf.strings.length(tf.io.read_file(str(target))) + tf.cast(y, tf.int32),
            lambda: tf.cast(y, tf.int32),
        )

    return body


def python(target: Path) -> Callable[[Any, Any], Any]:
    def body(net: Any, x: Any) -> Any:
        tf.py_function(lambda: target.write_text("here"), [], [])
        return x @ net.w

    return body


def prints(target: Path) -> Callable[[Any, Any], Any]:
    def body(net: Any, x: Any) -> Any:
        tf.print("here", output_stream=f"file://{target}")
        return x @ net.w

    return body


def table(target: Path) -> Callable[[Any, Any], Any]:
    def body(net: Any, x: Any) -> Any:
        lines = tf.data.TextLineDataset(str(target))
        return x @ net.w + tf.cast(lines.reduce(np.int64(0), lambda n, _: n + 1), tf.float32)

    return body


@pytest.mark.parametrize("body", [writes, in_a_branch, python, prints, table])
@pytest.mark.parametrize("signature", [None, "serving_default"])
def test_a_saved_model_that_reaches_out_is_refused(
    body: Callable[[Path], Any], signature: str | None, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    path = saved(body(target), tmp_path / "saved")
    with pytest.raises(UnsafeModelError, match=r"would run during the export\. If you trust it"):
        layertap_export.export(path, tmp_path / "m.onnx", signature=signature)
    assert not target.exists()
    assert not (tmp_path / "m.onnx").exists()


def test_an_operation_with_an_effect_is_not_left_out(tmp_path: Path) -> None:
    """With `unsafe`, the model may run; but a file without its effect is not this model."""
    path = saved(writes(tmp_path / "target"), tmp_path / "saved")
    with pytest.raises(
        UnsupportedLayerError, match=r"writes files \(.* WriteFile\), which an ONNX"
    ):
        layertap_export.export(path, tmp_path / "m.onnx", unsafe=True)


def test_restoring_variables_is_no_reach(tmp_path: Path) -> None:
    path = saved(lambda net, x: x @ net.w, tmp_path / "saved")
    report = layertap_export.export(path, tmp_path / "m.onnx")
    found = layertap.open(report.path).predict(X)
    np.testing.assert_allclose(found, X.sum(axis=1, keepdims=True) * [1, 1], rtol=1e-5)


def test_the_saver_called_by_a_signature(tmp_path: Path) -> None:
    def body(net: Any, x: Any) -> Any:
        prefix = str(tmp_path / "saved" / "variables" / "variables")
        names, slices = ["w/.ATTRIBUTES/VARIABLE_VALUE"], [""]
        return x @ tf.ensure_shape(tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=names, shape_and_slices=slices, dtypes=[tf.float32]
        )[0], (5, 2))  # fmt: skip

    path = saved(body, tmp_path / "saved")
    with pytest.raises(UnsafeModelError, match="RestoreV2"):
        load_model(path)


class Vocabulary(tf.Module):
    def __init__(self, file: Path) -> None:
        super().__init__()
        made = tf.lookup.TextFileInitializer(
            str(file), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
        )  # fmt: skip
        self.table = tf.lookup.StaticHashTable(made, -1)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": self.table.lookup(x)}


def test_a_vocabulary_of_its_own_is_no_reach(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    net = Vocabulary(tmp_path / "words.txt")
    path = tmp_path / "saved"
    tf.saved_model.save(net, str(path), signatures={"serving_default": net.serve})
    load_model(path)
    (tmp_path / "secret.txt").write_text("secret\n")
    (path / "assets" / "words.txt").unlink()
    (path / "assets" / "words.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafeModelError, match=r"reads the file 'words\.txt', which is outside"):
        load_model(path)
    shutil.copy(tmp_path / "words.txt", tmp_path / "away.txt")
    data = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").write_bytes(data.replace(b"words.txt", b"../../a.t"))
    with pytest.raises(
        UnsafeModelError, match=r"reads the file '\.\./\.\./a\.t', which is outside"
    ):
        load_model(path)


def test_a_layer_that_writes_is_refused(tmp_path: Path) -> None:
    class Logs(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            tf.io.write_file(str(tmp_path / "log"), "here")
            return x * 2.0

    x = keras.Input((5,))
    with pytest.raises(UnsupportedLayerError, match=r"layer 'logs' reads or writes files"):
        layertap_export.export(keras.Model(x, Logs(name="logs")(x)), tmp_path / "m.onnx")


# --- HDF5 ---------------------------------------------------------------------------------------


def secret(folder: Path) -> Path:
    path = folder / "secret.bin"
    path.write_bytes(np.full(10, 7, np.float32).tobytes())
    with h5py.File(folder / "other.h5", "w") as file:
        file["kernel"] = np.full((5, 2), 7, np.float32)
    return path


def external(group: Any, name: str, folder: Path) -> None:
    group.create_dataset(name, (5, 2), np.float32, external=[(str(folder / "secret.bin"), 0, 40)])


def linked(group: Any, name: str, folder: Path) -> None:
    group[name] = h5py.ExternalLink(str(folder / "other.h5"), "kernel")


def virtual(group: Any, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout((5, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "kernel", (5, 2))
    group.create_virtual_dataset(name, layout)


def spoil(path: Path, change: Callable[[Any, str, Path], None], folder: Path) -> None:
    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visititems(
            lambda name, item: found.append(name) if getattr(item, "shape", 0) == (5, 2) else None
        )
        owner, _, name = found[0].rpartition("/")
        del file[owner][name]
        change(file[owner], name, folder)


@pytest.fixture
def model() -> Any:
    x = keras.Input((5,))
    return keras.Model(x, keras.layers.Dense(2)(x))


@pytest.mark.parametrize("change", [external, linked, virtual])
@pytest.mark.parametrize("kind", ["m.keras", "m.h5", "m.weights.h5", "folder"])
def test_weights_in_another_file_are_refused(
    model: Any, change: Any, kind: str, tmp_path: Path
) -> None:
    secret(tmp_path)
    path = tmp_path / kind
    if kind in ("m.h5", "m.weights.h5"):
        (model.save if kind == "m.h5" else model.save_weights)(path)
        spoil(path, change, tmp_path)
    else:
        model.save(tmp_path / "whole.keras")
        with zipfile.ZipFile(tmp_path / "whole.keras") as archive:
            archive.extractall(tmp_path / "folder")
        spoil(tmp_path / "folder" / "model.weights.h5", change, tmp_path)
        if kind == "m.keras":
            with zipfile.ZipFile(path, "w") as archive:
                for one in (tmp_path / "folder").iterdir():
                    archive.write(one, one.name)
    with pytest.raises(UnsafeModelError, match=r"reads .* from another file, .*(secret|other)"):
        read_weights(path) if kind == "m.weights.h5" else load_model(path)
    if kind == "m.keras":
        with pytest.raises(UnsafeModelError):
            read_weights(path)


@pytest.mark.parametrize("kind", ["m.keras", "m.h5"])
def test_a_vocabulary_that_is_a_path_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    x = keras.Input((1,), dtype="string")
    model = keras.Model(x, keras.layers.StringLookup(vocabulary=["a", "b"], name="words")(x))
    path = tmp_path / kind
    model.save(path)
    load_model(path)
    changed = json.dumps(str(tmp_path / "secret.txt"))
    if kind == "m.h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            _with_vocabulary(config, json.loads(changed))
            file.attrs["model_config"] = json.dumps(config)
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(members["config.json"])
        _with_vocabulary(config, json.loads(changed))
        members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    with pytest.raises(UnsafeModelError, match=r"a layer 'words' whose vocabulary is the file"):
        load_model(path)


def _with_vocabulary(config: Any, value: str) -> None:
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "StringLookup":
            layer["config"]["vocabulary"] = value


# --- Files that grow ----------------------------------------------------------------------------


def test_an_archive_that_unpacks_to_gigabytes(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model.save(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros", "w", force_zip64=True) as file:
            for _ in range(1 << 6):
                file.write(bytes(1 << 24))
        with archive.open("more", "w", force_zip64=True) as file:
            file.write(bytes(1 << 24))
    with pytest.raises(UnsafeModelError, match=r"would unpack .* MB into 1\.1 GB"):
        load_model(path)


def test_weights_that_unpack_to_gigabytes(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.h5"
    model.save(path)
    load_model(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("model_weights/huge", (1 << 40,), np.float32, chunks=(1 << 20,))
    with pytest.raises(UnsafeModelError, match=r"into 4398\.0 GB"):
        load_model(path)
    monkeypatch.setattr(hdf5, "BOMB_BYTES", 1 << 45)
    load_model(path)
