"""Export of a classifier for LiteRT (TensorFlow Lite): phones and small devices."""

import json
import pathlib

import tensorflow as tf

from mulsupcon_tf.evaluation.thresholds import Thresholds, as_float32
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import numeric_function

MODEL_FILE, METADATA_FILE = "model.tflite", "metadata.json"


def save_litert(
    model: MultiLabelClassifier, folder: pathlib.Path, *, label_names: tuple[str, ...], thresholds: Thresholds
) -> None:
    """Writes `model.tflite`, float32, and `metadata.json` beside it.

    Signature `serving_default`; input and outputs are those of `numeric_function`, N is free.

    Args:
        model: in float32.
        folder: exists.
        label_names: C names.
        thresholds: decision threshold by metric name, one or C.
    """
    function = numeric_function(model)
    # The converter takes the weights of variables that are attributes of the object; of those that a Keras model keeps
    # it finds none, and writes NaN without a word (TensorFlow 2.21).
    holder = tf.Module()
    holder.weights = [variable.value for variable in model.variables]
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], holder).convert()
    (folder / MODEL_FILE).write_bytes(content)
    metadata = {"label_names": list(label_names), "thresholds": as_float32(thresholds)}
    (folder / METADATA_FILE).write_text(json.dumps(metadata, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
