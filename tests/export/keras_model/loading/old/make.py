"""Write the files in this folder, with the original Keras of 2017 to 2019.

    pip download --no-deps keras==2.2.4 keras_applications==1.0.8 keras_preprocessing==1.1.2
    (unpack the three wheels into a folder KERAS)
    python make.py KERAS OUT

These versions are pure Python, and run on a current TensorFlow if the parts of the old TensorFlow
that they use are restored; see `_restore`. Each model is saved whole (`NAME.h5`) and as weights
(`NAME_weights.h5`); `NAME.npz` contains an input, and the prediction of that Keras for it.
"""

from __future__ import annotations

import collections
import collections.abc
import inspect
import os
import sys
import types
from pathlib import Path
from typing import Any


def _restore(folder: str) -> None:
    """Restore the parts of TensorFlow 1, Python 3.6 and packages that Keras 2.0 to 2.3 use."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    for name in ("Iterable", "Mapping", "MutableMapping", "Sequence", "Callable"):
        setattr(collections, name, getattr(collections.abc, name))
    old: Any = inspect
    old.getargspec = lambda function: inspect.getfullargspec(function)[:4]
    import tensorflow
    import tensorflow.compat.v1 as tf
    import tf_keras
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import cond, control_flow_ops, while_loop

    tf.disable_v2_behavior()
    tf.keras, tf.__path__ = tf_keras, tensorflow.__path__
    sys.modules["tensorflow"] = tf
    ops._TensorLike = (tf.Tensor, tf.Variable)
    ops.is_dense_tensor_like = lambda x: isinstance(x, (tf.Tensor, tf.Variable))
    control_flow_ops.while_loop, control_flow_ops.cond = while_loop.while_loop, cond.cond
    contrib = "tensorflow.contrib.tensorboard.plugins"
    for name in ("yaml", *(contrib.rsplit(".", n)[0] for n in range(3))):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[contrib].projector = None  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
        del sys.modules[name]
    sys.path.insert(0, folder)


def models(keras: Any) -> dict[str, Any]:
    """The models by name."""
    k, model, sequential = keras.layers, keras.models.Model, keras.models.Sequential

    def chain(shape: tuple[int, ...], *layers: Any, dtype: str = "float32") -> Any:
        x = start = k.Input(shape, dtype=dtype)
        for layer in layers:
            x = layer(x)
        return model(start, x)

    def backbone(frozen: tuple[str, ...]) -> Any:
        x = start = k.Input((8, 8, 3))
        for number in "12":
            x = k.Conv2D(4, 3, name=f"conv{number}")(x)
            x = k.BatchNormalization(name=f"bn{number}")(x)
        inner = model(start, x, name="backbone")
        for name in frozen:
            inner.get_layer(name).trainable = False
        return inner

    return {
        "slashes": chain(
            (8, 8, 3),
            k.Conv2D(4, 3, use_bias=False, name="conv1/conv"),
            k.BatchNormalization(name="conv1/bn"),
            k.Activation("relu", name="conv1/relu"),
            k.MaxPooling2D(),
            k.Dropout(0.5),
            k.Flatten(),
            k.Dense(3, activation="softmax"),
        ),
        "nested": chain((8, 8, 3), backbone(("bn1",)), k.Flatten(), k.Dense(2)),
        "sequential": sequential(
            [backbone(("conv1", "bn1", "conv2", "bn2")), k.Flatten(), k.Dense(2)]
        ),
        "numbers": sequential([k.Dense(4, input_shape=(4,)), k.Dense(4), k.Dense(4)]),
        "gru": sequential([k.Embedding(11, 4, input_length=7), k.GRU(3)]),
        "lambda": sequential(
            [k.Dense(4, input_shape=(5,)), k.Lambda(lambda x: x * 2, name="double")]
        ),
    }


def main(folder: str, out: str) -> None:
    """Write all files."""
    _restore(folder)
    import keras
    import numpy as np

    random = np.random.RandomState(0)
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, model in models(keras).items():
        model.set_weights(
            [
                (0.5 + random.rand(*w.shape) if w.ndim == 1 else random.normal(0, 0.3, w.shape))
                for w in model.get_weights()
            ]
        )
        shape = model.input_shape[1:]
        x = (
            random.randint(0, 11, (2, *shape))
            if name == "gru"
            else random.normal(0, 1, (2, *shape))
        )
        np.savez(Path(out, f"{name}.npz"), x=x.astype(np.float32), y=model.predict(x))
        model.save(Path(out, f"{name}.h5").as_posix())
        model.save_weights(Path(out, f"{name}_weights.h5").as_posix())
        print(keras.__version__, name, model.predict(x).shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
