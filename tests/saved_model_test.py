import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.classifier import MultiLabelClassifier
from mulsupcon_tf.encoder import build_backbone
from mulsupcon_tf.input_pipeline import evaluation_batches
from mulsupcon_tf.saved_model import write_saved_model
from tests.image_folders import LABEL_NAMES, write_image_files

SIZE = 32


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A classifier with random weights, and what it is loaded as from its SavedModel."""
    keras.utils.set_random_seed(0)
    model = MultiLabelClassifier(build_backbone("resnet8", (SIZE, SIZE, 3), train_features=None), len(LABEL_NAMES))
    model.build((None, SIZE, SIZE, 3))
    folder = tmp_path_factory.mktemp("served") / "saved_model"
    write_saved_model(model, folder, label_names=LABEL_NAMES, thresholds={"example_f1": 0.4})
    return model, tf.saved_model.load(str(folder)).signatures


def test_what_is_served_is_what_was_judged(served, tmp_path):
    model, signatures = served
    split = write_image_files(tmp_path / "data").splits["test"]
    ((images, _),) = evaluation_batches(split, batch_size=8, image_size=SIZE)
    probabilities, embedding = model.embed_and_classify(images)
    encoded = tf.constant([pathlib.Path(path).read_bytes() for path in split.inputs.paths])
    answer = signatures["serving_default"](image_bytes=encoded)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answer["embedding"], embedding, rtol=1e-4, atol=1e-4)


def test_a_file_that_is_no_image_is_refused(served):
    _, signatures = served
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["serving_default"](image_bytes=tf.constant([b"no image"]))


def test_label_names_and_thresholds_travel_inside(served):
    metadata = served[1]["metadata"]()
    assert [name.decode() for name in metadata["label_names"].numpy()] == list(LABEL_NAMES)
    assert metadata["threshold_names"].numpy().tolist() == [b"example_f1"]
    assert metadata["thresholds"].numpy().tolist() == pytest.approx([0.4])
