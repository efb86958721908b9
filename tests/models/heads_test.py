import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.heads import build_label_layer, build_projection_head


def test_a_label_layer_is_built_and_is_the_linear_map():
    keras.utils.set_random_seed(0)
    layer = build_label_layer(5, 3, "distribution_layer")
    assert (layer.name, layer.kernel.shape, layer.bias.shape) == ("distribution_layer", (5, 3), (3,))
    start = layer.kernel.numpy()
    assert 0.1 < np.abs(start).max() <= np.sqrt(6 / (5 + 3))  # drawn as Glorot and Bengio do
    features = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(layer(features), features @ start, rtol=1e-5, atol=1e-6)
    kernel, bias = np.random.default_rng(1).normal(size=(5, 3)), np.array([1.0, -2.0, 0.5])
    layer.set_weights([kernel, bias])
    np.testing.assert_allclose(layer(features), features @ kernel + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_label_layer_computes_in_float32_under_a_mixed_policy(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    layer = build_label_layer(2, 2, "layer")
    layer.set_weights([np.array([[1.0, 1e-3], [1e-4, 1.0]]), np.zeros(2)])
    got = layer(tf.constant([[1.0, 2.0]], policy.removeprefix("mixed_")))
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, [[1.0002, 2.001]], rtol=1e-6)  # 1.0002 is no half-precision number


def test_a_label_layer_survives_saving(tmp_path):
    model = keras.Sequential([keras.Input((5,)), build_label_layer(5, 3, "head")])
    model.set_weights([np.arange(15.0).reshape(5, 3), np.array([1.0, 2.0, 3.0])])
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(restored(np.ones((1, 5))), [[31.0, 37.0, 43.0]])


def test_the_projection_head_is_two_layers_with_normalisation_between():
    head = build_projection_head(6, 3)
    assert (head.name, head.input_shape, head.output_shape) == ("projection_head", (None, 6), (None, 3))
    rng = np.random.default_rng(0)
    head.set_weights([rng.uniform(0.5, 1.5, weight.shape) - (weight.ndim > 1) for weight in head.get_weights()])
    first, bias, gamma, beta, mean, variance, second, offset = head.get_weights()
    features = rng.normal(size=(4, 6)).astype(np.float32)
    hidden = (features @ first + bias - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(head(features), np.maximum(hidden, 0) @ second + offset, rtol=1e-4, atol=1e-4)
    assert not np.allclose(np.linalg.norm(head(features), axis=1), 1)
