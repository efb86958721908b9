"""Weights of a backbone in files: written whole or not at all, and read with one line for what is wrong."""

import pathlib
import shutil
import warnings
import zipfile

import keras

from mulsupcon_tf.utils.atomic_file import replacing
from mulsupcon_tf.utils.errors import InputError, in_brief

_WEIGHTS = "model.weights.h5"  # Keras's name for the weights in a `.keras` archive


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
