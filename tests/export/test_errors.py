"""layertap_export/errors.py: what Keras and TensorFlow said, for people."""

from __future__ import annotations

from layertap_export.errors import keras_words


def test_the_words_of_keras_are_one_line_without_colours_and_arguments() -> None:
    error = ValueError("\x1b[1mno\nfit\x1b[0m\n\nArguments received by Dense.call():\n  • x=1")
    assert keras_words(error) == "no fit"


def test_the_setting_that_adds_dilated_transposed_convolutions_is_named() -> None:
    """TensorFlow enables oneDNN by itself on some CPUs only."""
    said = "Current CPU implementations do not yet support dilation rates larger than 1."
    assert keras_words(ValueError(said)) == (
        f"{said} With oneDNN, TensorFlow can: set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is "
        "imported."
    )
