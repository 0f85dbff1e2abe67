"""Converted TensorFlow operations give the same results as TensorFlow, also for edge cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import reference

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning"),
]

Array = NDArray[Any]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def tf(keras: Any) -> Any:
    import tensorflow

    return tensorflow


def both(
    tf: Any,
    function: Callable[..., Any],
    *arrays: Any,
    opset: int = 18,
    free: bool = True,
    runs_as: Callable[..., Any] | None = None,
) -> list[tuple[Array, Array]]:
    """The outputs of onnxruntime and of TensorFlow for `arrays`: a pair for each output.

    Args:
        tf: the module.
        function: a function of tensors.
        arrays: one for each argument.
        opset: of the ONNX graph.
        free: whether the sizes of the arguments are free.
        runs_as: an equivalent function with one output, if TensorFlow cannot run `function` on a
            CPU.
    """
    from layertap_export.convert.dtypes import as_in_file
    from layertap_export.convert.to_onnx import to_onnx
    from layertap_export.graph.passes.cast_around import cast_around

    arrays = tuple(np.asarray(array) for array in arrays)
    specs = [
        tf.TensorSpec(
            [None] * array.ndim if free else array.shape,
            tf.string if array.dtype == object else array.dtype,
        )
        for array in arrays
    ]

    def call(*tensors: Any) -> list[Any]:
        outputs = function(*tensors)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [tf.identity(x) for x in outputs]

    traced = tf.function(call, autograph=False).get_concrete_function(*specs)
    names = [f"x{i}" for i in range(len(arrays))]
    raw = to_onnx(traced, names, opset)
    model = raw.model
    model.ir_version = 8
    cast_around(model, raw.initializers)
    onnx.checker.check_model(model)
    session = reference.session(model.SerializeToString())
    used = {x.name for x in session.get_inputs()}
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if name in used}
    actual = session.run([x.name for x in model.graph.output], feeds)
    tensors = [tf.constant(array) for array in arrays]
    results = [runs_as(*tensors)] if runs_as else traced(*tensors)
    expected = [as_in_file(x.numpy()) for x in results]
    return list(zip(actual, expected, strict=True))


@pytest.fixture(scope="module", autouse=True)
def every_handler_is_called(request: pytest.FixtureRequest, keras: Any) -> Iterator[None]:
    """Fail if no test here calls one of the handlers; checked only if all tests here run."""
    from layertap_export.convert import tf_ops

    called: set[str] = set()

    def recording(operation: str, handler: Any) -> Any:
        def handle(*args: Any) -> None:
            called.add(operation)
            handler(*args)

        return handle

    with pytest.MonkeyPatch.context() as patch:
        handlers = {name: recording(name, handler) for name, handler in tf_ops.HANDLERS.items()}
        patch.setattr(tf_ops, "HANDLERS", handlers)
        yield
    here = [item for item in request.session.items if item.path == request.path]
    tests = [name for name in vars(request.module) if name.startswith("test_")]
    if {getattr(item, "originalname", item.name) for item in here} >= set(tests):
        assert sorted(handlers.keys() - called - ELSEWHERE) == []


ELSEWHERE = {
    *("AsString", "AvgPool", "AvgPool3D", "ExtractImagePatches", "MatrixDiagV3", "MatrixSetDiagV3"),
    *("MaxPool", "MaxPool3D", "SparseSoftmaxCrossEntropyWithLogits", "ReverseV2", "StopGradient"),
}
"""Operations that test_edges.py, test_recurrent.py and the tests of gradients convert."""


def agree(pairs: Sequence[tuple[Array, Array]], rtol: float = 1e-6, atol: float = 1e-6) -> None:
    assert pairs
    for actual, expected in pairs:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(actual, expected)


def noise(*shape: int, low: float = -1, high: float = 1, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).uniform(low, high, shape).astype(dtype)


# --- Elementwise --------------------------------------------------------------------------------

INF, NAN = np.inf, np.nan
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-30, -1e-8, 1e-4, 0.5, -0.25, 3.0, -7.5, INF, -INF, NAN]

UNARY: Mapping[str, tuple[Callable[[Any], Callable[..., Any]], list[float]]] = {
    "erfc": (lambda tf: tf.math.erfc, SPECIAL),
    "expm1": (lambda tf: tf.math.expm1, [*SPECIAL, 80.0, -200.0, 1e-10, 1e-3]),
    "log1p": (lambda tf: tf.math.log1p, [*SPECIAL, -0.9999, 1e30, 3e-5, -3e-7, -2.0]),
    "bessel_i0": (lambda tf: tf.math.bessel_i0, [*SPECIAL[:11], 3.74, 3.76, 20.0, -40.0]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number_match(name: str, dtype: Any, tf: Any) -> None:
    make, values = UNARY[name]
    points = np.array([*values, *np.linspace(-0.99, 0.99, 41)], dtype)
    # onnxruntime computes Erf in float32; the polynomials for i0 are accurate to seven digits.
    rtol = 1e-6 if name in ("erfc", "bessel_i0") or dtype == np.float32 else 1e-12
    agree(both(tf, make(tf), points), rtol=rtol, atol=2e-7 if name == "erfc" else 1e-35)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logarithms_match(dtype: Any, tf: Any) -> None:
    x = np.array([0.0, 1e-4, 0.5, 1.0, 3.0, 1e4, INF, NAN, -1.0], dtype)
    agree(both(tf, tf.math.log, x), rtol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erfinv_is_the_inverse_of_erf(dtype: Any, tf: Any) -> None:
    """TensorFlow loses digits near 0 and 1, so erf of the result is compared too."""
    x = np.array([*SPECIAL, 0.999, -0.99999, 0.85, -0.9, 1.5, *np.linspace(-0.99, 0.99, 41)], dtype)
    ((actual, expected),) = both(tf, tf.math.erfinv, x)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-7)
    proper = np.abs(x) < 1
    back = [math.erf(value) for value in actual[proper].astype(float)]
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(back, x[proper], rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["floordiv", "floormod", "atan2", "nextafter", "xlogy", "xlog1py", "xdivy"]
)
def test_functions_of_two_numbers_match(name: str, dtype: Any, tf: Any) -> None:
    finite = [x for x in SPECIAL if (abs(x) < 10 and abs(x) > 1e-6) or x == 0]
    pairs = [(x, y) for x, y in itertools.product(finite, finite) if y or not name.startswith("fl")]
    pairs += [(7.5, 2.0), (-7.5, 2.0), (7.5, -2.0), (-7.5, -2.0)]
    x, y = np.array(pairs, dtype).T
    if name == "atan2":  # at infinity too
        x, y = np.append(x, [INF, -INF, 2.0, 2.0, NAN]), np.append(y, [2.0, 2.0, INF, -INF, 1.0])
    x, y = x.astype(dtype), y.astype(dtype)
    rtol = 0.0 if name == "nextafter" else 1e-6
    if name == "nextafter":  # onnxruntime treats subnormal numbers as 0
        x, y = x[x != 0], y[x != 0]
    agree(both(tf, getattr(tf.math, name), x, y), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("name", ["floordiv", "floormod"])
def test_quotients_of_integers_are_rounded_down(name: str, dtype: str, tf: Any) -> None:
    low = 0 if dtype.startswith("u") else -7
    x, y = np.meshgrid(np.arange(low, 8), [1, 2, 3, 7] if not low else [-7, -3, -2, -1, 1, 2, 3, 7])
    agree(both(tf, getattr(tf.math, name), x.astype(dtype), y.astype(dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "uint16", "bool"])
def test_select_ignores_the_elements_not_selected(dtype: str, tf: Any) -> None:
    """A NaN or an infinity that is not selected must not affect the result."""
    floats = dtype.startswith("f")
    x = np.array([NAN, INF, 1, 2] if floats else [0, 1, 1, 0], dtype)
    y = np.array([3, 4, -INF, NAN] if floats else [1, 0, 1, 0], dtype)
    agree(both(tf, tf.where, np.array([False, False, True, True]), x, y))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_where_a_gradient_stops_the_values_pass(dtype: str, tf: Any) -> None:
    x = noise(2, 3, low=-9, high=9).astype(dtype)
    agree(both(tf, lambda a: tf.stop_gradient(a + a) * a, x), rtol=0, atol=0)


def test_the_sign_bit_is_that_of_numpy(tf: Any, keras: Any) -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, INF, -INF, 1e-40, -1e-40], np.float32)
    (pair,) = both(tf, keras.ops.signbit, x, free=False)
    np.testing.assert_array_equal(pair[0], np.signbit(x))
    np.testing.assert_array_equal(*pair)


def test_reading_other_bits_is_an_error(tf: Any) -> None:
    from layertap_export import UnsupportedLayerError

    with pytest.raises(UnsupportedLayerError) as caught:
        both(tf, lambda x: tf.bitcast(x, tf.int32), noise(3))
    assert "Bitcast" in str(caught.value)
    assert "the bits of a tensor cannot be read as another type" in str(caught.value)


LARGE = np.array([2**24 + 1, 2**24, -(2**24) - 1, 7, 2**24 + 3])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_large_integers_are_exact(dtype: str, keras: Any, tf: Any) -> None:
    """They have more digits than float32."""
    x = LARGE.astype(dtype) if dtype == "int32" else LARGE.astype(dtype) * 2**20 + 1
    y = x[::-1].copy()
    ops = keras.ops

    def both_ways(x: Any, y: Any) -> list[Any]:
        return [
            *(compare(x, y) for compare in (tf.less, tf.less_equal, tf.greater, tf.greater_equal)),
            tf.equal(x, y),
            *(tf.maximum(x, y), tf.minimum(x, y), x + y, x - y, x // 3, x % 5, abs(x), -x),
            *(tf.reduce_max(x), tf.reduce_min(x), tf.reduce_sum(x), tf.cumsum(x), tf.sign(x)),
            *(tf.argmax(x), tf.sort(x), tf.argsort(x), *tf.math.top_k(x, 2)),
            *(
                tf.where(x > y, x, y),
                tf.clip_by_value(x, y[3], y[0]),
                tf.math.squared_difference(x, y),
            ),
            *(tf.searchsorted(tf.sort(x), y), ops.flip(x), ops.take(x, [3, 0]), ops.diff(x)),
        ]

    agree(both(tf, both_ways, x, y, free=False))


@pytest.mark.parametrize("dtype", ["int32", "int64", slow("uint8"), slow("int16")])
def test_sums_and_products_that_are_too_large_begin_again(dtype: str, tf: Any) -> None:
    """As in TensorFlow; onnxruntime's reductions give the largest number instead."""
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max, (3, 7, 4), dtype)

    axes: list[Any] = [1, -1, (1, 2), (0, 2), []]

    def reduced(x: Any) -> list[Any]:
        return [
            reduce(x, axis=axis, keepdims=keep)
            for reduce in (tf.reduce_sum, tf.reduce_prod)
            for axis in axes
            for keep in (False, True)
        ]

    agree(both(tf, reduced, x, free=False))
    agree(both(tf, lambda x: [tf.reduce_sum(x, 0), tf.reduce_prod(x % 3, 1)], x))


# --- Searching ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_bucketize_matches(dtype: str, tf: Any) -> None:
    x = np.array([[-2, -1, 0], [1, 2, 3]], dtype)
    x = x + np.array(0.25, dtype) * (dtype.startswith("f"))
    agree(both(tf, lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.25, 2.0]), x))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_search_sorted_matches(side: str, dtype: str, tf: Any) -> None:
    numbers = np.array([[-2, 0, 0, 1, 5], [0, 1, 1, 1, 2]], dtype)
    values = np.array([[-3, -2, 0, 1, 2, 5, 9], [0, 1, 2, 3, -1, 1, 1]], dtype)
    agree(both(tf, lambda x, y: tf.searchsorted(x, y, side=side), numbers, values))


def test_in_top_k_matches(tf: Any) -> None:
    scores = np.array(
        [[1, 5, 2, 2], [1, 5, 2, 2], [1, INF, 2, 0], [NAN, 1, 2, 0], [1, 2, 3, 4], [4, 3, 2, 1]],
        np.float32,
    )
    targets = np.array([3, 0, 0, 1, 9, 1], np.int32)
    for k in (1, 2, 3):
        agree(both(tf, lambda p, t, k=k: tf.math.in_top_k(t, p, k), scores, targets))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize(
    ("on", "off"), [(1.0, 0.0), (5, -3), (np.int8(7), np.int8(2)), (True, False), (False, True)]
)
def test_one_hot_matches(axis: int, on: Any, off: Any, tf: Any) -> None:
    indices = np.array([[0, 2, 5], [-1, 1, 3]], np.int32)
    agree(both(tf, lambda i: tf.one_hot(i, 4, tf.constant(on), tf.constant(off), axis), indices))


@pytest.mark.parametrize("shape", [(9,), (3, 5)])
@pytest.mark.parametrize("case", ["plain", "weights", "binary"])
def test_bincount_matches(shape: tuple[int, ...], case: str, tf: Any) -> None:
    numbers = np.random.default_rng(0).integers(0, 6, shape).astype(np.int32)
    weights = noise(*shape) if case == "weights" else np.zeros(0, np.float32)

    def count(x: Any, *w: Any) -> Any:
        return tf.raw_ops.DenseBincount(
            input=x,
            size=5,
            weights=w[0] if w else tf.constant([], tf.float32),
            binary_output=case == "binary",
        )

    agree(both(tf, count, numbers, *([weights] if case == "weights" else [])))


# --- Shapes and sequences -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"),
    [([2, 3], [2, 3]), ([1, 3], [2, 1]), ([4], [2, 3, 4]), ([2, 3, 1], [5]), ([], [3]), ([1], [0])],
)
def test_broadcast_args_matches(x: list[int], y: list[int], tf: Any) -> None:
    shapes = [np.array(shape, np.int32) for shape in (x, y)]
    agree(both(tf, lambda a, b: tf.raw_ops.BroadcastArgs(s0=a, s1=b), *shapes))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_empty_tensors_are_zeros(dtype: str, tf: Any) -> None:
    def call(shape: Any) -> Any:
        return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)

    agree(both(tf, call, np.array([2, 3], np.int32), free=False))


@pytest.mark.parametrize("start", [(0, 0), (1, 2), (2, 3), (9, 9), (-5, 1)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_dynamic_update_slice_matches(start: tuple[int, int], dtype: str, tf: Any) -> None:
    """Also for start indices that are out of range, which are clipped."""
    from tensorflow.compiler.tf2xla.python import xla

    operand, update = ((noise(*size) * 9 + 3).astype(dtype) for size in ((4, 6), (2, 3)))
    agree(both(tf, xla.dynamic_update_slice, operand, update, np.array(start, np.int32)))


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize(("exclusive", "reverse"), [(False, False), (True, False), (False, True)])
def test_cumprod_matches(axis: int, exclusive: bool, reverse: bool, tf: Any) -> None:
    x = noise(3, 4)
    agree(both(tf, lambda x: tf.math.cumprod(x, axis, exclusive, reverse), x, free=False))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("name", ["max", "min"])
def test_segments_match_with_and_without_elements(name: str, dtype: str, tf: Any) -> None:
    data = (noise(5, 2, 3) * 9).astype(dtype)
    segments = np.array([3, 0, 3, 1, 0], np.int32)
    function = getattr(tf.math, f"unsorted_segment_{name}")
    agree(both(tf, lambda x, i: function(x, i, 5), data, segments))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_scatter_adds_what_has_the_same_index(dtype: str, tf: Any) -> None:
    data = (noise(4, 3) * 9).astype(dtype)
    indices = np.array([[2], [0], [2], [2]], np.int32)
    agree(both(tf, lambda i, x: tf.scatter_nd(i, x, [4, 3]), indices, data))


@pytest.mark.parametrize("blank", [0, 2, -1])
@pytest.mark.parametrize("merge", [True, False])
def test_ctc_greedy_decoder_matches(blank: int, merge: bool, tf: Any) -> None:
    scores = noise(9, 3, 5)
    scores[3:5, 0] = scores[2, 0]  # repetitions
    lengths = np.array([9, 4, 1], np.int32)

    def decode(x: Any, n: Any) -> list[Any]:
        (sparse,), total = tf.nn.ctc_greedy_decoder(x, n, merge, blank)
        return [sparse.indices, sparse.values, sparse.dense_shape, total]

    agree(both(tf, decode, scores, lengths))


# --- Linear algebra and complex numbers ---------------------------------------------------------


def test_the_cross_product_matches(tf: Any) -> None:
    agree(both(tf, tf.linalg.cross, noise(4, 2, 3), noise(4, 2, 3) + 0.5))


def test_the_log_determinant_matches(tf: Any) -> None:
    matrices = noise(5, 4, 4)
    agree(both(tf, tf.linalg.slogdet, matrices, free=False), rtol=1e-5)


LENGTHS = [slow(1), slow(2), 7, 8, slow(50), slow(64)]


def parts(tf: Any, x: Any) -> list[Any]:
    return [tf.math.real(x), tf.math.imag(x)]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_fourier_transforms_match(length: int, free: bool, tf: Any) -> None:
    x, y = noise(3, length), noise(3, length) * 0.5 + 0.1
    for transform in (tf.signal.fft, tf.signal.ifft):
        function = lambda a, b, t=transform: parts(tf, t(tf.complex(a, b)))  # noqa: E731
        agree(both(tf, function, x, y, free=free), atol=1e-5)
    agree(both(tf, lambda a: parts(tf, tf.signal.rfft(a)), x, free=free), atol=1e-5)


@pytest.mark.parametrize("length", [1000, 1024])
def test_fourier_transforms_are_accurate_to_float32(length: int, tf: Any) -> None:
    """onnxruntime's DFT alone has an error of 1e-4 of the scale at 1000."""
    for actual, expected in both(tf, lambda a: parts(tf, tf.signal.rfft(a)), noise(2, length)):
        assert np.abs(actual - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("length", [5, 8, 12, 16])
def test_fourier_transforms_truncate_and_pad(length: int, tf: Any) -> None:
    x, y = noise(3, 9), noise(3, 9) * 0.5
    agree(both(tf, lambda a: parts(tf, tf.signal.rfft(a, [length])), x), atol=1e-5)
    inverse = lambda a, b: tf.signal.irfft(tf.complex(a, b), [length])  # noqa: E731
    agree(both(tf, inverse, x, y, free=False), atol=1e-5)


def test_fourier_transforms_over_several_axes_match(tf: Any) -> None:
    x, y = noise(2, 3, 5, 8), noise(2, 3, 5, 8) * 0.5
    for name in ("fft2d", "fft3d", "ifft2d", "ifft3d"):
        transform = getattr(tf.signal, name)
        function = lambda a, b, t=transform: parts(tf, t(tf.complex(a, b)))  # noqa: E731
        agree(both(tf, function, x, y), atol=2e-5)
    agree(both(tf, lambda a: parts(tf, tf.signal.rfft2d(a, [4, 6])), x), atol=1e-5)
    agree(both(tf, lambda a: parts(tf, tf.signal.rfft3d(a)), x), atol=1e-5)
    for transform in (tf.signal.irfft2d, tf.signal.irfft3d):
        inverse = lambda a, b, t=transform: t(tf.complex(a, b))  # noqa: E731
        agree(both(tf, inverse, x, y, free=False), atol=1e-5)


def test_parts_of_complex_numbers_match(tf: Any) -> None:
    x, y = np.meshgrid(np.array([0, 1, -1, 2.5], np.float32), np.array([0, 3, -2], np.float32))

    def measures(a: Any, b: Any) -> list[Any]:
        z = tf.complex(a, b)
        return [tf.abs(z), tf.math.angle(z), *parts(tf, tf.math.conj(z))]

    agree(both(tf, measures, x, y))


def test_other_operations_on_complex_numbers_are_an_error(tf: Any) -> None:
    from layertap_export import UnsupportedLayerError

    with pytest.raises(UnsupportedLayerError) as caught:
        both(tf, lambda a, b: tf.abs(tf.complex(a, b) * tf.complex(b, a)), noise(3), noise(3))
    assert str(caught.value).endswith(
        "uses the TensorFlow operation Mul on numbers of type complex64, which onnxruntime does "
        "not compute. Work with real and imaginary parts in separate tensors, or export a "
        "model that ends before it."
    )


def test_the_fourier_transform_needs_opset_17(tf: Any) -> None:
    from layertap_export import UnsupportedLayerError

    with pytest.raises(UnsupportedLayerError) as caught:
        both(tf, lambda a: parts(tf, tf.signal.rfft(a)), noise(3, 8), opset=16)
    assert "the Fourier transform needs opset 17 or newer, and this export has 16" in str(
        caught.value
    )


# --- Convolutions -------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "stride", "surplus"),
    [(3, 2, 0), (2, 3, 0), (4, 2, 1), slow(1, 2, 0), slow(5, 1, 0), slow(3, 3, 1)],
)
def test_transposed_convolutions_match(
    kernel: int, stride: int, surplus: int, padding: str, free: bool, tf: Any
) -> None:
    """For output sizes from which a convolution with these settings gives 5 x 4."""
    height, width = (
        size * stride - surplus if padding == "SAME" else (size - 1) * stride + kernel + surplus
        for size in (5, 4)
    )
    x, weights = noise(2, 5, 4, 3), noise(kernel, kernel, 2, 3)

    def call(x: Any) -> Any:
        shape = tf.stack([tf.shape(x)[0], height, width, 2])
        return tf.nn.conv2d_transpose(x, weights, shape, stride, padding)

    agree(both(tf, call, x, free=free), atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolutions_of_volumes_match(padding: str, tf: Any) -> None:
    x, weights = noise(1, 3, 4, 5, 2), noise(2, 3, 2, 4, 2)
    size = (6, 8, 10) if padding == "SAME" else (6, 9, 10)

    def call(x: Any) -> Any:
        return tf.nn.conv3d_transpose(x, weights, [1, *size, 4], 2, padding)

    agree(both(tf, call, x, free=False), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions_of_volumes_match(groups: int, keras: Any, tf: Any) -> None:
    x, weights = noise(2, 4, 5, 6, 4), noise(2, 3, 2, 4 // groups, 8)

    def call(x: Any) -> Any:
        return tf.nn.convolution(x, weights, padding="SAME")

    compiled = tf.function(call, jit_compile=True)
    agree(both(tf, call, x, free=False, runs_as=compiled), atol=1e-5)


# --- Images -------------------------------------------------------------------------------------

SIZES = [((5, 7), (3, 4)), ((4, 6), (9, 13)), slow(((6, 6), (6, 6))), slow(((1, 3), (4, 1)))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    "method",
    "bilinear nearest bicubic area lanczos3 lanczos5 gaussian mitchellcubic".split(),
)
def test_resizing_matches(method: str, antialias: bool, sizes: Any, tf: Any) -> None:
    (height, width), new_size = sizes
    x = noise(2, height, width, 3)
    for free in (True, False):
        call = lambda x: tf.image.resize(x, new_size, method, antialias=antialias)  # noqa: E731
        agree(both(tf, call, x, free=free), atol=2e-6)


@pytest.mark.parametrize("size", [(3, 3), slow((5, 4)), (1, 7)])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_crops_of_any_size_match(method: str, size: tuple[int, int], tf: Any) -> None:
    """Also where the size of the crop is that of the image, or a box is not inside."""
    x = noise(2, 3, 5, 2)
    boxes = np.array([[0, 0, 0.5, 0.7], [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [-0.2, 0.9, 1.3, 0.1]])
    index = np.array([0, 1, 1, 0], np.int32)

    def call(x: Any, boxes: Any) -> Any:
        return tf.image.crop_and_resize(x, boxes, index, size, method, extrapolation_value=0.25)

    for free in (True, False):
        agree(both(tf, call, x, boxes.astype(np.float32), free=free))


def test_resizing_to_a_computed_size_matches(tf: Any) -> None:
    x = noise(2, 5, 7, 3)
    for method in ("bilinear", "nearest", "bicubic", "area", "lanczos3"):
        call = lambda x, m=method: tf.image.resize(x, tf.shape(x)[1:3] * 2, m)  # noqa: E731
        agree(both(tf, call, x), atol=2e-6)


@pytest.mark.parametrize("dtype", ["uint8", slow("int32"), "float16", slow("float64")])
@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area", "lanczos3"])
def test_resizing_of_other_dtypes_matches(method: str, dtype: str, tf: Any) -> None:
    x = (noise(1, 5, 7, 2, low=0, high=200)).astype(dtype)
    agree(both(tf, lambda x: tf.image.resize(x, (8, 4), method), x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kernel", ["lanczos1", "box", "triangle"])
def test_scale_and_translate_matches(kernel: str, tf: Any) -> None:
    def call(x: Any, scale: Any, shift: Any) -> Any:
        return tf.raw_ops.ScaleAndTranslate(
            images=x,
            size=[6, 9],
            scale=scale,
            translation=shift,
            kernel_type=kernel,
            antialias=True,
        )

    scale, shift = np.array([0.7, 1.3], np.float32), np.array([1.5, -2.25], np.float32)
    agree(both(tf, call, noise(2, 8, 7, 3), scale, shift), atol=2e-6)


TRANSFORMS = np.array(
    [
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1.9, 0.3, -9.3, -0.4, 1.7, -7.1, 0, 0],
        [0.5, -0.2, 30, 0.1, -1.5, 2.5, 0.01, -0.02],
        [1, 0, 0.5, 0, 1, 0.5, -0.5, 0],  # undefined for x = 2
    ],
    np.float32,
)


@pytest.mark.parametrize("interpolation", ["BILINEAR", "NEAREST"])
@pytest.mark.parametrize("fill_mode", ["CONSTANT", "REFLECT", "WRAP", "NEAREST"])
def test_projective_transforms_match(fill_mode: str, interpolation: str, tf: Any) -> None:
    def call(x: Any, transforms: Any) -> Any:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=x,
            transforms=transforms,
            output_shape=[7, 8],
            fill_value=0.25,
            interpolation=interpolation,
            fill_mode=fill_mode,
        )

    agree(both(tf, call, noise(4, 5, 6, 2), TRANSFORMS), atol=1e-4)
    agree(both(tf, call, noise(3, 5, 6, 2), TRANSFORMS[1:2]), atol=1e-4)
    agree(both(tf, call, noise(1, 1, 1, 2), TRANSFORMS[1:2]), atol=1e-4)


COLOURS = np.array(
    [*itertools.product([0, 0.5, 1], repeat=3), [0.2, 0.7, 0.4], [0.7, 0.2, 0.4], [1e-4, 0, 2e-4]],
    np.float32,
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rgb_to_hsv", "hsv_to_rgb"])
def test_colour_conversions_match(name: str, dtype: str, tf: Any) -> None:
    agree(both(tf, getattr(tf.image, name), COLOURS.astype(dtype)[:, None]))


# --- Lookup -------------------------------------------------------------------------------------


def table(tf: Any, keys: Any, values: Any, default: Any) -> Any:
    initial = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values))
    return tf.lookup.StaticHashTable(initial, default)


WORDS = np.array([["cat", "dog", ""], ["größe", "Cat", "dog"]], object)


def test_lookup_tables_match(tf: Any) -> None:
    words = table(tf, ["dog", "cat", "größe"], np.array([5, -3, 2**40]), np.int64(-1))
    agree(both(tf, words.lookup, WORDS))
    numbers = np.array([[7, 2**40, 0], [3, -1, 7]])
    keys = np.array([7, -1, 2**40])
    agree(both(tf, table(tf, keys, np.array([1, 2, 3]), np.int64(0)).lookup, numbers))
    agree(both(tf, table(tf, keys, ["a", "ü", "c"], "none").lookup, numbers))


@pytest.mark.parametrize("negated", [False, True])
def test_comparisons_with_a_constant_string_match(negated: bool, tf: Any) -> None:
    compare = tf.not_equal if negated else tf.equal
    agree(both(tf, lambda x: compare(x, tf.constant("dog")), WORDS))
    agree(both(tf, lambda x: compare("", x), WORDS))


def test_comparing_two_computed_strings_is_an_error(tf: Any) -> None:
    from layertap_export import UnsupportedLayerError

    with pytest.raises(UnsupportedLayerError) as caught:
        both(tf, tf.equal, WORDS, WORDS)
    assert "strings can be compared with one constant string only" in str(caught.value)


# --- Reversed axes ------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [[0], [1], [-1], [0, 2], [2, -2, 0], []])
def test_reversed_axes_match(axes: list[int], tf: Any) -> None:
    agree(both(tf, lambda x: tf.reverse(x, tf.constant(axes, tf.int32)), noise(2, 3, 4)))


@pytest.mark.parametrize("dtype", [np.int32, np.float64, bool])
def test_a_reversed_vector_matches(dtype: Any, tf: Any) -> None:
    agree(both(tf, lambda x: tf.reverse(x, [0]), np.array([1, 0, 2, 5]).astype(dtype)))


def test_axes_that_are_reversed_twice_match(tf: Any) -> None:
    """The same axes are left as they are, others are not."""

    def call(x: Any) -> list[Any]:
        once = tf.reverse(x, [1])
        return [tf.reverse(once, [-2]), tf.reverse(once, [0]), tf.reverse(once[:, ::-1], [1]), once]

    agree(both(tf, call, noise(2, 3, 4)))
