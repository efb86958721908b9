import json

import pytest
from ai_edge_litert.interpreter import Interpreter

from mulsupcon_tf.serving.litert_model import litert_probabilities, save_litert
from tests.helpers.portable_models import (
    NAMES,
    THRESHOLDS,
    answers_of_saved_model,
    assert_same_answers,
    classifier_and_samples,
)


@pytest.mark.parametrize("kind", ["features", "images"])
def test_litert_gives_the_saved_models_numbers_for_any_number_of_samples(kind, tmp_path):
    model, samples = classifier_and_samples(kind)
    expected = answers_of_saved_model(model, samples, tmp_path / "saved")
    save_litert(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    loaded = Interpreter(str(tmp_path / "model.tflite"))
    assert loaded.get_signature_list() == {
        "serving_default": {"inputs": [kind], "outputs": ["embedding", "probabilities"]}
    }
    run = loaded.get_signature_runner("serving_default")
    assert_same_answers(run(**{kind: samples}), expected)
    few = run(**{kind: samples[:1]})["probabilities"]
    assert abs(few - expected["probabilities"][:1]).max() < 1e-5


def test_label_names_and_thresholds_stand_beside_the_litert_model(tmp_path):
    model, _ = classifier_and_samples("features")
    save_litert(model, tmp_path, label_names=NAMES, thresholds=THRESHOLDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.json", "model.tflite"]
    metadata = json.loads((tmp_path / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["label_names"] == list(NAMES)
    # 0.55 in float32: no more above itself in a language that compares in float64.
    assert metadata["thresholds"] == {"macro_f1": 0.550000011920928955078125, "example_f1": 0.5}
    weights = sum(value.nbytes for value in model.get_weights())
    assert (tmp_path / "model.tflite").stat().st_size > 0.99 * weights  # the converter has found them


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "share", "tolerance"), [("float16", 0.55, 0.002), ("int8", 0.35, 0.05)])
def test_a_quantised_model_is_smaller_and_answers_nearly_the_same(quantize, share, tolerance, tmp_path):
    model, samples = classifier_and_samples("images")
    for name, settings in (("whole", {}), ("small", {"quantize": quantize, "calibration": samples})):
        (tmp_path / name).mkdir()
        save_litert(model, tmp_path / name, label_names=NAMES, thresholds=THRESHOLDS, **settings)
    sizes = {name: (tmp_path / name / "model.tflite").stat().st_size for name in ("whole", "small")}
    assert sizes["small"] < share * sizes["whole"]
    expected = Interpreter(str(tmp_path / "whole" / "model.tflite")).get_signature_runner()(images=samples)
    given = litert_probabilities(tmp_path / "small", [samples[:10], samples[10:]])
    difference = abs(given - expected["probabilities"])
    assert given.dtype == "float32" and 0 < difference.max() < tolerance
