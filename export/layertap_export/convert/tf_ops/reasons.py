"""Why some TensorFlow operations have no way into ONNX, for messages."""

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

LOOPS = frozenset("Case Merge StatelessCase Switch _SwitchN While StatelessWhile".split())
"""Control flow that tf2onnx does not know."""

MATRICES = frozenset(
    "BandedTriangularSolve Cholesky Eig Lu MatrixExponential MatrixInverse MatrixLogarithm "
    "MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Qr SelfAdjointEigV2 Svd "
    "TridiagonalSolve".split()
)
"""Factorisations of matrices, and what is solved with them."""

REASONS: Mapping[str, tuple[Collection[str], str]] = {
    "text": (TEXT, "ONNX has no operators for the characters of strings."),
    "loops": (LOOPS, "It is a loop or a choice of a kind that tf2onnx cannot convert."),
    "matrices": (MATRICES, "ONNX has no factorisations of matrices."),
}
"""By theme: operations, and a sentence on them."""


def why(operations: Collection[str]) -> str:
    """A sentence for each theme that the operations belong to."""
    return " ".join(
        sentence for group, sentence in REASONS.values() if any(x in group for x in operations)
    )


def way_out(operations: Collection[str]) -> str:
    """What to do about operations that cannot be exported."""
    if any(operation in TEXT for operation in operations):
        return (
            "Export the part of the model behind the layer, and run the layer itself in front: "
            "keras.Model(layer.output, model.outputs)."
        )
    return "Export a model that ends before them."
