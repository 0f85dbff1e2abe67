"""The model families that conformance is measured on, each member small and seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Build = Callable[[], Any]
"""Makes a model with random weights; imports what it needs."""


@dataclass(frozen=True, slots=True)
class Family:
    """Some models of one design."""

    name: str
    members: Mapping[str, Build]
    """By name; the first stands for the family where one must do."""

    transposes: tuple[int, int] = (0, 0)
    """How many inner Transposes the first member, and the largest one, may have on purpose."""


# --- keras.applications -------------------------------------------------------------------------


def _application(name: str, size: int) -> Build:
    def build() -> Any:
        import keras

        make = getattr(keras.applications, name)
        model = make(weights=None, input_shape=(size, size, 3), classes=10)
        _calm(model)
        return model

    return build


def _calm(model: Any) -> None:
    """Halve the scales of the batch normalisations.

    With Keras's initial values they change nothing, and the activations of a deep network grow
    from block to block, until its sigmoids are saturated and depend on the last digit of their
    input: EfficientNetV2L with an input that is changed by a factor of 1 + 1e-7 has
    entirely different outputs, in Keras too.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            layer.gamma.assign(layer.gamma * 0.5)


def _applications(
    name: str, size: int, members: str, transposes: tuple[int, int] = (0, 0)
) -> Family:
    """A family of `keras.applications`: its members in one string, the smallest first."""
    return Family(name, {one: _application(one, size) for one in members.split()}, transposes)


APPLICATIONS = (
    _applications(
        "ConvNeXt",
        64,
        "ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge",
        # Runs channels last, and turns around each of its 22 (40) convolutions.
        transposes=(2 * 22, 2 * 40),
    ),
    _applications("DenseNet", 64, "DenseNet121 DenseNet169 DenseNet201"),
    _applications("EfficientNet", 64, " ".join(f"EfficientNetB{i}" for i in range(8))),
    _applications(
        "EfficientNetV2", 64, " ".join(f"EfficientNetV2{i}" for i in "B0 B1 B2 B3 S M L".split())
    ),
    _applications("Inception", 96, "InceptionV3 InceptionResNetV2"),
    _applications("MobileNet", 96, "MobileNet MobileNetV2"),
    _applications("MobileNetV3", 96, "MobileNetV3Small MobileNetV3Large"),
    _applications("NASNet", 96, "NASNetMobile NASNetLarge"),
    _applications("ResNet", 64, "ResNet50 ResNet101 ResNet152"),
    _applications("ResNetV2", 64, "ResNet50V2 ResNet101V2 ResNet152V2"),
    _applications("VGG", 64, "VGG16 VGG19"),
    _applications("Xception", 96, "Xception"),
)

# --- keras_hub ----------------------------------------------------------------------------------

_TEXT: Mapping[str, Any] = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
_GROUPED: Mapping[str, Any] = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
_VIT: Mapping[str, Any] = {
    "image_shape": (32, 32, 3),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
}


def _backbone(name: str, *parts: Mapping[str, Any], **options: Any) -> Family:
    """A backbone of Keras Hub, made by the arguments in `parts` and `options`."""

    def build() -> Any:
        import keras_hub

        given = {key: value for part in parts for key, value in part.items()}
        return getattr(keras_hub.models, f"{name}Backbone")(**given | options)

    return Family(name, {name: build})


HUB = (
    _backbone("Albert", _TEXT, embedding_dim=8),
    _backbone("Bart", _TEXT, max_sequence_length=32),
    _backbone("Bert", _TEXT, max_sequence_length=32),
    _backbone("Bloom", _TEXT),
    _backbone("DebertaV3", _TEXT, max_sequence_length=32, bucket_size=8),
    _backbone("DistilBert", _TEXT, max_sequence_length=32),
    _backbone("ESM", _TEXT, max_sequence_length=32),
    _backbone("FNet", {k: v for k, v in _TEXT.items() if k != "num_heads"}, max_sequence_length=32),
    _backbone("GPT2", _TEXT, max_sequence_length=32),
    _backbone("GPTNeoX", _TEXT, max_sequence_length=32),
    _backbone("Gemma", _GROUPED, head_dim=8),
    _backbone("Llama", _GROUPED),
    _backbone("Mistral", _GROUPED, sliding_window=4),
    _backbone("OPT", _TEXT, max_sequence_length=32),
    _backbone("Phi3", _GROUPED),
    _backbone("Qwen", _GROUPED),
    _backbone("Roberta", _TEXT, max_sequence_length=32),
    _backbone("T5", _TEXT),
    _backbone("XLNet", _TEXT),
    _backbone("Whisper", _TEXT, num_mels=8, max_encoder_sequence_length=24,
              max_decoder_sequence_length=16),
    _backbone("DeiT", _VIT, patch_size=8, intermediate_dim=32),
    _backbone("DINOV2", _VIT, patch_size=8, intermediate_dim=32,
              position_embedding_shape=(32, 32, 3)),
    _backbone("ViT", _VIT, patch_size=8, mlp_dim=32),
    _backbone("ViTDet", hidden_size=16, num_layers=2, intermediate_dim=32, num_heads=2,
              global_attention_layer_indices=[1], image_shape=(64, 64, 3), num_output_channels=8,
              window_size=2),
    _backbone("MiT", layerwise_depths=[1, 1], num_layers=2, layerwise_num_heads=[1, 2],
              layerwise_sr_ratios=[8, 4], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3],
              layerwise_strides=[4, 2], image_shape=(32, 32, 3), hidden_dims=[8, 16]),
    _backbone("SwinTransformer", image_shape=(32, 32, 3), embed_dim=8, depths=[2, 2],
              num_heads=[1, 2], window_size=4),
    _backbone("ResNet", input_conv_filters=[64], input_conv_kernel_sizes=[3],
              stackwise_num_filters=[64, 128], stackwise_num_blocks=[2, 2],
              stackwise_num_strides=[1, 2], block_type="basic_block"),
    _backbone("DenseNet", stackwise_num_repeats=[2, 2], growth_rate=8),
    _backbone("CSPNet", stem_filters=8, stem_kernel_size=3, stem_strides=2,
              stackwise_depth=[1, 2], stackwise_strides=[1, 2], stackwise_num_filters=[8, 16],
              block_type="dark_block", stage_type="dark"),
    _backbone("VGG", stackwise_num_repeats=[1, 2], stackwise_num_filters=[8, 16]),
    _backbone("Xception", stackwise_conv_filters=[[8, 8], [16, 16]],
              stackwise_pooling=[True, False]),
)  # fmt: skip
