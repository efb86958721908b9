"""Backbones (input -> representation r [R]) and the projection head (r -> embedding [D])."""

import pathlib
import shutil
import warnings
import zipfile

import keras
import numpy as np
from keras import layers

from mulsupcon_tf.atomic_file import replacing
from mulsupcon_tf.backbones import (
    APPLICATIONS,
    RESIDUAL_NETWORKS,
    build_application,
    build_residual_network,
    check_image_shape,
)
from mulsupcon_tf.dropout import Dropout
from mulsupcon_tf.errors import InputError, in_brief
from mulsupcon_tf.keras_settings import require_settings

_WEIGHTS = "model.weights.h5"  # Keras's name for the weights in a `.keras` archive


def build_backbone(
    name: str, input_shape: tuple[int, ...], *, train_features: np.ndarray | None = None, weights: str | None = None
) -> keras.Model:
    """Builds the network below the heads; it takes raw input and scales it itself.

    Args:
        name: "mlp" for vectors; "resnet8", "resnet14" for images of 32 to 96 pixels; for larger ones "resnet18",
            "resnet34", "resnet50", "resnet101", "efficientnetv2-b0", "efficientnetv2-s", "convnext-tiny",
            "convnext-small".
        input_shape: `(F,)`, or `(H, W, channels)` with pixel values 0 to 255.
        train_features: `[N, F]`, for "mlp": vectors are standardised by the mean and deviation of these.
        weights: "imagenet" for those that keras.applications has published, or a `.weights.h5` file that
            `save_weights` of the same network wrote; random when None.

    Returns:
        A functional model named "backbone" from `[B, *input_shape]` to `[B, R]`.

    Raises:
        InputError: the name is unknown or does not fit the input shape, the weights do not fit or cannot be had, or
            Keras has other settings than this package needs.
    """
    require_settings()
    if name != "mlp" and name not in RESIDUAL_NETWORKS and name not in APPLICATIONS:
        raise InputError(
            f"--backbone must be one of {', '.join(['mlp', *RESIDUAL_NETWORKS, *APPLICATIONS])}. Received: {name}"
        )
    if weights == "imagenet" and name not in APPLICATIONS:
        raise InputError(
            f"--backbone_weights=imagenet exists for {', '.join(APPLICATIONS)}. Received: --backbone={name}"
        )
    if weights not in (None, "imagenet"):
        _check_weights_file(str(weights))
    if name == "mlp":
        if len(input_shape) != 1:
            raise InputError(f"--backbone=mlp takes vectors [F]. Received: samples of shape {input_shape}")
        model = _build_mlp(input_shape[0], train_features)
    else:
        check_image_shape(name, input_shape)
        if name in RESIDUAL_NETWORKS:
            model = build_residual_network(name, input_shape)
        else:
            model = build_application(name, input_shape, imagenet=weights == "imagenet")
    if weights not in (None, "imagenet"):
        _load_weights(model, name, str(weights))
    return model


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
        x = Dropout(0.2)(x)
    return keras.Model(inputs, x, name="backbone")


def _standardisation(train_features: np.ndarray) -> keras.layers.Layer:
    mean = train_features.mean(0, dtype=np.float64)
    variance = train_features.var(0, dtype=np.float64)
    # A feature that is constant over train says nothing about scale; dividing by its deviation would blow up a
    # test value that differs in the last digit.
    variance = np.where(variance > 1e-12 * np.maximum(1.0, mean**2), variance, 1.0)
    return layers.Normalization(mean=mean.astype("float32"), variance=variance.astype("float32"), dtype="float32")


def save_weights(backbone: keras.Model, path: pathlib.Path) -> None:
    """Writes a `.weights.h5` file, whole or not at all.

    HDF5's own writer crashes the process where the disk is full. A `.keras` archive is written by Python, and such a
    file is a member of it.
    """
    with replacing(path) as temporary:
        archive = temporary.with_suffix(".keras")
        try:
            backbone.save(archive)
            with zipfile.ZipFile(archive) as members, members.open(_WEIGHTS) as weights, temporary.open("wb") as file:
                shutil.copyfileobj(weights, file)
        finally:
            archive.unlink(missing_ok=True)


def _check_weights_file(path: str) -> None:
    if not path.endswith(".h5"):
        raise InputError(f"--backbone_weights must be imagenet or end in .weights.h5. Received: {path}")
    if not pathlib.Path(path).is_file():
        raise InputError(f"--backbone_weights must be imagenet or an existing file. Received: {path}")


def _load_weights(model: keras.Model, name: str, path: str) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns of every part of a strange file before it refuses the whole.
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--backbone_weights must hold the weights of --backbone={name}. Received: {path} ({in_brief(error)})"
        ) from error
