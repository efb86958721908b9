import json
import sys

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.onnx_model import save_onnx
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.portable_models import (
    NAMES,
    THRESHOLDS,
    answers_of_saved_model,
    assert_same_answers,
    classifier_and_samples,
    with_neighbours,
)


@pytest.mark.parametrize("kind", ["features", "images"])
def test_onnx_gives_the_saved_models_numbers_for_any_number_of_samples(kind, tmp_path):
    model, samples = classifier_and_samples(kind)
    expected = answers_of_saved_model(model, samples, tmp_path / "saved")
    save_onnx(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(given.name, given.shape[1:]) for given in session.get_inputs()] == [(kind, list(samples.shape[1:]))]
    names = ["probabilities", "embedding"]
    assert_same_answers(dict(zip(names, session.run(names, {kind: samples}), strict=True)), expected)
    first = {name: value[:1] for name, value in expected.items()}
    (probabilities,) = session.run(["probabilities"], {kind: samples[:1]})
    assert abs(probabilities - first["probabilities"]).max() < 1e-5


def test_onnx_gives_the_saved_models_numbers_of_a_calibrated_mixture_with_neighbours(tmp_path):
    model, samples = classifier_and_samples("features")
    mixed, asked = with_neighbours(model, samples), samples[::-1] * np.float32(0.9)
    expected = answers_of_saved_model(mixed, asked, tmp_path / "saved")
    save_onnx(mixed, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    names = ["probabilities", "embedding"]
    assert_same_answers(dict(zip(names, session.run(names, {"features": asked}), strict=True)), expected)


def test_label_names_and_thresholds_travel_in_the_onnx_file(tmp_path):
    model, _ = classifier_and_samples("features")
    save_onnx(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["label_names"]) == list(NAMES)
    # 0.55 in float32: no more above itself in a language that compares in float64.
    assert json.loads(metadata["thresholds"]) == {"macro_f1": 0.550000011920928955078125, "example_f1": 0.5}


def test_an_operation_without_onnx_is_named_in_one_line(tmp_path):
    inputs = keras.Input((10,))
    erfc = keras.layers.Lambda(tf.math.erfc)(inputs)
    model = MultiLabelClassifier(keras.Model(inputs, erfc), len(NAMES))
    with pytest.raises(InputError, match=r"must know all operations .*Received: a model with Erfc") as raised:
        save_onnx(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # what an import finds where the package is missing
    model = MultiLabelClassifier(build_backbone("resnet8", (20, 16, 3)), len(NAMES))
    with pytest.raises(
        InputError, match=r"pip install '\.\[onnx\]' in the checkout\. Received: .* without onnx"
    ) as raised:
        save_onnx(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    assert "\n" not in str(raised.value)
