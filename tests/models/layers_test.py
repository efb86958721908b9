"""Our batch normalisation against its formula, and that its models are files like those of Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.encoder import build_backbone
from mulsupcon_tf.models.layers import BatchNormalization

SHAPE, CHANNELS = (6, 5, 4, 3), 3
MOMENTUM, EPSILON = 0.8, 1e-6
# Products of half precision are rounded to 8 or 11 bits.
TOLERANCE = {"float32": 1e-5, "mixed_float16": 5e-3, "mixed_bfloat16": 3e-2}


def layer_with_weights(policy, seed=0):
    layer = BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, dtype=policy)
    layer.build((None, *SHAPE[1:]))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(0.5, 1.5, CHANNELS) for _ in range(4)])
    return layer


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("policy", TOLERANCE)
def test_training_is_the_formula_with_its_gradient(policy, compiled):
    layer, rng = layer_with_weights(policy), np.random.default_rng(1)
    gamma, beta, moving_mean, moving_variance = (np.float64(weight) for weight in layer.get_weights())
    # values of half precision, so that the input itself is not rounded
    x = np.float64(tf.cast(rng.normal(2, 3, SHAPE), layer.compute_dtype))
    upstream = rng.normal(size=SHAPE)

    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            scalar = tf.reduce_sum(tf.cast(y, "float32") * upstream)
        return y, tape.gradient(scalar, [x, *layer.trainable_variables])

    run = tf.function(step) if compiled else step
    y, (to_x, to_gamma, to_beta) = run(tf.constant(x, layer.compute_dtype), tf.constant(upstream, "float32"))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    deviation = np.sqrt(variance + EPSILON)
    normalised = (x - mean) / deviation

    def averaged(values):
        return values.mean((0, 1, 2))

    close = {"rtol": TOLERANCE[policy], "atol": TOLERANCE[policy]}
    assert y.dtype == layer.compute_dtype
    np.testing.assert_allclose(np.float64(y), normalised * gamma + beta, **close)
    expected = gamma / deviation * (upstream - averaged(upstream) - normalised * averaged(upstream * normalised))
    np.testing.assert_allclose(np.float64(to_x), expected, **close)
    sums = {"rtol": TOLERANCE[policy], "atol": TOLERANCE[policy] * upstream.size**0.5}
    np.testing.assert_allclose(to_gamma, (upstream * normalised).sum((0, 1, 2)), **sums)
    np.testing.assert_allclose(to_beta, upstream.sum((0, 1, 2)), **sums)
    np.testing.assert_allclose(layer.moving_mean, MOMENTUM * moving_mean + (1 - MOMENTUM) * mean, rtol=1e-5)
    expected = MOMENTUM * moving_variance + (1 - MOMENTUM) * variance
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)


def test_inference_is_by_the_moving_statistics_which_stay():
    layer = layer_with_weights("float32")
    before = layer.get_weights()
    gamma, beta, mean, variance = before
    x = np.random.default_rng(2).normal(size=SHAPE).astype("float32")
    expected = (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5, atol=1e-6)
    layer.trainable = False  # frozen: inference, also in training
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.get_weights(), before)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((7, 3), {}), ((4, 3, 5, 2), {"axis": 1}), (SHAPE, {"scale": False}), (SHAPE, {"center": False}),
     (SHAPE, {"dtype": "float64"})],
)  # fmt: skip
def test_what_the_operation_cannot_do_is_keras(shape, settings):
    layers = [kind(momentum=MOMENTUM, **settings) for kind in (BatchNormalization, keras.layers.BatchNormalization)]
    x = np.random.default_rng(3).normal(1, 2, shape)
    np.testing.assert_array_equal(*(layer(x, training=True) for layer in layers))
    for ours, theirs in zip(*(layer.get_weights() for layer in layers), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def graph_of_training(model, images):
    """Kinds of the operations of a training pass."""
    graph = tf.function(lambda: model(images, training=True)).get_concrete_function().graph
    return [operation.type for operation in graph.get_operations()]


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50", "efficientnetv2-b0"])
def test_every_image_backbone_uses_it(name):
    model = build_backbone(name, (32, 32, 3))
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    kinds = graph_of_training(model, np.zeros((2, 32, 32, 3), "float32"))
    assert kinds.count("FusedBatchNormV3") == len(layers) > 0


def test_weights_of_keras_own_layers_are_read(tmp_path):
    """Runs of before hold such files."""
    inputs = keras.Input((8, 8, 2))
    networks = [
        keras.Model(inputs, kind()(keras.layers.Conv2D(3, 3)(inputs)), name="backbone")
        for kind in (keras.layers.BatchNormalization, BatchNormalization)
    ]
    networks[0].set_weights([np.full_like(weight, 0.5 + i) for i, weight in enumerate(networks[0].get_weights())])
    networks[0].save_weights(tmp_path / "old.weights.h5")
    networks[1].load_weights(tmp_path / "old.weights.h5")
    for ours, theirs in zip(*(network.get_weights() for network in networks), strict=True):
        np.testing.assert_array_equal(ours, theirs)
