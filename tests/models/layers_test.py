"""Our batch normalisation against its formula, and that its models are files like those of Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.backbones import build_application, build_backbone
from mulsupcon_tf.models.layers import BatchNormalization, Conv2D, Dropout, move_towards

KEPT = 1 - 51 / 256  # at a rate of 0.2

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

    run = tf.function(step, autograph=False) if compiled else step
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
    [
        ((7, 3), {}),
        ((4, 3, 5, 2), {"axis": 1}),
        (SHAPE, {"scale": False}),
        (SHAPE, {"center": False}),
        (SHAPE, {"dtype": "float64"}),
    ],
)
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


@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "resnet50",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "efficientnetv2-b0")),
    ],
)
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
    ("name", "biases"),
    [
        pytest.param("resnet50", 0, marks=pytest.mark.slow),
        ("convnext-tiny", 4 + 18 * 3),
        pytest.param("efficientnetv2-b0", 16 * 2, marks=pytest.mark.slow),
    ],
)
def test_the_biases_that_a_network_trains_are_those_that_no_normalisation_takes_away(name, biases):
    model = build_application(name, (32, 32, 3))
    trained = [variable for variable in model.trainable_variables if variable.name == "bias"]
    assert len(trained) == biases


def drop(shape, *, seed=0, rate=0.2, dtype="float32"):
    return np.asarray(Dropout(rate, seed=seed, dtype=dtype)(tf.ones(shape, dtype), training=True), np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_units_are_dropped_at_the_rate_and_the_others_make_up_for_it(dtype):
    outputs = drop((1000, 400), dtype=dtype)
    assert set(np.unique(outputs)) == {0.0, float(tf.cast(1 / KEPT, dtype))}
    deviation = np.sqrt(KEPT * (1 - KEPT) / outputs.size)
    assert np.mean(outputs > 0) == pytest.approx(KEPT, abs=4 * deviation)


def test_units_are_dropped_independently_of_their_neighbours():
    kept = drop((1000, 400)) > 0
    for one, other in ((kept[:, 1:], kept[:, :-1]), (kept[:, 4:], kept[:, :-4]), (kept[1:], kept[:-1])):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size)


def test_each_call_draws_anew_and_a_seed_gives_the_same_calls():
    layers = [Dropout(0.5, seed=3) for _ in range(2)]
    (first, second), again = ([np.asarray(layer(tf.ones((8, 8)), training=True)) for _ in range(2)] for layer in layers)
    assert np.any(first != second)
    np.testing.assert_array_equal([first, second], again)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 7)])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_any_shape_is_taken_also_one_that_is_known_only_while_running(shape, mode):
    layer, values = Dropout(0.4, seed=0), np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def call(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = layer(values, training=True)
        return outputs, tape.gradient(outputs, values)

    signature = [tf.TensorSpec([None] * len(shape))]
    if mode != "eager":
        call = tf.function(
            call, autograph=False, input_signature=None if mode == "xla" else signature, jit_compile=mode == "xla"
        )
    outputs, gradient = call(tf.constant(values))
    np.testing.assert_allclose(outputs, values * gradient, rtol=1e-6)
    assert {round(float(each), 5) for each in np.unique(gradient)} <= {0.0, round(256 / 154, 5)}


def test_otherwise_it_is_kerass_own(tmp_path):
    values = tf.ones((4, 6))
    np.testing.assert_array_equal(Dropout(0.5)(values), values)
    np.testing.assert_array_equal(Dropout(0.0)(values, training=True), values)
    rows = np.asarray(Dropout(0.5, noise_shape=(4, 1), seed=0)(values, training=True))
    assert np.all(rows == rows[:, :1])
    model = keras.Sequential([keras.Input((6,)), Dropout(0.3)])
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.models.load_model(tmp_path / "model.keras").layers
    assert (type(loaded), loaded.rate, loaded.name) == (Dropout, 0.3, model.layers[0].name)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_average_moves_by_its_share_of_the_way(compiled):
    rng = np.random.default_rng(0)
    start, values = rng.standard_normal((3, 2)), rng.standard_normal((4, 3, 2))
    average = keras.Variable(start.astype(np.float32))

    def step(value):
        move_towards(average, value, tf.constant(0.3))

    step = tf.function(step, autograph=False) if compiled else step
    for value in values:
        step(tf.constant(value, tf.float32))
        start = 0.7 * start + 0.3 * value
    np.testing.assert_allclose(average.numpy(), start, rtol=1e-5, atol=1e-6)


def test_a_variable_is_a_value_too_and_keeps_its_own():
    average, value = keras.Variable(np.zeros(2, np.float32)), keras.Variable(np.array([4.0, -8.0], np.float32))
    move_towards(average, value, 0.25)
    np.testing.assert_array_equal(average.numpy(), [1.0, -2.0])
    np.testing.assert_array_equal(value.numpy(), [4.0, -8.0])
