"""Image backbones: residual networks of our own, and those of keras.applications with their published weights.

Each takes raw RGB or grey pixels, 0 to 255, and scales them itself, in float32 whatever the dtype policy.

References:
    [1] He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385.
    [2] Tan and Le, EfficientNetV2: Smaller Models and Faster Training, arXiv 2104.00298.
    [3] Liu et al., A ConvNet for the 2020s (ConvNeXt), arXiv 2201.03545.
    [4] Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381.
"""

import contextlib
import functools
import importlib
import socket
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from mulsupcon_tf.config.backbones import BACKBONES, WITH_IMAGENET_WEIGHTS
from mulsupcon_tf.models.backbone_weights import (
    Standardisation,
    convolution_before_each_normalisation,
    load_weights_of,
    published_weights,
    require_weights_file,
    set_weights_without_biases,
)
from mulsupcon_tf.models.layers import BatchNormalization, Dropout
from mulsupcon_tf.utils.errors import InputError, in_brief
from mulsupcon_tf.utils.keras_settings import require_settings

# Five halvings of the resolution: below this the last stage has less than one pixel to look at.
MINIMUM_SIZE = 32
# A server that does not answer is given up on after so many seconds; Keras itself would wait for ever.
DOWNLOAD_PATIENCE = 20.0


class ResidualNetwork(NamedTuple):
    """A residual network of basic blocks [1].

    Attributes:
        blocks: number of basic blocks in each stage.
        widths: channels of each stage.
        deep: the stem of [1] for photographs, 7x7 with stride 2 and pooling; else a 3x3 convolution with stride 2.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    deep: bool


RESIDUAL_NETWORKS = {
    "resnet8": ResidualNetwork((1, 1, 1), (32, 64, 128), deep=False),
    "resnet14": ResidualNetwork((2, 2, 2), (32, 64, 128), deep=False),
    "resnet18": ResidualNetwork((2, 2, 2, 2), (64, 128, 256, 512), deep=True),
    "resnet34": ResidualNetwork((3, 4, 6, 3), (64, 128, 256, 512), deep=True),
}


def _blue_first_centred(rgb: keras.KerasTensor) -> keras.KerasTensor:
    """What Keras' ResNet weights were trained on: blue, green, red, each minus its mean over ImageNet."""
    return layers.Normalization(mean=[103.939, 116.779, 123.68], variance=[1.0] * 3, dtype="float32")(
        ops.flip(rgb, axis=-1)
    )


def _standardised(rgb: keras.KerasTensor) -> keras.KerasTensor:
    """Each channel minus its mean over ImageNet, divided by its deviation."""
    deviations = [255 * 0.229, 255 * 0.224, 255 * 0.225]
    mean, variance = [255 * 0.485, 255 * 0.456, 255 * 0.406], [deviation**2 for deviation in deviations]
    return layers.Normalization(mean=mean, variance=variance, dtype="float32")(rgb)


def _from_minus_one(rgb: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Rescaling(1 / 128, offset=-1.0, dtype="float32")(rgb)


def _from_minus_one_to_one(rgb: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(rgb)


# Built without their own scaling of pixels, which would round them to half precision first.
APPLICATIONS: dict[str, tuple[Callable[..., keras.Model], Callable[[keras.KerasTensor], keras.KerasTensor]]] = {
    "resnet50": (keras.applications.ResNet50, _blue_first_centred),
    "resnet101": (keras.applications.ResNet101, _blue_first_centred),
    "mobilenetv2": (keras.applications.MobileNetV2, _from_minus_one_to_one),
    "efficientnetv2-b0": (
        functools.partial(keras.applications.EfficientNetV2B0, include_preprocessing=False),
        _standardised,
    ),
    "efficientnetv2-s": (
        functools.partial(keras.applications.EfficientNetV2S, include_preprocessing=False),
        _from_minus_one,
    ),
    "convnext-tiny": (functools.partial(keras.applications.ConvNeXtTiny, include_preprocessing=False), _standardised),
    "convnext-small": (functools.partial(keras.applications.ConvNeXtSmall, include_preprocessing=False), _standardised),
}


def check_image_shape(name: str, input_shape: tuple[int, ...]) -> None:
    """Raises `InputError` unless the network `name` takes images `(H, W, channels)` of this shape."""
    if len(input_shape) != 3:
        raise InputError(f"backbone {name} takes images [H, W, channels]. Received: samples of shape {input_shape}")
    size = min(input_shape[:2])
    small_enough = name in RESIDUAL_NETWORKS and not RESIDUAL_NETWORKS[name].deep
    if not small_enough and size < MINIMUM_SIZE:
        raise InputError(
            f"backbone {name} takes images of at least {MINIMUM_SIZE} pixels. Received: {input_shape[0]} x {input_shape[1]}"
        )
    if name not in RESIDUAL_NETWORKS and input_shape[2] not in (1, 3):
        raise InputError(f"backbone {name} takes images of 1 or 3 channels. Received: {input_shape[2]} channels")


def as_rgb(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Images `[B, H, W, 3]`; a grey one is given as red, green and blue."""
    return inputs if inputs.shape[-1] == 3 else layers.Concatenate(dtype="float32")([inputs] * 3)


def build_residual_network(name: str, input_shape: tuple[int, ...], **_: Any) -> keras.Model:
    """One of `RESIDUAL_NETWORKS` with random weights, from `[B, H, W, channels]` to the mean `[B, R]` over all places.

    Args:
        name: key of `RESIDUAL_NETWORKS`.
        input_shape: `(H, W, channels)`.
        **_: what `build_backbone` gives to other networks.

    Raises:
        InputError: the network does not take such images.
    """
    check_image_shape(name, input_shape)
    network = RESIDUAL_NETWORKS[name]
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(inputs)
    x = _convolution(x, network.widths[0], stride=2, size=7 if network.deep else 3)
    x = layers.ReLU()(x)
    if network.deep:
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage, (width, repeats) in enumerate(zip(network.widths, network.blocks, strict=True)):
        for block in range(repeats):
            x = _basic_block(x, width, stride=2 if stage > 0 and block == 0 else 1)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="backbone")


def build_application(name: str, input_shape: tuple[int, ...], *, imagenet: bool = False, **_: Any) -> keras.Model:
    """One of `APPLICATIONS` without its classifier, from `[B, H, W, channels]` to `[B, R]`.

    Args:
        name: key of `APPLICATIONS`.
        input_shape: `(H, W, channels)`; a grey image is given to the network as red, green and blue.
        imagenet: weights that Keras has published, from its cache or the network; else random ones.
        **_: what `build_backbone` gives to other networks.

    Raises:
        InputError: the network does not take such images, or the weights cannot be downloaded.
    """
    check_image_shape(name, input_shape)
    build, scale = APPLICATIONS[name]
    inputs = keras.Input(input_shape)
    common = {"include_top": False, "input_tensor": scale(as_rgb(inputs)), "pooling": "avg"}
    if imagenet:
        with _download(name):
            model = build(weights="imagenet", **common)
    else:
        model = build(weights=None, **common)
    return _with_faster_layers(keras.Model(inputs, model.output, name="backbone"))


def _with_faster_layers(model: keras.Model) -> keras.Model:
    """The same functional model with our batch normalisation in place of Keras', and no bias that it would take away."""
    convolutions = convolution_before_each_normalisation(model)
    if not convolutions:
        return model
    without_bias = {layer.name for layer in convolutions.values() if layer is not None}

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in convolutions:
            return BatchNormalization.from_config(layer.get_config())
        changed = {"use_bias": False} if layer.name in without_bias else {}
        return type(layer).from_config(layer.get_config() | changed)

    twin = keras.models.clone_model(model, clone_function=replaced)
    set_weights_without_biases(twin, model)
    return twin


@contextlib.contextmanager
def _download(name: str) -> Iterator[None]:
    """Turns whatever goes wrong between here and the server into one line, soon."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MobileNetV2 says that its weights were trained at 224 pixels
            yield
    except Exception as error:  # Keras raises a bare Exception when the server cannot be reached
        raise InputError(
            f"backbone weights of imagenet need the network, or {published_weights(name)}. "
            f"Received: {name} ({in_brief(error)})"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _basic_block(x: keras.KerasTensor, width: int, *, stride: int) -> keras.KerasTensor:
    """Two 3x3 convolutions and a shortcut [1, figure 2]."""
    y = layers.ReLU()(_convolution(x, width, stride=stride))
    y = _convolution(y, width)
    if stride != 1 or x.shape[-1] != width:
        x = _convolution(x, width, stride=stride, size=1)
    return layers.ReLU()(layers.Add()([x, y]))


def _convolution(x: keras.KerasTensor, width: int, *, stride: int = 1, size: int = 3) -> keras.KerasTensor:
    x = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return BatchNormalization(momentum=0.9)(x)


def build_backbone(
    name: str,
    input_shape: tuple[int, ...],
    *,
    train_features: np.ndarray | None = None,
    standardisation: Standardisation | None = None,
    weights: str | None = None,
) -> keras.Model:
    """Builds the network below the heads; it takes raw input and scales it itself.

    Args:
        name: "mlp" for vectors; "resnet8", "resnet14" for images of 32 to 96 pixels; for larger ones "resnet18",
            "resnet34", "resnet50", "resnet101", "mobilenetv2", "efficientnet-lite0", "efficientnetv2-b0",
            "efficientnetv2-s", "convnext-tiny", "convnext-small".
        input_shape: `(F,)`, or `(H, W, channels)` with pixel values 0 to 255.
        train_features: `[N, F]`, for "mlp": vectors are standardised by the mean and deviation of these; without them
            and `standardisation` they are taken as they are. Networks for images read neither.
        standardisation: the same, where it is known already.
        weights: "imagenet" for those of `WITH_IMAGENET_WEIGHTS`, or a `.weights.h5` file that
            `save_weights` of the same network wrote; random when None.

    Returns:
        A functional model named "backbone" from `[B, *input_shape]` to `[B, R]`.

    Raises:
        InputError: the name is unknown or does not fit the input shape, the weights do not fit or cannot be had, or
            Keras has other settings than this package needs.
    """
    require_settings()
    if name not in BACKBONES:
        raise InputError(f"a backbone must be one of {', '.join(BACKBONES)}. Received: {name}")
    if weights == "imagenet" and name not in WITH_IMAGENET_WEIGHTS:
        raise InputError(f"backbone weights of imagenet exist for {', '.join(WITH_IMAGENET_WEIGHTS)}. Received: {name}")
    if weights not in (None, "imagenet"):
        require_weights_file(str(weights))
    if standardisation is None and train_features is not None:
        standardisation = Standardisation.of(train_features)
    module, function = BACKBONES[name].split(":")
    build = getattr(importlib.import_module(f"mulsupcon_tf.models.{module}"), function)
    model = build(name, input_shape, standardisation=standardisation, imagenet=weights == "imagenet")
    if weights not in (None, "imagenet"):
        load_weights_of(model, name, str(weights))
    return model


def build_mlp(
    name: str, input_shape: tuple[int, ...], *, standardisation: Standardisation | None = None, **_: Any
) -> keras.Model:
    """F-256-512-256 with ReLU and dropout 0.2: the encoder of MulSupCon (AAAI 2024) for vectors.

    Args:
        name: of the network, for messages.
        input_shape: `(F,)`.
        standardisation: what vectors are standardised by.
        **_: what `build_backbone` gives to other networks.

    Raises:
        InputError: the samples are not vectors.
    """
    if len(input_shape) != 1:
        raise InputError(f"backbone {name} takes vectors [F]. Received: samples of shape {input_shape}")
    inputs = keras.Input(input_shape)
    x = inputs
    if standardisation is not None:
        x = layers.Normalization(mean=standardisation.mean, variance=standardisation.variance, dtype="float32")(x)
    for width in (256, 512, 256):
        x = layers.Dense(width, activation="relu")(x)
        x = Dropout(0.2)(x)
    return keras.Model(inputs, x, name="backbone")
