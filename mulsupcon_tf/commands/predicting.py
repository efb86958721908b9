"""Predictions for files by a SavedModel; the model's own code is not needed."""

import itertools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.paths import expanded
from mulsupcon_tf.config.program_flags import PredictConfig
from mulsupcon_tf.evaluation.thresholds import above
from mulsupcon_tf.input_pipeline.image_files import decoding_fault
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.utils.errors import InputError

# A prediction is judged sample by sample here, so the threshold is the one that is best for the metric that does that.
DECISION_METRIC = "example_f1"
_NO_NAMES = ("", "?", "-", "na", "n/a", "none", "null")  # of columns: cells of the first line that stand for no value


def predict(config: PredictConfig, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields one record for each image file, or for each row of a file of vectors.

    Args:
        config: settings.
        files: images (JPEG, PNG, GIF, BMP, WebP); for a model on vectors `.npy` files of `[F]` or `[N, F]`, or `.csv`
            files of numbers, whose first line may be the names of the columns.

    Yields:
        `{"file", "row" (vectors only, from 0), "labels": names above the threshold, "probabilities": {name:
        probability}}`.

    Raises:
        InputError: no file was named, or one is not there; or, when all others have their records, files cannot be
            read.
    """
    require(config, "saved_model")
    if not files:
        raise InputError("predict takes the files to classify: predict --saved_model=DIR FILE... Received: no file")
    files = [expanded(file, "Each file") for file in files]
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
    refused: dict[str, str] = {}
    samples = _images(files, refused) if takes_images else _vectors(files, spec.shape[-1], refused)

    def probabilities_of(values: Sequence[Any]) -> np.ndarray:
        inputs = tf.constant(values) if takes_images else tf.constant(np.stack(values))
        return serve(**{input_name: inputs})["probabilities"].numpy()

    for batch in _grouped(samples, config.batch_size):
        for key, row in _answered(batch, probabilities_of, refused):
            chosen = [name for name, given in zip(names, above(row, thresholds[DECISION_METRIC]), strict=True) if given]
            yield key | {
                "labels": chosen,
                "probabilities": {name: round(float(value), 6) for name, value in zip(names, row, strict=True)},
            }
    if refused:
        first, *others = refused
        also = f"; also no answer for {', '.join(others)}" if others else ""
        raise InputError(f"{refused[first]}{also}")


def _answered(
    batch: list[tuple[dict[str, Any], Any]], probabilities_of: Callable, refused: dict[str, str]
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Keys and probabilities of the samples; those that do not decode are put into `refused` by file."""
    keys, values = zip(*batch, strict=True)
    try:
        return list(zip(keys, probabilities_of(values), strict=True))
    except tf.errors.InvalidArgumentError as error:
        if len(batch) == 1:
            reason = decoding_fault(error) if values[0] else "it is empty"
            refused[keys[0]["file"]] = (
                f"Each file must be a whole JPEG, PNG, GIF, BMP or WebP. Received: {keys[0]['file']} ({reason})"
            )
            return []
    half = len(batch) // 2
    return [*_answered(batch[:half], probabilities_of, refused), *_answered(batch[half:], probabilities_of, refused)]


def _images(files: Sequence[str], refused: dict[str, str]) -> Iterator[tuple[dict[str, Any], bytes]]:
    for file in files:
        try:
            yield {"file": file}, pathlib.Path(file).read_bytes()
        except OSError as error:
            refused[file] = f"Each file must be readable. Received: {file} ({error.strerror})"


def _vectors(
    files: Sequence[str], num_features: int, refused: dict[str, str]
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for file in files:
        try:
            rows = _finite_rows(file, num_features)
        except InputError as error:
            refused[file] = str(error)
            continue
        for number, row in enumerate(rows):
            yield {"file": file, "row": number}, row


def _finite_rows(file: str, num_features: int) -> np.ndarray:
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
    return rows


def _numbers(file: str) -> np.ndarray:
    """What a `.npy` or `.csv` file holds, as float32; what is too large for that becomes infinity."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file; its shape says so too
            rows = np.load(file, allow_pickle=False) if file.lower().endswith(".npy") else _csv_numbers(file)
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "buif":
            raise ValueError(f"it holds {getattr(rows, 'dtype', 'an archive')}")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"A file of vectors must be .npy or .csv with numbers only. Received: {file} ({error})"
        ) from error
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def _csv_numbers(file: str) -> np.ndarray:
    with open(file, encoding="utf-8-sig") as stream:  # noqa: PTH123 paths are text here
        first = stream.readline()
        lines = stream if _is_header(first) else itertools.chain([first], stream)
        # Without comments: a line that begins with # is no less a mistake than any other that is not numbers.
        return np.loadtxt(lines, delimiter=",", comments=None, ndmin=2)


def _is_header(line: str) -> bool:
    """Whether every cell of a line is a name, and none a number or the mark of a missing one."""
    cells = [cell.strip().strip('"') for cell in line.split(",")]
    return not any(cell.lower() in _NO_NAMES or _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _grouped(samples: Iterator, size: int) -> Iterator[list]:
    group: list = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
