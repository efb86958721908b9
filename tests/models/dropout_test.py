import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.dropout import Dropout

KEPT = 1 - 51 / 256  # at a rate of 0.2


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
        call = tf.function(call, input_signature=None if mode == "xla" else signature, jit_compile=mode == "xla")
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
