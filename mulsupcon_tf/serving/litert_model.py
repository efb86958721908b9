"""Export of a classifier for LiteRT (TensorFlow Lite): phones and small devices."""

import json
import pathlib
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from mulsupcon_tf.evaluation.thresholds import Thresholds, as_float32
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import numeric_function
from mulsupcon_tf.utils.optional_packages import require_litert

MODEL_FILE, METADATA_FILE = "model.tflite", "metadata.json"


def save_litert(
    model: MultiLabelClassifier,
    folder: pathlib.Path,
    *,
    label_names: tuple[str, ...],
    thresholds: Thresholds,
    quantize: str | None = None,
    calibration: np.ndarray | None = None,
) -> None:
    """Writes `model.tflite` and `metadata.json` beside it; inputs and outputs are float32 however weights are stored.

    Signature `serving_default`; input and outputs are those of `numeric_function`, N is free.

    Args:
        model: in float32.
        folder: exists.
        label_names: C names.
        thresholds: decision threshold by metric name, one or C.
        quantize: "float16": weights in half precision; "int8": weights and activations in 8 bits where an operation can.
        calibration: `[M, ...]` float32 samples by whose activations int8 is scaled.
    """
    function = numeric_function(model)
    # The converter takes the weights of variables that are attributes of the object; of those that a Keras model keeps
    # it finds none, and writes NaN without a word (TensorFlow 2.21).
    holder = tf.Module()
    holder.weights = [variable.value for variable in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        assert calibration is not None
        converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
    (folder / MODEL_FILE).write_bytes(converter.convert())
    metadata = {"label_names": list(label_names), "thresholds": as_float32(thresholds)}
    (folder / METADATA_FILE).write_text(json.dumps(metadata, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def litert_probabilities(folder: pathlib.Path, batches: Iterable[np.ndarray]) -> np.ndarray:
    """What the file that `save_litert` wrote gives, `[N, C]` float32.

    Args:
        folder: of the file.
        batches: of samples, N together.

    Raises:
        InputError: LiteRT is not installed.
    """
    run = require_litert().Interpreter(str(folder / MODEL_FILE)).get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    return np.concatenate([run(**{name: batch})["probabilities"] for batch in batches])
