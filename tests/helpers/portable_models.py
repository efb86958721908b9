"""Classifiers for the tests of ONNX and LiteRT, and what they answer in TensorFlow."""

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.neighbour_classifier import NeighbourClassifier
from mulsupcon_tf.serving.saved_model import write_saved_model
from tests.helpers.tiny_datasets import IMAGE_SHAPE, LABEL_NAMES, tiny_images, tiny_vectors

NAMES = (*LABEL_NAMES[:-1], 'für "alle"; ☃')
THRESHOLDS = {"macro_f1": 0.55, "example_f1": 0.5}
TOLERANCE = 2e-6  # of probabilities, float32; embeddings: the same relative to their largest value


def classifier_and_samples(kind):
    """Random weights, biases and statistics, none of them at its initial value, and samples of the kind."""
    keras.utils.set_random_seed(0)
    dataset = tiny_vectors() if kind == "features" else tiny_images()
    backbone = (
        build_backbone("mlp", (10,), train_features=dataset.train_features)
        if kind == "features"
        else build_backbone("resnet8", IMAGE_SHAPE)
    )
    model = MultiLabelClassifier(backbone, len(NAMES))
    rng = np.random.default_rng(0)
    model.set_weights([value + (value.ndim == 1) * rng.uniform(0, 0.1, value.shape) for value in model.get_weights()])
    return model, dataset.splits["test"].inputs.astype(np.float32)


def with_neighbours(model, samples):
    """The classifier of vectors beside a gallery of these samples, all of it calibrated, as `finetune --mix_neighbours` leaves it."""
    settings = {"num_neighbours": 5, "temperature": 0.1, "share": 0.6, "floor": 0.02}
    mixed = NeighbourClassifier(model.backbone, model.num_labels, gallery_size=len(samples), **settings)
    mixed.head.set_weights(model.head.get_weights())
    labels = np.random.default_rng(1).integers(0, 2, (len(samples), model.num_labels)).astype(np.float32)
    mixed.fill_gallery(samples, np.asarray(model.embed_and_classify(samples)[1]), labels)
    mixed.calibrate(1.6, -0.3)
    return mixed


def answers_of_saved_model(model, samples, folder):
    """What the SavedModel gives: for vectors by its signature, for images by PNG files of the network's own size."""
    write_saved_model(model, folder, label_names=NAMES, thresholds=THRESHOLDS)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    if samples.ndim == 2:
        return {name: value.numpy() for name, value in serve(features=tf.constant(samples)).items()}
    encoded = tf.stack([tf.io.encode_png(image) for image in samples.astype(np.uint8)])
    return {name: value.numpy() for name, value in serve(image_bytes=encoded).items()}


def assert_same_answers(given, expected):
    assert set(given) == set(expected) == {"probabilities", "embedding"}
    assert np.ptp(expected["probabilities"], axis=0).max() > 0.01
    np.testing.assert_allclose(given["probabilities"], expected["probabilities"], atol=TOLERANCE, rtol=0)
    scale = np.abs(expected["embedding"]).max()
    np.testing.assert_allclose(given["embedding"] / scale, expected["embedding"] / scale, atol=TOLERANCE, rtol=0)
