"""Why some TensorFlow operations cannot be converted to ONNX, for error messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

RANDOM = frozenset(
    "Multinomial RandomGammaGrad RandomPoisson RandomPoissonV2 RandomShuffle RandomStandardNormal "
    "RandomUniform RandomUniformInt StatefulUniform StatefulUniformFullInt StatefulUniformInt "
    "StatefulStandardNormalV2 StatefulTruncatedNormal StatelessMultinomial "
    "StatelessParameterizedTruncatedNormal StatelessRandomBinomial StatelessRandomGammaV2 "
    "StatelessRandomGammaV3 StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson "
    "StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 "
    "StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 "
    "StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal".split()
)
"""Operations that draw random numbers."""

TEXT = frozenset(
    "AsString RegexFullMatch RegexReplace SparseCross SparseCrossV2 StaticRegexFullMatch "
    "StaticRegexReplace StringFormat StringJoin StringLength StringLower StringNGrams StringSplit "
    "StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong "
    "StringToNumber StringUpper Substr UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode "
    "UnicodeScript UnicodeTranscode".split()
)
"""Operations on the characters of strings."""

LOOPS = frozenset(
    "Case Merge StatelessCase Switch _SwitchN While StatelessWhile TensorListFromTensor "
    "TensorListGetItem TensorListReserve TensorListSetItem TensorListStack".split()
)
"""Control flow that tf2onnx does not support."""

MATRICES = frozenset(
    "BandedTriangularSolve Cholesky Eig Lu MatrixExponential MatrixInverse MatrixLogarithm "
    "MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Qr SelfAdjointEigV2 Svd "
    "TridiagonalSolve".split()
)
"""Matrix factorisations, and operations that are computed with them."""

REASONS: Mapping[str, tuple[Collection[str], str]] = {
    "text": (TEXT, "ONNX has no operators for the characters of strings."),
    "loops": (LOOPS, "tf2onnx does not support this form of loop or condition."),
    "matrices": (MATRICES, "ONNX has no matrix factorisations."),
}
"""By theme: the operations, and a sentence that says why they cannot be converted."""


def explanation(operations: Collection[str]) -> str:
    """Why the operations cannot be converted: a sentence for each of their themes."""
    return " ".join(
        sentence for theme, sentence in REASONS.values() if any(x in theme for x in operations)
    )


def workaround(operations: Collection[str]) -> str:
    """What to do about operations that cannot be exported."""
    if any(operation in TEXT for operation in operations):
        return (
            "Export the part of the model after the layer, keras.Model(layer.output, "
            "model.outputs), and run the layer itself in Keras before it."
        )
    return "Export a model that ends before them."
