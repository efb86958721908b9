"""Weights of a backbone in files, and what it standardises vectors by: written whole or not at all.

A file that cannot be read is refused in one line that says why.
"""

import hashlib
import io
import os
import pathlib
import shutil
import warnings
import zipfile
from typing import IO, NamedTuple

import h5py
import keras
import numpy as np
from keras import layers

from mulsupcon_tf.utils.atomic_file import replacing
from mulsupcon_tf.utils.errors import InputError, in_brief
from mulsupcon_tf.utils.private_apis import num_readers, producer_of

# Files of keras.applications, and their checksums as Keras has them; of the one without it publishes none.
_PUBLISHED = {
    "resnet50": ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "MD5 4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "MD5 88cf7a10940856eca736dc7b7e228a21"),
    "mobilenetv2": ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "no checksum is published"),
    "efficientnetv2-b0": ("efficientnetv2-b0_notop.h5", "MD5 893217f2bb855e2983157299931e43ff"),
    "efficientnetv2-s": ("efficientnetv2-s_notop.h5", "MD5 af0682fb74e8c54910f2d4393339c070"),
    "convnext-tiny": (
        "convnext_tiny_notop.h5",
        "SHA-256 d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "convnext-small": (
        "convnext_small_notop.h5",
        "SHA-256 6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
}
_WEIGHTS = "model.weights.h5"  # Keras's name for the weights in a `.keras` archive
_STANDARDISATION = "standardisation"  # our group in such a file, which Keras passes over
_COLUMNS = 64


class Standardisation(NamedTuple):
    """What vectors are standardised by.

    Attributes:
        mean: `[F]` float32.
        variance: `[F]` float32; 1 for a feature that is constant.
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Standardisation":
        """The statistics of vectors `[N, F]`."""
        mean = features.mean(0, dtype=np.float64)
        # A part of the columns at a time: NumPy's variance makes a copy in float64 of all that it is given.
        parts = [features[:, first : first + _COLUMNS] for first in range(0, features.shape[1], _COLUMNS)]
        variance = np.concatenate([part.var(0, dtype=np.float64) for part in parts])
        # A feature that is constant over train says nothing about scale; dividing by its deviation would blow up a
        # test value that differs in the last digit. Relative to the mean: features may have any unit.
        variance = np.where(variance > 1e-12 * mean**2, variance, 1.0)
        return cls(mean.astype("float32"), variance.astype("float32"))


def save_weights(backbone: keras.Model, path: pathlib.Path) -> None:
    """Writes a `.weights.h5` file, whole or not at all, of a backbone for vectors with what it standardises them by.

    HDF5's own writer crashes the process where the disk is full. A `.keras` archive is written by Python, and such a
    file is a member of it.
    """
    with replacing(path) as temporary:
        archive = temporary.with_suffix(".keras")
        try:
            backbone.save(archive)
            with zipfile.ZipFile(archive) as members, members.open(_WEIGHTS) as weights, temporary.open("wb") as file:
                shutil.copyfileobj(_with_standardisation(weights, backbone), file)
        finally:
            archive.unlink(missing_ok=True)


def _with_standardisation(weights: IO[bytes], backbone: keras.Model) -> IO[bytes]:
    """The file, to which constants of the model are added: Keras keeps variables only."""
    standardisation = standardisation_of(backbone)
    if standardisation is None:
        return weights
    content = io.BytesIO(weights.read())
    with h5py.File(content, "r+") as file:
        for name, array in standardisation._asdict().items():
            file[f"{_STANDARDISATION}/{name}"] = array
    content.seek(0)
    return content


def standardisation_of(backbone: keras.Model) -> Standardisation | None:
    """What a backbone standardises vectors by; None where it takes images."""
    if len(backbone.input_shape) != 2:
        return None
    found = [layer for layer in backbone.layers if isinstance(layer, layers.Normalization)]
    return Standardisation(np.ravel(found[0].mean), np.ravel(found[0].variance)) if found else None


def read_standardisation(path: pathlib.Path) -> Standardisation | None:
    """What the backbone that `save_weights` wrote standardises vectors by; None where the file does not say."""
    with h5py.File(path) as file:
        if _STANDARDISATION not in file:
            return None
        return Standardisation(*(file[f"{_STANDARDISATION}/{name}"][()] for name in Standardisation._fields))


def weights_hash(model: keras.Model) -> str:
    """What its weights are, in 16 characters."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def require_weights_file(path: str) -> None:
    """Raises `InputError` unless this is a file of weights by its name, and there."""
    if not path.endswith(".h5"):
        raise InputError(f"backbone weights must be imagenet or end in .weights.h5. Received: {path}")
    if not pathlib.Path(path).is_file():
        raise InputError(f"backbone weights must be imagenet or an existing file. Received: {path}")


def load_weights_of(model: keras.Model, name: str, path: str) -> None:
    """Loads a file of the user's into the backbone of this name.

    Raises:
        InputError: the file is damaged or of another architecture.
    """
    try:
        load_weights(model, path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"backbone weights must hold the weights of {name}. Received: {path} ({in_brief(error)})"
        ) from error


def load_weights(model: keras.Model, path: str | pathlib.Path) -> None:
    """Loads a file, also one with the biases that `set_weights_without_biases` puts into the moving means.

    Keras' published weights have them, and so had ours at first.

    Raises:
        OSError: the file is no HDF5, or damaged; `KeyError` and `ValueError` too.
        ValueError: the file is of another architecture.
    """
    with warnings.catch_warnings():
        # Keras warns of every part of a strange file before it refuses the whole.
        warnings.simplefilter("ignore")
        try:
            model.load_weights(path)
        except ValueError as error:
            biased = _with_biases(model)
            if biased is None:
                raise
            try:
                biased.load_weights(path)
            except ValueError:
                raise error from None
            set_weights_without_biases(model, biased)


def convolution_before_each_normalisation(model: keras.Model) -> dict[str, keras.layers.Conv2D | None]:
    """For each batch normalisation of a functional model, by name, the convolution whose output it alone reads, or None."""
    found: dict[str, keras.layers.Conv2D | None] = {}
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            before = producer_of(layer.input)
            alone = isinstance(before, layers.Conv2D) and num_readers(before) == 1
            found[layer.name] = before if alone and before.activation is keras.activations.linear else None
    return found


def set_weights_without_biases(model: keras.Model, biased: keras.Model) -> None:
    """Gives a network the weights of another one, which differs from it in biases before batch normalisation alone.

    Such a bias b moves the mean of a batch and is taken away with it: (x + b - m) = x - (m - b).

    Args:
        model: its convolutions before batch normalisation have no biases.
        biased: may have them.
    """
    convolutions = convolution_before_each_normalisation(biased)
    for own, layer in zip(model.layers, biased.layers, strict=True):
        own.set_weights(layer.get_weights()[: len(own.weights)])
        convolution = convolutions.get(layer.name)
        if convolution is not None and convolution.use_bias:
            own.moving_mean.assign_sub(convolution.bias.value)


def _with_biases(model: keras.Model) -> keras.Model | None:
    """The same network with the biases that it was spared; None where there are none."""
    convolutions = convolution_before_each_normalisation(model).values()
    spared = {layer.name for layer in convolutions if layer is not None and not layer.use_bias}
    if not spared:
        return None

    def biased(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(layer.get_config() | ({"use_bias": True} if layer.name in spared else {}))

    return keras.models.clone_model(model, clone_function=biased)


def published_weights(name: str) -> str:
    """The file of Keras' ImageNet weights of a network of keras.applications, with checksum and place, in words."""
    file, checksum = _PUBLISHED[name]
    return f"the file {file} ({checksum}) in {os.environ.get('KERAS_HOME', '~/.keras')}/models"
