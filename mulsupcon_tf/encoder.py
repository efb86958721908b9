"""Backbones (input -> representation r [R]) and the projection head (r -> embedding [D])."""

import keras
import numpy as np
from keras import layers

from mulsupcon_tf.errors import InputError

RESNET_BLOCKS = {"resnet8": (1, 1, 1), "resnet14": (2, 2, 2)}
RESNET_WIDTHS = (32, 64, 128)


def build_backbone(name: str, input_shape: tuple[int, ...], *, train_features: np.ndarray | None = None) -> keras.Model:
    """Builds the network below the heads; it takes raw input and scales it itself.

    Args:
        name: "mlp" for vectors; "resnet8" or "resnet14" for images of 32 to 96 pixels.
        input_shape: `(F,)`, or `(H, W, channels)` with pixel values 0 to 255.
        train_features: `[N, F]`, for "mlp": vectors are standardised by the mean and deviation of these.

    Returns:
        A functional model named "backbone" from `[B, *input_shape]` to `[B, R]`.

    Raises:
        InputError: the name is unknown or does not fit the input shape.
    """
    if name == "mlp":
        if len(input_shape) != 1:
            raise InputError(f"--backbone=mlp takes vectors [F]. Received: samples of shape {input_shape}")
        return _build_mlp(input_shape[0], train_features)
    if name in RESNET_BLOCKS:
        if len(input_shape) != 3:
            raise InputError(
                f"--backbone={name} takes images [H, W, channels]. Received: samples of shape {input_shape}"
            )
        return _build_small_resnet(RESNET_BLOCKS[name], input_shape)
    raise InputError(f"--backbone must be mlp, {', '.join(RESNET_BLOCKS)}. Received: {name}")


def build_projection_head(num_features: int, embedding_size: int) -> keras.Model:
    """The head of the contrastive loss: R -> 256, batch normalisation, ReLU -> D. Rows are not yet normalised.

    Args:
        num_features: R.
        embedding_size: D.
    """
    features = keras.Input((num_features,))
    x = layers.Dense(256)(features)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    return keras.Model(features, layers.Dense(embedding_size)(x), name="projection_head")


def _build_mlp(num_features: int, train_features: np.ndarray | None) -> keras.Model:
    """F-256-512-256 with ReLU and dropout 0.2: the encoder of MulSupCon (AAAI 2024) for vectors."""
    inputs = keras.Input((num_features,))
    x = inputs
    if train_features is not None:
        x = _standardisation(train_features)(x)
    for width in (256, 512, 256):
        x = layers.Dense(width, activation="relu")(x)
        x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, x, name="backbone")


def _standardisation(train_features: np.ndarray) -> keras.layers.Layer:
    mean = train_features.mean(0, dtype=np.float64)
    variance = train_features.var(0, dtype=np.float64)
    # A feature that is constant over train says nothing about scale; dividing by its deviation would blow up a
    # test value that differs in the last digit.
    variance = np.where(variance > 1e-12 * np.maximum(1.0, mean**2), variance, 1.0)
    return layers.Normalization(mean=mean.astype("float32"), variance=variance.astype("float32"), dtype="float32")


def _build_small_resnet(blocks: tuple[int, ...], input_shape: tuple[int, ...]) -> keras.Model:
    """Pre-pooling-free residual network: 3x3 stem with stride 2, three stages of basic blocks, global mean [128]."""
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = _convolution(x, RESNET_WIDTHS[0], stride=2)
    x = layers.ReLU()(x)
    for stage, (width, repeats) in enumerate(zip(RESNET_WIDTHS, blocks, strict=True)):
        for block in range(repeats):
            x = _basic_block(x, width, stride=2 if stage > 0 and block == 0 else 1)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="backbone")


def _basic_block(x: keras.KerasTensor, width: int, *, stride: int) -> keras.KerasTensor:
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2)."""
    y = layers.ReLU()(_convolution(x, width, stride=stride))
    y = _convolution(y, width)
    if stride != 1 or x.shape[-1] != width:
        x = _convolution(x, width, stride=stride, size=1)
    return layers.ReLU()(layers.Add()([x, y]))


def _convolution(x: keras.KerasTensor, width: int, *, stride: int = 1, size: int = 3) -> keras.KerasTensor:
    x = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(momentum=0.9)(x)
