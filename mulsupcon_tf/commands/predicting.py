"""Predictions for files by a SavedModel; the model's own code is not needed."""

import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import PredictConfig
from mulsupcon_tf.input_pipeline.decoding import decode_image
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.utils.errors import InputError

# A prediction is judged sample by sample here, so the threshold is the one that is best for the metric that does that.
DECISION_METRIC = "example_f1"


def predict(config: PredictConfig, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields one record for each image file, or for each row of a file of vectors.

    Args:
        config: settings.
        files: images (JPEG, PNG, GIF, BMP); for a model on vectors `.npy` files of `[F]` or `[N, F]`, or `.csv` files
            of numbers without a header.

    Yields:
        `{"file", "row" (vectors only), "labels": names above the threshold, "probabilities": {name: probability}}`.

    Raises:
        InputError: no file was named, or one cannot be read.
    """
    require(config, "saved_model")
    if not files:
        raise InputError("predict takes the files to classify: predict --saved_model=DIR FILE... Received: no file")
    for file in files:
        if not pathlib.Path(file).is_file():
            raise InputError(f"Each file must exist. Received: {file}")
    loaded = load_saved_model(config.saved_model)
    serve = loaded.signatures["serving_default"]
    metadata = {name: tensor.numpy() for name, tensor in loaded.signatures["metadata"]().items()}
    names = [name.decode() for name in metadata["label_names"]]
    thresholds = dict(zip((name.decode() for name in metadata["threshold_names"]), metadata["thresholds"], strict=True))
    ((input_name, spec),) = serve.structured_input_signature[1].items()
    takes_images = input_name == "image_bytes"
    samples = _images(files) if takes_images else _vectors(files, spec.shape[-1])
    for batch in _grouped(samples, config.batch_size):
        keys, values = zip(*batch, strict=True)
        try:
            inputs = tf.constant(values) if takes_images else tf.constant(np.stack(values))
            probabilities = serve(**{input_name: inputs})["probabilities"].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise InputError(
                f"Each file must be a whole JPEG, PNG, GIF or BMP. Received: {_unreadable(keys, values)}"
            ) from error
        for key, row in zip(keys, probabilities, strict=True):
            chosen = [name for name, value in zip(names, row, strict=True) if value > thresholds[DECISION_METRIC]]
            yield key | {
                "labels": chosen,
                "probabilities": {name: round(float(value), 6) for name, value in zip(names, row, strict=True)},
            }


def _images(files: Sequence[str]) -> Iterator[tuple[dict[str, Any], bytes]]:
    for file in files:
        yield {"file": file}, pathlib.Path(file).read_bytes()


def _vectors(files: Sequence[str], num_features: int) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for file in files:
        rows = np.atleast_2d(_numbers(file))
        if rows.ndim != 2 or rows.shape[1] != num_features:
            raise InputError(
                f"Each vector must have the model's {num_features} features. Received: {file} of shape {rows.shape}"
            )
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(
                f"Features must be finite float32 numbers. Received: {file} with NaN or infinity in row {int(np.argmin(finite))}"
            )
        for number, row in enumerate(rows):
            yield {"file": file, "row": number}, row


def _numbers(file: str) -> np.ndarray:
    """What a `.npy` or `.csv` file holds, as float32; what is too large for that becomes infinity."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file; its shape says so too
            rows = (
                np.load(file, allow_pickle=False) if file.endswith(".npy") else np.loadtxt(file, delimiter=",", ndmin=2)
            )
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "buif":
            raise ValueError(f"it holds {getattr(rows, 'dtype', 'an archive')}")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"A file of vectors must be .npy or .csv with numbers only. Received: {file} ({error})"
        ) from error
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def _grouped(samples: Iterator, size: int) -> Iterator[list]:
    group: list = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _unreadable(keys: Sequence[dict[str, Any]], values: Sequence[bytes]) -> str:
    """Names the first file that does not decode."""
    for key, value in zip(keys, values, strict=True):
        try:
            decode_image(tf.constant(value))
        except tf.errors.InvalidArgumentError:
            return key["file"]
    return ", ".join(key["file"] for key in keys)
