"""Biases that batch normalisation takes away again go into its moving means, also those in files; and the standardisation."""

import tracemalloc

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from mulsupcon_tf.models.backbone_weights import Standardisation, load_weights
from mulsupcon_tf.models.backbones import _with_faster_layers, build_backbone

LAYERS = keras.layers


def biased_network(seed=0):
    """As Keras has it. The first two biases are taken away by normalisation; the others are read elsewhere, or bent."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((7, 7, 2))
    x = LAYERS.BatchNormalization()(LAYERS.Conv2D(3, 3, padding="same")(inputs))
    x = LAYERS.BatchNormalization(epsilon=1e-2)(LAYERS.Conv2D(3, 3, padding="same")(LAYERS.ReLU()(x)))
    two_readers = LAYERS.Conv2D(3, 1)(x)
    x = LAYERS.Add()([two_readers, LAYERS.BatchNormalization()(two_readers)])
    x = LAYERS.BatchNormalization()(LAYERS.Conv2D(3, 1, activation="tanh")(x))
    model = keras.Model(inputs, LAYERS.GlobalAveragePooling2D()(x), name="backbone")
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def images(size=7, channels=2):
    return np.random.default_rng(9).standard_normal((5, size, size, channels)).astype(np.float32)


def num_biases(model):
    return sum(layer.use_bias for layer in model.layers if isinstance(layer, LAYERS.Conv2D))


@pytest.mark.parametrize("training", [False, True])
def test_a_network_without_the_biases_computes_what_it_did(training):
    biased = biased_network()
    model = _with_faster_layers(biased)
    assert (num_biases(biased), num_biases(model)) == (4, 2)
    for _ in range(2):  # in training the statistics move
        got, expected = (each(images(), training=training) for each in (model, biased))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(images()), biased(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["weights.h5", "h5"])
def test_a_file_with_the_biases_is_read(format, tmp_path):
    biased, model, path = biased_network(1), _with_faster_layers(biased_network(2)), tmp_path / f"file.{format}"
    write_weights(biased, path)
    load_weights(model, path)
    np.testing.assert_allclose(model(images()), biased(images()), rtol=1e-4, atol=1e-5)


def write_weights(model, path):
    """In Keras' format of today, or in that of the published files."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)


def test_a_file_of_a_network_that_never_had_them_is_read_as_it_is(tmp_path):
    one, other = (_with_faster_layers(biased_network(seed)) for seed in (1, 2))
    one.save_weights(tmp_path / "file.weights.h5")
    load_weights(other, tmp_path / "file.weights.h5")
    for got, expected in zip(other.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_file_of_another_network_is_refused(tmp_path):
    inputs = keras.Input((7, 7, 2))
    keras.Model(inputs, LAYERS.Conv2D(9, 3)(inputs)).save_weights(tmp_path / "file.weights.h5")
    with pytest.raises(ValueError, match=r"\w"):
        load_weights(_with_faster_layers(biased_network()), tmp_path / "file.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["weights.h5", "h5"])
def test_resnet50_reads_the_published_files_and_those_of_before(format, tmp_path):
    application = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    rng = np.random.default_rng(0)
    for weight in application.weights:
        if weight.name in ("bias", "moving_mean", "beta"):
            weight.assign(0.1 * rng.standard_normal(weight.shape))
    write_weights(application, tmp_path / f"file.{format}")
    model = build_backbone("resnet50", (64, 64, 3), weights=str(tmp_path / f"file.{format}"))
    assert num_biases(model) == 0
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    expected = application(keras.applications.resnet.preprocess_input(pixels.copy()), training=False)
    np.testing.assert_allclose(model(pixels, training=False), expected, rtol=1e-3, atol=1e-3)


def test_the_statistics_of_many_features_take_little_memory_and_are_those_of_all_at_once():
    features = np.random.default_rng(0).gamma(1, 3, (4000, 1000)).astype(np.float32)
    features[:, 70] = 5
    tracemalloc.start()
    found = Standardisation.of(features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.3 * features.nbytes
    variance = features.var(0, dtype=np.float64).astype(np.float32)
    variance[70] = 1
    np.testing.assert_array_equal(found.mean, features.mean(0, dtype=np.float64).astype(np.float32))
    np.testing.assert_array_equal(found.variance, variance)
