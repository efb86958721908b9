import dataclasses
import gc
import weakref

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands import outputs
from mulsupcon_tf.commands.phase import build_pretrainer
from mulsupcon_tf.config.defaults import resolve_pretraining
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from tests.helpers.tiny_datasets import SIZES, tiny_vectors


@pytest.fixture(scope="module")
def encoder():
    """A pretraining model with its settings and data."""
    dataset = tiny_vectors()
    config = PretrainConfig(dataset="npz", data_dir="none", workdir="none", batch_size=7, queue_size=8)
    config = resolve_pretraining(config, input_shape=dataset.input_shape, num_train=SIZES["train"])
    keras.utils.set_random_seed(0)
    return build_pretrainer(config, dataset, steps_per_epoch=4), dataset, config


def test_a_split_is_predicted_as_a_whole_whatever_its_batches(monkeypatch):
    monkeypatch.setattr(outputs, "EVALUATION_BATCH", 7)
    dataset = tiny_vectors()
    classifier = MultiLabelClassifier(build_backbone("mlp", (10,), train_features=dataset.train_features), 4)
    found = outputs.predict_split(classifier, dataset.splits["test"], None)
    probabilities, embedding = classifier.embed_and_classify(dataset.splits["test"].inputs)
    assert found.keys() == {"probabilities", "embedding"}
    np.testing.assert_allclose(found["probabilities"], probabilities, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-5, atol=1e-6)


@pytest.fixture
def traces(monkeypatch):
    """How often each of the functions that look at a split was traced, by its name."""
    counts = {}

    def counted(name):
        function = getattr(outputs, name)

        def of_model(model, inputs):
            counts[name] = counts.get(name, 0) + 1
            return function(model, inputs)

        return of_model

    for name in ("_predict", "_log_odds", "_encode"):
        monkeypatch.setattr(outputs, name, counted(name))
    return counts


def test_splits_are_looked_at_by_one_graph_whatever_their_last_batch_and_by_another_after_calibration(
    monkeypatch, traces
):
    monkeypatch.setattr(outputs, "EVALUATION_BATCH", 7)
    dataset = tiny_vectors()
    classifier = MultiLabelClassifier(build_backbone("mlp", (10,), train_features=dataset.train_features), 4)
    validation, test = dataset.splits["validation"], dataset.splits["test"][:10]

    def assert_predicted():
        for split in (validation, test, test[:2]):
            found = outputs.predict_split(classifier, split, None)["probabilities"]
            np.testing.assert_allclose(found, classifier.embed_and_classify(split.inputs)[0], rtol=1e-5, atol=1e-6)
        return found

    before = assert_predicted()
    assert traces == {"_predict": 1}
    outputs.calibrate(classifier, validation, None, with_offset=True)
    assert classifier.is_calibrated
    assert np.abs(assert_predicted() - before).max() > 1e-3
    outputs.calibrate(classifier, validation, None, with_offset=True)
    assert traces == {"_predict": 2, "_log_odds": 1}


def test_neighbours_are_looked_at_by_one_graph_in_all_epochs(encoder, traces):
    model, dataset, config = encoder
    for _ in range(2):
        outputs.judge_by_neighbours(model, dataset, config)
    outputs.encode(model, dataset, "test", config, np.arange(5))
    assert traces == {"_encode": 1}


def test_a_classifier_that_was_looked_at_goes_when_nothing_holds_it():
    dataset = tiny_vectors()
    classifier = MultiLabelClassifier(build_backbone("mlp", (10,), train_features=dataset.train_features), 4)
    outputs.predict_split(classifier, dataset.splits["test"], None)
    gone = weakref.ref(classifier)
    del classifier
    gc.collect()
    assert gone() is None


def test_rows_are_encoded_as_in_the_whole_split_and_leave_the_model_as_it_is(encoder):
    model, dataset, config = encoder
    before = [variable.numpy() for variable in model.variables]
    whole = outputs.encode(model, dataset, "train", config)
    rows = np.array([40, 3, 3, 17])
    some = outputs.encode(model, dataset, "train", config, rows)
    assert whole.keys() == {"features", "embedding", "distribution"}
    for name, values in whole.items():
        assert len(values) == SIZES["train"]
        np.testing.assert_allclose(some[name], values[rows], rtol=1e-5, atol=1e-6)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_neighbours_with_the_same_labels_judge_best(encoder):
    model, dataset, config = encoder
    same = dataclasses.replace(dataset, splits=dict.fromkeys(dataset.splits, dataset.splits["train"]))
    shuffled = dataclasses.replace(same.splits["train"], labels=same.splits["train"].labels[::-1])
    assert outputs.judge_by_neighbours(model, same, config) > outputs.judge_by_neighbours(
        model, dataclasses.replace(same, splits=same.splits | {"validation": shuffled}), config
    )
    nothing = dataclasses.replace(shuffled, labels=np.zeros_like(shuffled.labels))
    empty = dataclasses.replace(same, splits=same.splits | {"validation": nothing})
    assert outputs.judge_by_neighbours(model, empty, config) is None
