"""ONNX for TensorFlow operations that tf2onnx 1.17 does not support, or converts incorrectly.

Each handler states its formula and the source of the formula. This module is the registry. The
formulas are in one module per theme, and are written with `expressions.Value`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from layertap_export.keras_model.recurrence import OPERATION

from . import (
    colours,
    convolution,
    elementwise,
    fourier,
    linear_algebra,
    lookup,
    losses,
    recurrent,
    reductions,
    resizing,
    searching,
    sequences,
    shapes,
    warping,
    windows,
)
from .expressions import Handler, formula
from .stopping import stop_gradient

HANDLERS: Mapping[str, Handler] = {
    # elementwise
    "Erfc": formula(elementwise.erfc),
    "Expm1": formula(elementwise.expm1),
    "Log": formula(elementwise.log),
    "Log1p": formula(elementwise.log1p),
    "Xlogy": formula(elementwise.xlogy),
    "Xlog1py": formula(elementwise.xlog1py),
    "Xdivy": formula(elementwise.xdivy),
    "Erfinv": formula(elementwise.erfinv),
    "BesselI0": formula(elementwise.bessel_i0),
    "FloorDiv": formula(elementwise.floor_div),
    "FloorMod": formula(elementwise.floor_mod),
    "NextAfter": formula(elementwise.next_after),
    "Less": elementwise.comparison(operator.lt),
    "LessEqual": elementwise.comparison(operator.le),
    "Greater": elementwise.comparison(operator.gt),
    "GreaterEqual": elementwise.comparison(operator.ge),
    "SelectV2": formula(elementwise.select),
    "Atan2": formula(elementwise.arctan2),
    "Bitcast": elementwise.bitcast,
    # reductions
    "Sum": reductions.reduction("Sum"),
    "Prod": reductions.reduction("Prod"),
    # searching
    "Bucketize": searching.bucketize,
    "LowerBound": searching.lower_bound,
    "UpperBound": searching.upper_bound,
    "InTopKV2": formula(searching.in_top_k),
    "TopKV2": searching.top_k,
    "OneHot": searching.one_hot,
    "DenseBincount": searching.bincount,
    # shapes
    "BroadcastArgs": formula(shapes.broadcast_args),
    "XlaDynamicUpdateSlice": formula(shapes.dynamic_update_slice),
    "Empty": shapes.empty,
    "StopGradient": stop_gradient,
    "ReverseV2": shapes.reverse,
    # strings
    "Equal": lookup.equal,
    "NotEqual": lookup.equal,
    "AsString": lookup.as_string,
    # sequences
    "Cumprod": sequences.cumprod,
    "ScatterNd": sequences.scatter,
    "UnsortedSegmentMax": sequences.segments(largest=True),
    "UnsortedSegmentMin": sequences.segments(largest=False),
    "CTCGreedyDecoder": sequences.ctc_greedy_decoder,
    # linear algebra
    "Cross": formula(linear_algebra.cross),
    "MatrixDiagV3": linear_algebra.diagonal_matrix,
    "MatrixSetDiagV3": linear_algebra.with_diagonal,
    "LogMatrixDeterminant": formula(linear_algebra.log_determinant),
    # Fourier transforms
    "Complex": formula(fourier.complex_of),
    "Real": formula(fourier.real),
    "Imag": formula(fourier.imaginary),
    "ComplexAbs": formula(fourier.absolute),
    "Angle": formula(fourier.angle),
    "Conj": formula(fourier.conjugate),
    "FFT": fourier.transform(1),
    "FFT2D": fourier.transform(2),
    "FFT3D": fourier.transform(3),
    "IFFT": fourier.transform(1, inverse=True),
    "IFFT2D": fourier.transform(2, inverse=True),
    "IFFT3D": fourier.transform(3, inverse=True),
    "RFFT": fourier.real_transform(1),
    "RFFT2D": fourier.real_transform(2),
    "RFFT3D": fourier.real_transform(3),
    "IRFFT": fourier.real_inverse(1),
    "IRFFT2D": fourier.real_inverse(2),
    "IRFFT3D": fourier.real_inverse(3),
    # losses
    "SparseSoftmaxCrossEntropyWithLogits": formula(losses.sparse_cross_entropy),
    # windows
    "MaxPool": windows.pooling("MaxPool"),
    "MaxPool3D": windows.pooling("MaxPool"),
    "AvgPool": windows.pooling("AveragePool"),
    "AvgPool3D": windows.pooling("AveragePool"),
    "ExtractImagePatches": windows.patches,
    # convolution
    "Conv3D": convolution.conv3d,
    "Conv2DBackpropInput": convolution.transposed,
    "Conv3DBackpropInputV2": convolution.transposed,
    # images
    "ResizeBilinear": resizing.resize,
    "ResizeNearestNeighbor": resizing.resize,
    "ResizeBicubic": resizing.bicubic,
    "ResizeArea": resizing.area,
    "ScaleAndTranslate": resizing.scale_and_translate,
    "ImageProjectiveTransformV3": warping.projective_transform,
    "RGBToHSV": formula(colours.rgb_to_hsv),
    "HSVToRGB": formula(colours.hsv_to_rgb),
}
"""Handler by TensorFlow operation."""


def handlers(tables: Mapping[str, lookup.Table]) -> dict[str, tuple[Handler, list[str]]]:
    """The handlers for one graph, in the form of tf2onnx's argument `custom_op_handlers`.

    Args:
        tables: the lookup tables in the graph, by the name of their TensorFlow node.
    """
    of_graph = {
        **HANDLERS,
        "LookupTableFindV2": lookup.lookup(tables),
        OPERATION: recurrent.recurrence,
    }
    return {operation: (handler, []) for operation, handler in of_graph.items()}
