import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.backbones import build_application
from mulsupcon_tf.models.convolution import Conv2D


def network(convolution, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = convolution(3, 3, bias_initializer="random_normal")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x)))


def test_a_layer_computes_what_kerass_own_does_and_does_not_train_its_bias():
    ours, theirs = network(Conv2D), network(keras.layers.Conv2D)
    images = np.random.default_rng(1).standard_normal((4, 6, 6, 2)).astype(np.float32)
    np.testing.assert_array_equal(ours.predict(images, verbose=0), theirs.predict(images, verbose=0))
    names = [[variable.name for variable in model.trainable_variables] for model in (theirs, ours)]
    assert names == [["kernel", "bias", "gamma", "beta"], ["kernel", "gamma", "beta"]]
    assert len(ours.weights) == len(theirs.weights)


def test_what_is_left_out_is_a_gradient_of_0():
    model = network(keras.layers.Conv2D)
    images = tf.random.stateless_normal((8, 6, 6, 2), (0, 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) ** 3)
    gradients = dict(
        zip([v.name for v in model.trainable_variables], tape.gradient(loss, model.trainable_variables), strict=True)
    )
    assert float(tf.reduce_max(tf.abs(gradients["kernel"]))) > 0.1
    assert float(tf.reduce_max(tf.abs(gradients["bias"]))) < 1e-4


def test_a_model_that_was_saved_and_loaded_does_not_train_it_either(tmp_path):
    network(Conv2D).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [variable.name for variable in loaded.trainable_variables] == ["kernel", "gamma", "beta"]


def test_a_layer_without_a_bias_is_left_alone():
    layer = Conv2D(2, 1, use_bias=False)
    layer.build((None, 4, 4, 3))
    assert [variable.name for variable in layer.trainable_variables] == ["kernel"]


@pytest.mark.parametrize(
    ("name", "biases"), [("resnet50", 0), ("convnext-tiny", 4 + 18 * 3), ("efficientnetv2-b0", 16 * 2)]
)
def test_the_biases_that_a_network_trains_are_those_that_no_normalisation_takes_away(name, biases):
    model = build_application(name, (32, 32, 3))
    trained = [variable for variable in model.trainable_variables if variable.name == "bias"]
    assert len(trained) == biases
